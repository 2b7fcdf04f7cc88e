"""Multi-label, regression and long documents through all verbs, and the mistakes that only they know."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from runs import FILLERS, LABELS, TELLING, Problem, random_rows, read_metrics, write_csv

from jaxbert.cli.main import main

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


def told(count: int, seed: int) -> list[tuple[str, set[str]]]:
    """Return short texts, and of which labels they hold a telling word: of none, one or both."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        labels = {label for label in LABELS if rng.random() < 0.5}
        words = rng.choices(FILLERS, k=rng.randint(1, 4)) + [rng.choice(TELLING[label]) for label in sorted(labels)]
        rows.append((" ".join(rng.sample(words, len(words))), labels))
    return rows


def emotions(count: int, seed: int) -> list[tuple[str, str]]:
    """Return texts with the labels that they tell."""
    return [(text, ";".join(sorted(labels))) for text, labels in told(count, seed)]


def scores(count: int, seed: int) -> list[tuple[str, str]]:
    """Return texts with how good they are."""
    return [(text, f"{('good' in labels) - ('bad' in labels)}.5") for text, labels in told(count, seed)]


def documents(count: int, seed: int) -> list[tuple[str, str]]:
    """Return long texts of which the end tells."""
    return [(" ".join(["w1"] * 14) + " " + text, label) for text, label in random_rows(count, seed, 6)]


ROWS = {"multi_label": emotions, "regression": scores, "documents": documents}
SETTINGS = {
    "multi_label": {"task": "multi_label", "data__label_separator": ";"},
    "regression": {"task": "regression", "train__best_metric": "spearman"},
    "documents": {
        "data__long_texts": "windows",
        "data__max_length": 12,
        "data__window_stride": 3,
        "model__pooling": "mean",
    },
}
METRIC = {"multi_label": "f1_micro", "regression": "spearman", "documents": "accuracy"}
LEARNED = {"multi_label": 0.9, "regression": 0.75, "documents": 0.9}
"""Far above what a guess reaches: 0.67, 0 and 0.5."""


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request, problem):
    """The name of a task, its finished run and its held-out rows."""
    name = request.param
    train, dev = (write_csv(problem.folder / f"{name}{i}.csv", ROWS[name](n, 10 * i)) for i, n in ((1, 160), (3, 40)))
    run = problem.folder / name
    files = {"data__train": train, "data__validation": dev, "data__test": dev, "train__output_dir": run}
    often = {"train__epochs": 12, "train__eval_every": 60, "train__log_every": 20}
    assert problem.train(**files, **SETTINGS[name], **often, optimizer__learning_rate=3e-3) == 0
    return name, run, dev


def output_of(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 0
    return capsys.readouterr().out


def test_it_learns(trained):
    name, run, _ = trained
    summary = json.loads((run / "summary.json").read_text())
    assert summary["eval"][METRIC[name]] > LEARNED[name]
    assert summary["test"][METRIC[name]] == pytest.approx(summary["eval"][METRIC[name]])
    assert any(f"eval_{METRIC[name]}" in line for line in read_metrics(run))


def test_evaluate_gives_the_metrics_of_the_run(trained, capsys):
    name, run, dev = trained
    separator = ("--label_separator", ";") if name == "multi_label" else ()
    found = json.loads(output_of(capsys, "evaluate", "--model", run, "--data", dev, *separator))
    expected = json.loads((run / "summary.json").read_text())["eval"]
    assert found == expected


@pytest.mark.parametrize("trained", ["multi_label", "regression"], indirect=True)  # windows are ours alone
def test_answers_and_pytorch_agree(trained, capsys):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name, run, dev = trained
    answers = [json.loads(line) for line in output_of(capsys, "predict", "--model", run, "--input", dev).splitlines()]
    assert len(answers) == 40
    model = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    problems = {"multi_label": "multi_label_classification", "regression": "regression"}
    assert model.config.problem_type == problems.get(name, "single_label_classification")
    texts = [text for text, _ in ROWS[name](40, 30)]
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    if name == "regression":
        np.testing.assert_allclose([answer["score"] for answer in answers], logits[:, 0], atol=1e-4)
        return
    found = [[answer["probabilities"][label] for label in ("bad", "good")] for answer in answers]
    np.testing.assert_allclose(found, logits.sigmoid(), atol=1e-4)
    threshold = json.loads((run / "export" / "config.json").read_text())["jaxbert"]["threshold"]
    for answer in answers:
        assert set(answer["labels"]) == {k for k, p in answer["probabilities"].items() if p >= threshold}


@pytest.mark.parametrize("trained", ["documents"], indirect=True)
def test_the_end_of_a_long_text_counts(trained, capsys):
    """Cut at its end, a text tells nothing; with the settings that the export keeps, it does."""
    _, run, dev = trained
    found = json.loads(output_of(capsys, "evaluate", "--model", run, "--data", dev))
    assert found["accuracy"] > 0.9
    config = run / "export" / "config.json"
    content = config.read_text()
    config.write_text(json.dumps(json.loads(content) | {"jaxbert": {}}))
    try:
        cut = json.loads(output_of(capsys, "evaluate", "--model", run, "--data", dev, "--max_length", "12"))
    finally:
        config.write_text(content)
    assert cut["accuracy"] < 0.75


@pytest.mark.parametrize("trained", ["documents"], indirect=True)
def test_windows_shorter_than_those_of_training(trained, capsys):
    """What they shared there may be more than they are long here."""
    _, run, dev = trained
    for length in ("3", "5"):
        answers = output_of(capsys, "predict", "--model", run, "--input", dev, "--max_length", length)
        assert len(answers.splitlines()) == 40


def refused(capsys, problem: Problem, **changes: object) -> str:
    """Return the line that refuses a run."""
    capsys.readouterr()
    assert problem.train(train__output_dir=problem.folder / "refused", **changes) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:")]
    assert not (problem.folder / "refused").exists()
    return line.removeprefix("error: ")


def test_mistakes_are_one_line(problem, tmp_path, capsys):
    words = TELLING["bad"]
    no_number = write_csv(tmp_path / "a.csv", [("w1", "1"), ("w2", "2.5"), (words[0], "high")])
    line = refused(capsys, problem, task="regression", data__train=no_number)
    assert (
        line
        == f"{no_number}, row 4: column 'label' holds 'high', but a score is a finite number: correct it, or remove the row"
    )
    line = refused(capsys, problem, task="regression", model__num_labels=1)
    assert "a score is a finite number" in line  # one output is what a regression has
    numbers = {"task": "regression", "data__train": write_csv(tmp_path / "b.csv", [("w1", "1"), ("w2", "2.5")])}
    assert "model.num_labels" in refused(capsys, problem, **numbers, model__num_labels=3)
    assert "train.class_weights" in refused(capsys, problem, **numbers, train__class_weights="balanced")
    dev = write_csv(tmp_path / "dev.csv", [("w1", "bad,odd")])
    line = refused(capsys, problem, task="multi_label", data__validation=dev)
    assert line.startswith(f"{dev}, row 2: label 'odd' is unknown; the labels known from training are 'bad', 'good'")
    line = refused(capsys, problem, data__long_texts="windows", data__text_pair="label")
    assert line.startswith("data.long_texts is windows, which does not work with pairs (data.text_pair)")
    line = refused(capsys, problem, data__long_texts="windows", data__max_length=12, data__window_stride=10)
    assert line == "data.window_stride is 10, but it must be from 0 to below data.max_length - 2 (10)"
    line = refused(
        capsys, problem, task="multi_label", train__best_metric="accuracy", data__validation=problem.folder / "dev.csv"
    )
    assert line.startswith("train.best_metric is 'accuracy', but it must be one of f1_micro")


def test_a_folder_as_data_set_of_several(problem, capsys):
    files = json.dumps({"one": str(problem.folder / "dev.csv"), "two": str(Path("nowhere.csv"))})
    assert refused(capsys, problem, data__validation=files).startswith("nowhere.csv: no such file")
