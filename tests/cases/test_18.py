"""A terminal or a pipe that is not UTF-8, and labels that its encoding does not have: JSON is written, and it is UTF-8."""

from __future__ import annotations

import csv
import io
import json

import pytest
from runs import write_model

from jaxbert.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    names = dict(enumerate(("好评👍", "差评[/b]")))  # the second is also markup that closes nothing
    return write_model(tmp_path_factory.mktemp("model"), id2label=names, label2id={n: i for i, n in names.items()})


@pytest.fixture(params=["gbk", "ascii"])
def run(request, monkeypatch):
    """Run a verb whose streams have another encoding; return the bytes of both."""

    def run_verb(*arguments: object) -> tuple[str, str]:
        out, err = io.BytesIO(), io.BytesIO()
        stderr = io.TextIOWrapper(err, encoding=request.param, errors="strict", write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", io.TextIOWrapper(out, encoding=request.param))
            patch.setattr("sys.stderr", stderr)
            assert main([str(argument) for argument in arguments]) == 0
            return out.getvalue().decode("utf-8"), err.getvalue().decode(request.param)

    return run_verb


def test_evaluate_writes_json_and_a_table(case, model, tmp_path, run):
    with (case / "train.csv").open(encoding="utf-8") as file:
        rows = [{**row, "label": row["label"].replace("差评", "差评[/b]")} for row in csv.DictReader(file)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, table = run("evaluate", "--model", model, "--data", tmp_path / "in.jsonl")
    support = {name: scores["support"] for name, scores in json.loads(out)["per_class"].items()}
    assert support == {"好评👍": 6, "差评[/b]": 6}
    assert "差评[/b]" in table or "\\u5dee\\u8bc4[/b]" in table
    assert "\\U0001f44d" in table


def test_predict_writes_json(case, model, run):
    out, _ = run("predict", "--model", model, "--input", case / "train.csv")
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 12
    assert all(set(answer["probabilities"]) == {"好评👍", "差评[/b]"} for answer in answers)
