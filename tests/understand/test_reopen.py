"""A complete run, opened again: the same data, the same predictions, and the records behind them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import Problem, random_rows, write_csv

from jaxbert.cli.main import main
from jaxbert.errors import UserError
from jaxbert.runs.export import export_run
from jaxbert.train.evaluate import Predictor, numbers_of
from jaxbert.understand.records import read_records
from jaxbert.understand.reopen import reopen


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a validation set and a test set."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    sets = {"data__validation": problem.folder / "dev.csv", "data__test": problem.folder / "train.csv"}
    assert problem.train(**sets, train__epochs=1) == 0
    return problem.folder / "run"


def test_predictions_of_the_exported_model_are_kept(run, monkeypatch):
    monkeypatch.setattr(Predictor, "pieces", lambda *_: pytest.fail("predicted again"))
    finished = reopen(run)
    assert finished.outcomes.keys() == {"validation", "test"}
    summary = json.loads((run / "summary.json").read_text())
    assert finished.summary == summary
    assert finished.outcomes["validation"].metrics == summary["eval"]
    assert finished.outcomes["test"].metrics == summary["test"]
    np.testing.assert_allclose(finished.outcomes["test"].probabilities.sum(1), 1, rtol=1e-6)
    first = finished.outcomes["validation"].answers(0, 1)
    assert first[0]["label"] in ("bad", "good")


def test_predictions_that_are_missing_are_computed_and_kept(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "predictions.npz").unlink()
    finished = reopen(copy)
    kept = np.load(run / "predictions.npz")
    for name, outcome in finished.outcomes.items():
        np.testing.assert_allclose(outcome.predictions, kept[name], rtol=1e-5, atol=1e-6)
    assert numbers_of(finished.outcomes["test"].metrics) == pytest.approx(
        numbers_of(finished.summary["test"]), rel=1e-5
    )
    assert np.load(copy / "predictions.npz").files == ["validation", "test"]


def test_damaged_predictions_are_an_error(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    whole = (run / "predictions.npz").read_bytes()
    (copy / "predictions.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"predictions\.npz is damaged, remove it to predict again"):
        reopen(copy)
    (copy / "predictions.npz").write_bytes(b"\x80pickled")
    with pytest.raises(UserError, match=r"remove it to predict again: it is no archive of arrays$"):
        reopen(copy)


@pytest.mark.parametrize("name", ["dev.csv", "train.csv"])
def test_data_that_have_changed_are_refused(run, tmp_path, name):
    """As many rows as before: the kept predictions would be of other texts or labels."""
    copy = shutil.copytree(run, tmp_path / "run")
    rows = [list(row) for row in random_rows(37 if name == "dev.csv" else 100, seed=int(name == "dev.csv"))]
    rows[5][1] = "bad" if rows[5][1] == "good" else "good"
    data = write_csv(tmp_path / name, rows)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(run.parent / name), str(data)))
    with pytest.raises(UserError, match=r"have changed since it ended .*as before, but other texts or labels"):
        reopen(copy)


def test_a_pretraining_run_is_read_again_at_its_length(run, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(row for row, _ in random_rows(40)) + "\n")
    keys = {"model.name_or_path": run.parent / "model", "data.train": text, "data.validation": text}
    keys |= {"data.max_length": 16, "train.max_steps": 2, "train.output_dir": tmp_path / "run"}
    keys |= {"report.at_end": "false", "pretrain.next_sentence": "false"}
    assert main(["pretrain", *(f"--{key}={value}" for key, value in keys.items())]) == 0
    monkeypatch.setattr(Predictor, "pieces", lambda *_: pytest.fail("predicted again"))
    found = dict(reopen(tmp_path / "run").outcomes["validation"].metrics)
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["eval"]
    groups, told_groups = found.pop("by_frequency"), told.pop("by_frequency")
    assert found == pytest.approx(told)
    assert {name: pytest.approx(group) for name, group in told_groups.items()} == groups


def test_a_run_that_is_not_complete_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "summary.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        reopen(copy)
    (copy / "summary.json").write_text('{"data": {}, "steps": 3}')
    with pytest.raises(UserError, match=r"summary\.json has no eval, test, exported_step: "):
        reopen(copy)
    with pytest.raises(UserError, match=r"not a run folder: it has no config\.yaml$"):
        reopen(tmp_path)
    with pytest.raises(UserError, match=rf"not a run folder: .* but {run} is one: name that$"):
        reopen(run / "export")
    with pytest.raises(UserError, match=r"no config\.yaml, but a model: `jaxbert\.load\(.*\)\.export\(FOLDER\)`"):
        export_run(shutil.copytree(run / "export", tmp_path / "model"), "best", tmp_path / "out")


def test_records_are_those_of_the_source(run):
    finished = reopen(run)
    rows = list(random_rows(37, seed=1))
    found = read_records(
        finished.config,
        finished.model.task,
        "validation",
        finished.outcomes["validation"].examples,
        np.array([36, 0, 5]),
        ["label"],
    )
    assert [(record.text, record.columns["label"]) for record in found] == [rows[36], rows[0], rows[5]]
    assert [record.row for record in found] == [38, 2, 7]  # the header is line 1


def test_read_records_a_validation_set_that_was_split_off(run):
    finished = reopen(run)
    data = dataclasses.replace(finished.config.data, validation=None, validation_fraction=0.2)
    config = dataclasses.replace(finished.config, data=data)
    inputs = type(finished.model.task).read(config, finished.model.tokenizer, finished.model.max_length)
    held_out = inputs.validation["validation"]
    found = read_records(config, finished.model.task, "validation", held_out, np.arange(len(held_out)))
    rows = list(random_rows(100))
    assert [record.text for record in found] == [rows[row][0] for row in held_out.rows]
    labels = [finished.model.task.label_names[label] for label in held_out.labels]
    assert labels == [rows[row][1] for row in held_out.rows]


def test_a_source_with_fewer_rows_is_refused(run, tmp_path):
    finished = reopen(run)
    examples = finished.outcomes["validation"].examples
    short = tmp_path / "dev.csv"
    short.write_text("text,label\nw1,good\n")
    data = dataclasses.replace(finished.config.data, validation=str(short))
    config = dataclasses.replace(finished.config, data=data)
    with pytest.raises(UserError, match="has 1 rows, fewer than in the run"):
        read_records(config, finished.model.task, "validation", examples, np.array([0, 30]))
