"""A terminal or a pipe that is not UTF-8, and labels that its encoding does not have: JSON is written, and it is UTF-8."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from runs import ROOT, write_model

from jaxbert.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    names = dict(enumerate(("好评👍", "差评[/b]")))  # the second is also markup that closes nothing
    return write_model(tmp_path_factory.mktemp("model"), id2label=names, label2id={n: i for i, n in names.items()})


@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_evaluate_writes_json_and_a_table(case, model, tmp_path, monkeypatch, encoding):
    with (case / "train.csv").open(encoding="utf-8") as file:
        rows = [{**row, "label": row["label"].replace("差评", "差评[/b]")} for row in csv.DictReader(file)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding=encoding))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(err, encoding=encoding, errors="strict", write_through=True))
    assert main(["evaluate", "--model", str(model), "--data", str(tmp_path / "in.jsonl")]) == 0
    found = json.loads(out.getvalue().decode("utf-8"))
    assert {name: scores["support"] for name, scores in found["per_class"].items()} == {"好评👍": 6, "差评[/b]": 6}
    table = err.getvalue().decode(encoding)
    assert ("差评[/b]" if encoding == "gbk" else "\\u5dee\\u8bc4[/b]") in table
    assert "\\U0001f44d" in table


def test_predict_as_its_own_process(case, model):
    command = [sys.executable, "-m", "jaxbert", "predict", "--model", str(model), "--input", str(case / "train.csv")]
    environment = {**os.environ, "PYTHONIOENCODING": "gbk", "XLA_FLAGS": ""}
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    answers = [json.loads(line) for line in ended.stdout.decode("utf-8").splitlines()]
    assert len(answers) == 12
    assert all(set(answer["probabilities"]) == {"好评👍", "差评[/b]"} for answer in answers)
