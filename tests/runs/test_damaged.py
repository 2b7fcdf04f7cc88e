"""A damaged checkpoint is seen, said and set aside; the one before it is used, and nothing is deleted."""

from __future__ import annotations

import errno
import json
import resource
import shutil

import pytest
from etils import epath
from runs import CrashError, Problem, command, finish, small_config, weights

from jaxbert.errors import UserError
from jaxbert.runs.checkpoint import Checkpoints, find_damage, write_manifest
from jaxbert.runs.export import export_params
from jaxbert.runs.folder import RunFolder
from jaxbert.studies.results import write_shared
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("shared_programs")

SAVED = (2, 4, 6)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module")
def undisturbed(problem):
    assert problem.train(**keys(problem, "undisturbed")) == 0
    return problem.folder / "undisturbed"


def keys(problem, name):
    return {
        "train__output_dir": problem.folder / name,
        "train__epochs": 1,
        "train__checkpoint_every": 2,
        "train__keep_checkpoints": 3,
    }


@pytest.fixture(scope="module")
def stopped(problem, undisturbed):
    """A run that ended before its last step, with three checkpoints."""
    read = Trainer._count

    def crash(loop, *args):
        if loop.progress.step == SAVED[-1]:
            raise CrashError
        read(loop, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_count", crash)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, "stopped"))
    return problem.folder / "stopped"


@pytest.fixture
def crashed(stopped, request):
    """A copy of the stopped run, to be damaged: a run goes on wherever its folder lies."""
    return shutil.copytree(stopped, stopped.with_name("".join(c for c in request.node.name if c.isalnum())))


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder):
    return max(files(folder), key=lambda path: path.stat().st_size)


def truncate(checkpoint):
    content = largest(checkpoint).read_bytes()
    largest(checkpoint).write_bytes(content[: len(content) // 2])


def remove_largest(checkpoint):
    largest(checkpoint).unlink()


def remove_list(checkpoint):
    (checkpoint / "files.json").unlink()


def flip_a_bit(checkpoint):
    path = largest(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def garble_progress(checkpoint):
    (path,) = (checkpoint / "progress").glob("*metadata")
    path.write_text('{"step": 1}')


@pytest.mark.parametrize("spoil", [truncate, remove_largest, remove_list, flip_a_bit, garble_progress])
def test_the_one_before_is_used(problem, crashed, undisturbed, capsys, spoil):
    newest = crashed / "checkpoints" / str(SAVED[-1])
    spoil(newest)
    before = {path.relative_to(newest): path.read_bytes() for path in files(newest)}
    capsys.readouterr()
    assert problem.train(**keys(problem, crashed.name)) == 0
    said = capsys.readouterr().err
    assert f"note: the checkpoint of step {SAVED[-1]} is damaged" in said
    assert f"going on after step {SAVED[-2]}" in said
    aside = crashed / "damaged_checkpoints" / f"{SAVED[-1]}.1"
    assert {path.relative_to(aside): path.read_bytes() for path in files(aside)} == before
    assert weights(crashed) == weights(undisturbed)


def test_with_all_damaged_the_run_begins_again(problem, crashed, undisturbed):
    for step in SAVED:
        flip_a_bit(crashed / "checkpoints" / str(step))
    assert problem.train(**keys(problem, crashed.name)) == 0
    assert sorted(path.name for path in (crashed / "damaged_checkpoints").iterdir()) == [f"{s}.1" for s in SAVED]
    assert weights(crashed) == weights(undisturbed)


def test_a_damaged_checkpoint_is_not_exported(crashed, capsys):
    from jaxbert.cli.main import main

    flip_a_bit(crashed / "checkpoints" / str(SAVED[-1]))
    before = files(crashed)
    assert main(["export", f"--run={crashed}", "--step=last", f"--output={crashed / 'model'}"]) == 2
    assert f"the checkpoint of step {SAVED[-1]}" in capsys.readouterr().err
    assert files(crashed) == before
    assert main(["export", f"--run={crashed}", f"--step={SAVED[0]}", f"--output={crashed / 'model'}"]) == 0


def test_with_the_best_damaged_the_last_is_exported(problem, monkeypatch, capsys):
    """Damaged between the last step and the export; each evaluation is worse than the one before."""
    run, evaluations, metrics = problem.folder / "best", iter(range(100)), Classification.metrics

    def ever_worse(task, *args):
        return metrics(task, *args) | {"accuracy": -float(next(evaluations))}

    def crash(*args):
        raise CrashError

    monkeypatch.setattr(Classification, "metrics", ever_worse)
    changes = keys(problem, "best") | {"data__validation": problem.folder / "dev.csv", "train__eval_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr("jaxbert.train.run.export_params", crash)
        with pytest.raises(CrashError):
            problem.train(**changes)
    flip_a_bit(run / "checkpoints" / "3")
    assert problem.train(**changes) == 0
    assert "the checkpoint of step 3" in capsys.readouterr().err
    assert json.loads((run / "summary.json").read_text())["exported_step"] == 7


def test_every_committed_checkpoint_has_its_list(undisturbed):
    for checkpoint in (undisturbed / "checkpoints").iterdir():
        listed = json.loads((checkpoint / "files.json").read_text())
        there = {str(path.relative_to(checkpoint)) for path in files(checkpoint)}
        assert there - set(listed) == {"files.json", "_CHECKPOINT_METADATA", "commit_success.txt"}
        assert find_damage(epath.Path(checkpoint)) is None


def test_a_list_is_no_place_for_surprises(tmp_path):
    folder = epath.Path(tmp_path)
    (folder / "a").write_text("content")
    write_manifest(folder)
    assert find_damage(folder) is None
    for content in ("", "[]", '{"a": 3}', '{"a": [7, 1, 2]}', '{"b": [1, 2]}'):
        (folder / "files.json").write_text(content)
        assert find_damage(folder) is not None, content


SMALL = 20_000
"""Bytes: less than a checkpoint's largest file."""


@pytest.mark.slow
def test_a_save_that_fails_stops_the_run_and_leaves_the_others(problem, crashed, undisturbed):
    """Files above a limit fail as they do on a full disk: in the background, while writing."""
    process = command(*problem.arguments(**keys(problem, crashed.name)))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (SMALL, SMALL))
    code, _, err = finish(process)
    assert code == 2, err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("error: the checkpoint of step 7 cannot be written")
    assert f"resume after step {SAVED[-1]}" in last
    assert "(File too large); it needs 0." in last
    with Checkpoints(crashed / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps == list(SAVED)
    assert problem.train(**keys(problem, crashed.name)) == 0


def test_a_disk_without_room_is_seen_before_saving(problem, undisturbed, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    assert problem.train(**keys(problem, "full")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "has room for 0.0 MB, but a checkpoint needs 0." in last
    assert "to resume from the beginning" in last


def test_an_export_that_cannot_replace_the_last_one_is_one_line(tmp_path, monkeypatch):
    """The predictions of the older weights must go first, which a read-only disk does not allow."""

    def unlink(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setattr(type(epath.Path(tmp_path)), "unlink", unlink)
    with pytest.raises(UserError, match=r"export cannot be written: .*Read-only file system: .*predictions\.npz"):
        export_params(RunFolder(tmp_path), small_config(), None, {}, "ForSequenceClassification")
    assert not (tmp_path / "export").exists()


def test_the_results_of_a_search_that_cannot_be_written_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"search\.json cannot be written: .*No such file"):
        write_shared(epath.Path(tmp_path) / "gone" / "search.json", "{}")
