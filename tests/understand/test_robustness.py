"""How answers hold against disturbed texts: the numbers are those of `evaluate` and `predict` on the same texts."""

from __future__ import annotations

import json

import pytest
from runs import Problem, write_csv, write_model
from served import TASKS, write_export

import jaxbert
from jaxbert.cli.main import main

pytestmark = pytest.mark.usefixtures("shared_programs")
ROWS = [(f"good w{i} w{i + 1}, w2!", "good") for i in range(6)] + [(f"awful w{i} poor w3.", "bad") for i in range(6)]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module")
def run(problem):
    folder = problem.folder / "run"
    files = {"data__validation": problem.folder / "dev.csv", "train__output_dir": folder}
    assert problem.train(**files, train__epochs=None, train__max_steps=20, optimizer__learning_rate=3e-3) == 0
    return folder


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_numbers_are_those_of_evaluate_and_predict(run, problem, tmp_path, capsys):
    words = ["--kinds", "typos,dropped_words", "--strengths", "0.3,1", "--seed", "5"]
    texts, data = tmp_path / "texts.jsonl", problem.folder / "dev.csv"
    capsys.readouterr()
    command = ["robustness", "--model", str(run), "--data", str(data), *words, "--output", str(texts)]
    assert main(command) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    model = jaxbert.load(run)
    assert found["value"] == pytest.approx(model.evaluate(data)["accuracy"], abs=1e-6)
    lines = read_lines(texts)
    before = model.predict(data)
    assert [each["kind"] for each in found["disturbed"]] == ["typos"] * 2 + ["dropped_words"] * 2
    assert found["disturbed"][-1]["changed"] > 0
    for each in found["disturbed"]:
        own = [line for line in lines if (line["kind"], line["strength"]) == (each["kind"], each["strength"])]
        assert [line["row"] for line in own] == [*range(2, len(before) + 2)], "lines of the file, as messages name them"
        assert [line["before"] for line in own] == [answer["label"] for answer in before]
        answers = [answer["label"] for answer in model.predict([line["text"] for line in own])]
        assert [line["after"] for line in own] == answers
        right = [line["expected"] == answer for line, answer in zip(own, answers, strict=True)]
        assert each["value"] == pytest.approx(sum(right) / len(right), abs=1e-6)
        share = sum(line["before"] != line["after"] for line in own) / len(own)
        assert each["changed"] == pytest.approx(share, abs=1e-6)
        assert 0 < each["touched"] <= 1
    assert "dropped words" in shown.err
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == found, "the seed decides everything"
    assert read_lines(texts) == lines


def test_a_run_keeps_the_numbers_for_its_report(run, problem, capsys):
    data = str(problem.folder / "dev.csv")
    assert main(["robustness", "--model", str(run), "--data", data, "--kinds", "case", "--strengths", "0.5"]) == 0
    capsys.readouterr()
    kept = json.loads((run / "robustness.json").read_text())
    assert [each["kind"] for each in kept["disturbed"]] == ["case"]
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Disturbed texts" in page
    assert f"{kept['disturbed'][0]['changed']:.1%}" in page


@pytest.mark.parametrize("task", ["multi_label", "regression", "pairs"])
def test_other_tasks(task, tmp_path):
    model = jaxbert.load(write_export(tmp_path / "model", TASKS[task]))
    labels = {"multi_label": [["a"], ["b", "c"]], "regression": [0.5, -1.0], "pairs": ["bad", "good"]}[task]
    second = {"text_pair": "w9 good w1"} if task == "pairs" else {}
    rows = [{"text": f"w{i} poor w{i + 1} w2", **second, "label": labels[i % 2]} for i in range(8)]
    columns = {"text_pair": "text_pair"} if second else {}
    found = model.robustness(rows, kinds=["dropped_words"], strengths=[0.5], **columns)
    (disturbed,) = found["disturbed"]
    assert found["metric"] == {"multi_label": "f1_micro", "regression": "pearson", "pairs": "accuracy"}[task]
    assert disturbed["touched"] == 1
    assert found["rows"] == 8
    if task == "regression":
        assert disturbed["changed"] > 0


def test_rows_that_are_skipped_move_no_label(run, tmp_path, capsys):
    """A row without a label is left out of both sides, and what is left out of the kinds is said."""
    data = tmp_path / "rows.csv"
    data.write_text("text,label\ngood w1 w2,good\nno label,\nawful w3 w4,bad\ngood w5 w6,good\n")
    texts = tmp_path / "texts.jsonl"
    words = ["--kinds", "dropped_words,homophones", "--strengths", "0.3", "--bad_rows", "skip", "--output", str(texts)]
    assert main(["robustness", "--model", str(run), "--data", str(data), *words]) == 0
    assert "no text can be changed by homophones" in capsys.readouterr().err
    lines = read_lines(texts)
    assert [line["row"] for line in lines] == [2, 4, 5]
    assert [line["expected"] for line in lines] == ["good", "bad", "good"]
    assert all("label" not in line["text"] for line in lines)


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["robustness", *map(str, words)]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    return error


def test_mistakes_are_one_line(tmp_path, capsys):
    model = write_model(tmp_path / "model")
    data = write_csv(tmp_path / "rows.csv", ROWS)
    command = ("--model", model, "--data", data)
    assert "there is no typo, only" in refused(capsys, *command, "--kinds", "typo")
    assert "robustness reads twice: write it to a file" in refused(capsys, "--model", model, "--data", "-")
    assert "strengths: 1.5 is not a share of a text" in refused(capsys, *command, "--strengths", "1.5")
    tagger = write_export(tmp_path / "tagger", TASKS["token_classification"])
    rows = write_csv(tmp_path / "tags.csv", [("w1 w2", "A B")])
    assert "task is token_classification" in refused(capsys, "--model", tagger, "--data", rows)
