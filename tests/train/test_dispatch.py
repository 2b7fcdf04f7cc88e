"""Steps that are dispatched together are the steps that run one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import Problem, read_metrics, weights
from safetensors.numpy import load_file

from jaxbert.train.programs import Compiled, group_batches
from jaxbert.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("shared_programs")


def grouped(shapes: str, most: int, ends=(), first_step: int = 0) -> list[str]:
    """Group batches that have one shape a letter, and say which went together."""
    batches = ({"input_ids": np.zeros(ord(letter))} for letter in shapes)
    groups = group_batches(batches, most, first_step, lambda step: step in ends)
    return ["".join(chr(len(batch["input_ids"])) for batch in group) for group in groups]


@pytest.mark.parametrize(
    ("shapes", "most", "ends", "expected"),
    [
        ("aaaaa", 1, (), ["a"] * 5),
        ("aaaaaa", 3, (), ["aaa", "aaa"]),
        ("aaaaa", 3, (), ["aaa", "a", "a"]),
        ("aabbbba", 2, (), ["aa", "bb", "bb", "a"]),
        ("abab", 2, (), ["a", "b", "a", "b"]),
        ("aaaaaaa", 3, (2, 5), ["a", "a", "aaa", "a", "a"]),
        ("aaaaaa", 3, (3, 6), ["aaa", "aaa"]),
        ("", 3, (), []),
    ],
)
def test_groups(shapes, most, ends, expected):
    assert grouped(shapes, most, ends) == expected
    assert grouped(shapes, most, [end + 10 for end in ends], first_step=10) == expected


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


def keys(problem, run, together):
    """Dropout is on; the milestones (3, 6, 9, 12 and the epochs' ends 7 and 14) cut the stretches of equal shape."""
    return {
        "data__validation": problem.folder / "dev.csv",
        "train__output_dir": problem.folder / run,
        "train__checkpoint_every": 3,
        "train__steps_per_dispatch": together,
    }


@pytest.fixture(scope="module")
def one_by_one(problem):
    assert problem.train(**keys(problem, "one-by-one", 1)) == 0
    return problem.folder / "one-by-one"


def assert_same_run(run, expected) -> None:
    """The same lines and the same steps saved; losses and weights within the rounding of another program."""
    lines, expected_lines = read_metrics(run), read_metrics(expected)
    assert [(line["step"], "train_loss" in line) for line in lines] == [
        (line["step"], "train_loss" in line) for line in expected_lines
    ]
    for name in ("train_loss", "learning_rate", "grad_norm", "eval_loss"):
        values, expected_values = ([line[name] for line in found if name in line] for found in (lines, expected_lines))
        np.testing.assert_allclose(values, expected_values, rtol=1e-5, err_msg=name)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {p.name for p in (expected / "checkpoints").iterdir()}
    tensors, expected_tensors = (load_file(r / "export" / "model.safetensors") for r in (run, expected))
    for name, tensor in expected_tensors.items():
        np.testing.assert_allclose(tensors[name], tensor, rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def three_together(problem):
    """The run, and how many steps each dispatch had."""
    dispatched = []
    call = Compiled.__call__

    def count(self, state, batch, *rest):
        if "labels" in batch:  # evaluation has none
            dispatched.append(batch["labels"].shape[0] if batch["labels"].ndim == 3 else 1)
        return call(self, state, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compiled, "__call__", count)
        assert problem.train(**keys(problem, "three-together", 3)) == 0
    return problem.folder / "three-together", dispatched


def test_a_run_takes_the_same_steps(one_by_one, three_together):
    run, dispatched = three_together
    assert sum(dispatched) == 14
    assert dispatched.count(3) >= 2
    assert_same_run(run, one_by_one)


@pytest.mark.parametrize("later", [3, 1])
def test_a_run_goes_on_with_any_number(problem, one_by_one, three_together, monkeypatch, later):
    """Met between two groups; the number may be another one when it goes on."""
    run, dispatch = f"went-on-{later}", Trainer._dispatch

    def crash(self, *args):
        if self._dispatched >= 8:
            raise RuntimeError("the power is gone")
        dispatch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_dispatch", crash)
        with pytest.raises(RuntimeError, match="the power is gone"):
            problem.train(**keys(problem, run, 3))
    assert problem.train(**keys(problem, run, later)) == 0
    assert_same_run(problem.folder / run, one_by_one)
    if later == 3:
        assert weights(problem.folder / run) == weights(three_together[0])
    assert json.loads((problem.folder / run / "summary.json").read_text())["steps"] == 14
