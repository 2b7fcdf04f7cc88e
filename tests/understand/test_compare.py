"""Runs beside each other: the same numbers as in their summaries, tests of their difference, and the texts behind it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reports import Parsed
from runs import VOCAB, Problem, make_config, random_rows, write_csv
from scipy.special import log_softmax
from token_tasks import write_problem
from transformers import BertTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import task_class
from jaxbert.tasks.base import Outcome, count_predictions
from jaxbert.train.evaluate import Predictor
from jaxbert.train.inference import Finished
from jaxbert.understand.judged import judge
from jaxbert.understand.records import read_texts
from jaxbert.understand.reopen import reopen


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A run with a validation set and a test set."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    sets = {"data__validation": problem.folder / "dev.csv", "data__test": problem.folder / "train.csv"}
    assert problem.train(**sets, train__epochs=1, train__output_dir=problem.folder / "first") == 0
    return problem.folder / "first"


@pytest.fixture(scope="module")
def second(first) -> Path:
    """A copy of the run whose model answers twelve examples of each set the other way round."""
    copy = shutil.copytree(first, first.with_name("second"))
    turned = {
        name: np.concatenate([rows[:12, ::-1], rows[12:]]) for name, rows in np.load(first / "predictions.npz").items()
    }
    np.savez(copy / "predictions.npz", **turned)
    return copy


@pytest.fixture(autouse=True)
def _nothing_is_predicted_again(monkeypatch, request):
    if "first" in request.fixturenames:
        request.getfixturevalue("first")
        monkeypatch.setattr(Predictor, "pieces", lambda *_: pytest.fail("predicted again"))


def test_two_runs(first, second):
    found = jaxbert.compare([first, second])
    assert (found.task, found.set_name, found.other_sets, found.examples) == (
        "classification",
        "test",
        ["validation"],
        100,
    )
    summary = json.loads((first / "summary.json").read_text())["test"]
    assert found.metrics["first"]["accuracy"] == summary["accuracy"]
    assert found.metrics["first"]["loss"] == pytest.approx(summary["loss"])
    (pair,) = found.pairs
    accuracy, macro = pair.differences
    before, after = (found.metrics[name] for name in ("first", "second"))
    assert accuracy.value == pytest.approx(after["accuracy"] - before["accuracy"])
    assert macro.value == pytest.approx(after["f1_macro"] - before["f1_macro"])
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert pair.differing == len(pair.shown) == 12
    test = pair.mcnemar
    assert test["only_first_right"] + test["only_second_right"] == 12
    assert accuracy.value == pytest.approx((test["only_second_right"] - test["only_first_right"]) / 100)
    rows = list(random_rows(100))
    for example in pair.shown:
        text, label = rows[int(example.row) - 2]  # the header is line 1
        assert (example.text, example.expected) == (text, label)
        assert {example.first, example.second} == {"bad", "good"}
        assert example.closer == ("first" if example.first == label else "second")
    json.dumps(found.to_dict())


def test_the_command_writes_tables_page_and_numbers(first, second, tmp_path, capsys):
    page, output = tmp_path / "page.html", tmp_path / "compare.json"
    runs = [str(first), str(second)]
    assert main(["compare", *runs, "--set", "validation", "--page", str(page), "--output", str(output)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "validation, 37 examples" in said
    assert "second minus first" in said
    assert "12 of 37 answers differ" in said
    assert f"page: {page}; all numbers: {output}" in said
    content = json.loads(output.read_text())
    assert content["set_name"] == "validation"
    assert (
        content["metrics"]["first"]["accuracy"] == json.loads((first / "summary.json").read_text())["eval"]["accuracy"]
    )
    text = page.read_text()
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert Parsed(text).tags.count("script") == 1  # its own, which sorts tables
    for example in content["pairs"][0]["shown"]:
        assert html.escape(example["text"]) in text


def test_names_and_texts_are_escaped(first, second, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "<script>alert('&')</script>"
    for run in (first, second):
        shutil.copytree(run, tmp_path / f"{evil.replace('/', '')} {run.name}")
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    found = jaxbert.compare(names)
    shown = [dataclasses.replace(example, text=evil, first=evil) for example in found.pairs[0].shown]
    from jaxbert.understand.compare_page import comparison_page

    page = comparison_page(dataclasses.replace(found, pairs=[dataclasses.replace(found.pairs[0], shown=shown)]))
    assert Parsed(page).tags.count("script") == 1
    assert page.count(html.escape(evil)) >= 2 * len(shown)


@pytest.mark.parametrize("change", ["labels", "texts", "rows"])
def test_other_held_out_data_are_refused(first, tmp_path, capsys, change):
    other = shutil.copytree(first, tmp_path / "other")
    rows = [list(row) for row in random_rows(100)]
    if change == "labels":
        rows[5][1] = "bad" if rows[5][1] == "good" else "good"
    elif change == "texts":
        rows[5][0] += " w1"
    else:
        rows.pop()
    data = write_csv(tmp_path / "train.csv", rows)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace(f"test: {first.parent / 'train.csv'}", f"test: {data}"))
    (other / "data.json").unlink()  # as of an older version, which did not keep what its data were
    predictions = dict(np.load(first / "predictions.npz"))
    np.savez(other / "predictions.npz", **(predictions | {"test": predictions["test"][: len(rows)]}))
    assert main(["compare", str(first), str(other), "--page=null"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    expected = {
        "labels": f"the label of row 7 of the set test is {list(random_rows(100))[5][1]!r} in first and {rows[5][1]!r}",
        "texts": "the text of row 7 of the set test is",
        "rows": "the set test has 100 examples in first and 99 in other",
    }
    assert expected[change] in last
    assert last.endswith("compare runs with the same held-out data")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "needs at least two run folders"),
        (["FIRST"], "is named twice"),
        (["no/such/run"], "is not a run folder"),
        (["SECOND", "--set=tset"], "--set tset is not a held-out set of all runs (first: validation, test;"),
    ],
)
def test_a_mistake_is_one_line(first, second, capsys, more, message):
    words = [{"FIRST": str(first) + "/", "SECOND": str(second)}.get(word, word) for word in more]
    assert main(["compare", str(first), *words, "--page=null"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_a_diverged_model_is_refused(first, tmp_path, capsys):
    other = shutil.copytree(first, tmp_path / "other")
    np.savez(
        other / "predictions.npz",
        **{name: np.full_like(rows, np.nan) for name, rows in np.load(first / "predictions.npz").items()},
    )
    assert main(["compare", str(first), str(other), "--page=null"]) == 2
    assert "other has predictions that are not numbers, so its model has diverged" in capsys.readouterr().err


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def settings_of(task: str, folder: Path) -> dict[str, str | int]:
    """Write the data of a task, with Chinese texts where it is easy; return the settings of a run on them."""
    if task in ("token_classification", "question_answering"):
        return write_problem(folder, task)
    if task == "plain":
        rows = [
            {"tokens": text.split(), "tags": ["X" if word[0] == "w" else "Y" for word in text.split()]}
            for text, _ in random_rows(40)
        ]
    elif task == "multiple_choice":
        rows = [
            {"question": text, "choices": ["good", "poor", "这部电影很好"][: 2 + i % 2], "label": i % 2}
            for i, (text, _) in enumerate(random_rows(40))
        ]
    else:
        label = {
            "multi_label": lambda i: ["a", "b"][: i % 3],
            "regression": lambda i: i / 7,
            "classification": lambda i: "好差中"[i % 3],
        }[task]
        rows = [{"text": f"{text} 好", "label": label(i)} for i, (text, _) in enumerate(random_rows(40))]
    data = str(write_lines(folder / "train.jsonl", rows))
    return {"task": "token_classification" if task == "plain" else task, "data.train": data, "data.validation": data}


def lean_to_truth(task: str, examples, shape: tuple[int, ...]) -> np.ndarray:
    """Return what lets a model answer most tokens rightly, and every second question."""
    more = np.zeros(shape, np.float32)
    if task == "token_classification":
        tagged = np.flatnonzero(examples.token_labels >= 0)
        tagged = tagged[np.random.default_rng(2).random(len(tagged)) < 0.95]
        more[tagged, examples.token_labels[tagged]] = 9
    elif task == "question_answering":
        windows = examples.extra.windows
        targets = windows.tokens.begins[:, None] + windows.answers
        more[targets[::2], [[0, 1]]] = 9
    return more


@pytest.mark.parametrize(
    "task",
    [
        "classification",
        "multi_label",
        "regression",
        "multiple_choice",
        "token_classification",
        "plain",
        "question_answering",
    ],
)
def test_every_task_is_judged_as_it_is_measured(task, tmp_path):
    """Random predictions: the metric as a function of sums is the task's own."""
    settings = {name.replace(".", "__"): value for name, value in settings_of(task, tmp_path).items()}
    name = settings.pop("task")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    config = make_config(
        name, **{key: str(v) if isinstance(v, Path) else v for key, v in settings.items()}, data__cache_dir=None
    )
    inputs = task_class(name).read(config, BertTokenizer(vocab=str(tmp_path / "vocab.txt")), 16)
    examples, model = inputs.validation["validation"], inputs.task
    count, labels = count_predictions(model, examples), len(model.output_names)
    rng = np.random.default_rng(1)
    shape = {"regression": (count,), "multiple_choice": (count,), "question_answering": (count, 2)}.get(
        name, (count, labels)
    )
    predictions = rng.normal(size=shape).astype(np.float32)
    if name in ("classification", "token_classification"):
        predictions = log_softmax(predictions + lean_to_truth(name, examples, predictions.shape), -1)
    elif name == "question_answering":
        predictions += lean_to_truth(name, examples, predictions.shape)
    outcome = Outcome(model.learned({"threshold": 0.5}), examples, predictions)
    finished = Finished(config, RunFolder(tmp_path), inputs, SimpleNamespace(task=model), {"validation": outcome}, {})
    judged, (rows, texts) = judge(outcome), read_texts(finished, "validation")
    assert len(rows) == len(texts) == len(judged.expected) == len(judged.given) == len(examples)
    assert next(iter(judged.makers)) == {"plain": "accuracy"}.get(task, model.default_metric)
    for metric, make in judged.makers.items():
        assert make().name == metric
        assert make().value == pytest.approx(outcome.metrics[metric], abs=1e-6), metric
    assert all(texts)
    if judged.right is None:
        np.testing.assert_allclose(np.abs(np.subtract(judged.expected, judged.given)), judged.distance, atol=1e-6)
    else:
        assert 0 < judged.right.sum() < len(examples)
        assert judged.distance[judged.right].mean() < judged.distance[~judged.right].mean()


def test_a_run_has_a_card_and_a_person_keeps_hers(first, tmp_path, capsys):
    card = (first / "export" / "README.md").read_text()
    assert "# first" in card
    summary = json.loads((first / "summary.json").read_text())
    assert f"| test | accuracy | {summary['test']['accuracy']:.4f} |" in card
    assert main(["export", "--run", str(first), "--output", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "README.md").read_text() == card
    jaxbert.load(first).export(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == card
    (tmp_path / "model" / "README.md").write_text("# Mine\n")
    assert main(["export", "--run", str(first), "--output", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "README.md").read_text() == "# Mine\n"
    assert "was not written by jaxbert, and stays as it is" in capsys.readouterr().err


def test_runs_are_opened_as_reports_open_them(first):
    assert reopen(first).outcomes.keys() == {"validation", "test"}
