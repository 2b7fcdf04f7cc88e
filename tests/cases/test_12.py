"""A run that was interrupted is started again: with other data, more epochs, elsewhere, or while it runs."""

from __future__ import annotations

import json
import shutil

import pytest
from runs import CrashError, crash_before, read_metrics, write_model

from jaxbert.cli.main import main
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.lock import owned


@pytest.fixture
def start(train, case, tmp_path, monkeypatch):
    """Start in the folder of the data by relative paths, as the reporters did; the first start crashes behind step 6."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(case / "train.csv", "data.csv")
    write_model(tmp_path / "model")

    def start(folder, *more):
        keys = ("--model.name_or_path", "model", "--model.vocab", "null", "--model.scan_layers", "true")
        when = ("--train.max_steps", "null", "--train.epochs", 2, "--train.checkpoint_every", 6, "--train.log_every", 1)
        return train(*keys, *when, "--data.train", "data.csv", "--train.output_dir", folder, *more)

    with monkeypatch.context() as patch:
        crash_before(patch, 8)
        with pytest.raises(CrashError):
            start("run")
    return start


@pytest.fixture
def begin(start, monkeypatch, capfd):
    """Start and stop before the first step, which would have to be compiled."""

    def begin(*arguments):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            crash_before(patch, 6)
            with pytest.raises(CrashError):
                start(*arguments)
        return capfd.readouterr().err

    return begin


def content(folder):
    """Return every file but those of the lock."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.parent.name != "lock"}


def test_case(start, begin, case, tmp_path):
    run = tmp_path / "run"
    before = content(run)

    shutil.copy(case / "renamed.csv", "data.csv")
    for more in ((), ("--train.accept_changed_data", "true")):
        code, _, err = start("run", *more)
        assert code == 2
        said = "labels 'alpha', 'gamma', 'zeta' there, 'aardvark', 'alpha', 'gamma' now"
        assert f"error: the run in run began with other data or another model ({said})" in err
        assert content(run) == before

    shutil.copy(case / "more.csv", "data.csv")
    code, _, err = start("run")
    assert code == 2
    assert "(data.train: 48 examples there, 60 now)" in err
    assert "set train.accept_changed_data" in err
    assert content(run) == before
    shutil.copytree(run, "accepted")
    err = begin("accepted", "--train.accept_changed_data", "true")
    assert "note: accepted continues with changed data (data.train: 48 examples there, 60 now; 16 steps in all" in err
    assert "going on after step 6," in err
    kept = json.loads((tmp_path / "accepted" / "data.json").read_text())
    assert kept["labels"] == ["alpha", "gamma", "zeta"]
    assert kept["changes"] == ["data.train: 48 examples there, 60 now"]

    shutil.copy(case / "train.csv", "data.csv")
    code, _, err = start("run", "--train.epochs", 20)
    assert code == 2
    assert "(train.epochs: 2 there, 20 now)" in err
    assert "`jaxbert export --run run --step last --output DIR`, then --model.name_or_path DIR" in err

    with owned(RunFolder(run)):
        code, _, err = start("run")
        assert code == 2
        assert "error: train.output_dir run is in use by process " in err
        assert main(["export", "--run", "run", "--step", "last", "--output", "weights"]) == 0
    assert content(run) == before

    run.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data.csv").rename(tmp_path / "elsewhere" / "rows.csv")
    err = begin(f"{tmp_path}/elsewhere/../moved/", "--data.train", tmp_path / "elsewhere" / "rows.csv")
    assert "going on after step 6," in err
    assert [line["step"] for line in read_metrics(tmp_path / "moved")] == list(range(1, 7))
