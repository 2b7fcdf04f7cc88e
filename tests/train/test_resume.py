"""A run that was stopped, however that was, ends with the very bits of one that was not."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
import yaml
from runs import CrashError, Problem, command, crash_before, finish, read_metrics, weights, whole_losses
from safetensors.numpy import load_file

from jaxbert.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("shared_programs")

STEPS_PER_EPOCH = 7


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


KEYS = {"data__validation": "dev.csv", "train__checkpoint_every": 3, "train__epochs": 2}


def keys(problem, run):
    return KEYS | {"data__validation": problem.folder / "dev.csv", "train__output_dir": problem.folder / run}


@pytest.fixture(scope="module")
def undisturbed(problem):
    assert problem.train(**keys(problem, "undisturbed")) == 0
    return problem.folder / "undisturbed"


def test_cached_tokens_change_nothing(problem, capsys, monkeypatch, tmp_path):
    """A run that takes its tokens from the cache exports the same files as the run that made them, and as one without."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    exports, said = [], []
    for name, changes in {"first": {}, "second": {}, "none": {"data__cache_dir": "null"}}.items():
        more = {
            "train__max_steps": 2,
            "data__max_length": 6,
            "data__validation_fraction": 0.2,
            "train__output_dir": tmp_path / name,
        }
        assert problem.train(**more, **changes) == 0
        exports.append({path.name: path.read_bytes() for path in (tmp_path / name / "export").iterdir()})
        exports[-1].pop("README.md")  # the model card has the name of the run's folder
        said.append(capsys.readouterr().err)
    assert exports[1] == exports[0] == exports[2]
    taken, cut = (
        f"note: tokens of {problem.folder / 'train.csv'} taken from the cache\n",
        "texts are longer than 6 tokens",
    )
    assert [taken in err for err in said] == [False, True, False]
    assert all(cut in err for err in said)
    assert len(list((tmp_path / "jaxbert" / "tokens").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "crashes", "last_saved"),
    [("mid-epoch", [5], 3), ("behind an epoch", [8], 7), ("twice", [4, 11], 9), ("before any save", [2], None)],
)
def test_a_crash_changes_no_bit(problem, undisturbed, monkeypatch, name, crashes, last_saved):
    """Eight devices, dropout on, evaluations between; the last checkpoint before the crash is what is gone on from."""
    changes = keys(problem, name)
    run = problem.folder / name
    for step in crashes:
        with monkeypatch.context() as patch:
            crash_before(patch, step)
            with pytest.raises(CrashError):
                problem.train(**changes)
    with Checkpoints(run / "checkpoints") as checkpoints:
        assert (checkpoints.steps or [None])[-1] == last_saved
    assert problem.train(**changes) == 0
    assert weights(run) == weights(undisturbed)
    assert whole_losses(run) == whole_losses(undisturbed)
    evaluations = [[line for line in read_metrics(r) if "eval_loss" in line] for r in (run, undisturbed)]
    assert [line["step"] for line in evaluations[0]] == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    assert [line["eval_loss"] for line in evaluations[0]] == [line["eval_loss"] for line in evaluations[1]]
    summaries = [json.loads((r / "summary.json").read_text()) for r in (run, undisturbed)]
    for key in ("steps", "epochs", "train_loss", "eval", "exported_step"):
        assert summaries[0][key] == summaries[1][key], key


def test_a_crash_changes_no_bit_of_what_is_partly_frozen(problem, monkeypatch, capsys):
    """Nor any bit at all of what is frozen."""
    changes = keys(problem, "frozen") | {
        "optimizer__freeze": ["bert/embeddings", "bert/encoder/layer/0/"],
        "optimizer__layer_decay": 0.7,
        "data__validation": None,
        "train__max_steps": 5,
    }
    run, whole = problem.folder / "frozen", problem.folder / "frozen-whole"
    assert problem.train(**changes | {"train__output_dir": whole}) == 0
    with monkeypatch.context() as patch:
        crash_before(patch, 4)
        with pytest.raises(CrashError):
            problem.train(**changes)
    assert problem.train(**changes) == 0
    assert weights(run) == weights(whole)
    before, after = (load_file(folder / "model.safetensors") for folder in (problem.folder / "model", run / "export"))
    frozen = {name for name in before if name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))}
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == frozen | {"bert.encoder.layer.1.attention.self.key.bias"}  # which is never trained
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] == sum(tensor.size for tensor in before.values())
    assert summary["trained_parameters"] == summary["parameters"] - sum(before[name].size for name in frozen)
    line = f"{summary['trained_parameters']:,} of {summary['parameters']:,} parameters are trained"
    assert capsys.readouterr().err.count(line) == 3


def test_a_crash_changes_no_bit_with_another_optimizer(problem, monkeypatch):
    """Muon's state has parts: those of its kernels, and those of Adam for all else."""
    run, whole = problem.folder / "muon", problem.folder / "muon-whole"
    changes = {"optimizer__name": "muon", "train__max_steps": 4, "train__checkpoint_every": 2, "train__output_dir": run}
    assert problem.train(**changes | {"train__output_dir": whole}) == 0
    with monkeypatch.context() as patch:
        crash_before(patch, 3)
        with pytest.raises(CrashError):
            problem.train(**changes)
    assert problem.train(**changes) == 0
    assert weights(run) == weights(whole)
    assert whole_losses(run) == whole_losses(whole)


def test_a_crash_behind_the_last_step_only_exports(problem, undisturbed, monkeypatch):
    changes = keys(problem, "late")
    with monkeypatch.context() as patch:
        patch.setattr("jaxbert.train.run.export_params", crash)
        with pytest.raises(CrashError):
            problem.train(**changes)
    assert problem.train(**changes) == 0
    assert weights(problem.folder / "late") == weights(undisturbed)
    assert whole_losses(problem.folder / "late") == whole_losses(undisturbed)


def crash(*args):
    raise CrashError


def test_another_configuration_is_refused_and_a_line_that_a_crash_cut_off_dropped(
    problem, undisturbed, monkeypatch, capsys
):
    """The refusal names the keys and leaves all as it is; with the same configuration the run then goes on."""
    changes = keys(problem, "other")
    with monkeypatch.context() as patch:
        crash_before(patch, 5)
        with pytest.raises(CrashError):
            problem.train(**changes)
    run = problem.folder / "other"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train_lo')
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    code = problem.train(**changes, train__seed=4, optimizer__learning_rate=0.5)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"error: train.output_dir {run} holds a run with another configuration")
    assert "train.seed: 0 there, 4 now" in line
    assert "optimizer.learning_rate: 0.001 there, 0.5 now" in line
    assert "epochs" not in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert problem.train(**changes) == 0
    assert weights(run) == weights(undisturbed)
    assert whole_losses(run) == whole_losses(undisturbed)


def test_a_finished_run_is_refused(problem, undisturbed, capsys):
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    assert problem.train(**keys(problem, "undisturbed")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the run in {undisturbed} is complete")
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


def test_the_resolved_configuration_is_in_the_folder(problem, undisturbed):
    content = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert content["train"]["epochs"] == 2
    assert content["train"]["eval_batch_size"] == 256
    assert content["data"]["train"] == str(problem.folder / "train.csv")


LONG = {"train__epochs": 5, "train__checkpoint_every": 2}
"""35 steps with a save every other one: long enough to be met by a signal."""


@pytest.fixture(scope="module")
def undisturbed_command(problem):
    run = problem.folder / "undisturbed-command"
    code, _, err = finish(command(*problem.arguments(**LONG, train__output_dir=run)))
    assert code == 0, err
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "expected"), [("SIGKILL", -9), ("SIGTERM", 75), pytest.param("SIGINT", 75, marks=pytest.mark.long)]
)
def test_a_signal_changes_no_bit(problem, undisturbed_command, number, expected):
    """A process of its own, one device, met at an arbitrary moment behind the first steps."""
    run = problem.folder / number
    arguments = problem.arguments(**LONG, train__output_dir=run)
    process = command(*arguments)
    wait_for_lines(run / "metrics.jsonl", 5, process)
    process.send_signal(getattr(signal, number))
    code, _, err = finish(process)
    assert code == expected, err
    assert not (run / "summary.json").exists()
    if expected == 75:
        assert "run the same command to resume" in err
        last = max(whole_losses(run))
        assert (run / "checkpoints" / str(last)).is_dir()
    code, _, err = finish(command(*arguments))
    assert code == 0, err
    assert "going on after step" in err
    assert weights(run) == weights(undisturbed_command)
    assert whole_losses(run) == whole_losses(undisturbed_command)
    assert len(whole_losses(run)) == 35


def wait_for_lines(path, count: int, process) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"no {count} lines of metrics: {process.communicate()[1]}")
