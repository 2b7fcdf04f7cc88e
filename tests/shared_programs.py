"""Compiled programs that the runs of a test process share: a run that goes on takes those of the run it is compared with.

Two thirds of a small run's time are tracing its step, lowering it and taking it from JAX's cache. A test file that compares
runs, or asks one model again and again, has `pytestmark = pytest.mark.usefixtures("shared_programs")`. What a process
compiles by itself is looked at elsewhere: in `train/test_compilations.py`, and wherever a test starts a command.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # every test process imports this file, and few these
    from jaxbert.train.evaluate import Predictor
    from jaxbert.train.programs import Program

_HOST_ALONE = (
    "output_dir",
    "seed",
    "epochs",
    "max_steps",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
)
"""Keys of `train` that no program depends on; how many steps there are in all is told by `Program.total_steps`."""
_KEPT: dict[Hashable, Any] = {}


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """Let equal models with equal tasks, options, optimizers and devices share their programs."""
    from jaxbert.train.evaluate import Predictor
    from jaxbert.train.programs import Program

    step_programs, finish_predictor = Program.step_programs, Predictor.__post_init__

    def shared_steps(self: Program) -> Any:
        identity = _identity(self)
        if identity is None:
            return step_programs(self)
        if identity not in _KEPT:
            _KEPT[identity] = step_programs(self)
        return _KEPT[identity]

    def shared_predictions(self: Predictor) -> None:
        finish_predictor(self)
        if (identity := _identity(self)) is not None:
            self.step = _KEPT.setdefault(identity, self.step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "step_programs", shared_steps)
        patch.setattr(Predictor, "__post_init__", shared_predictions)
        yield


def _identity(owner: Program | Predictor) -> Hashable:
    """Return all that a traced program depends on but the shapes of its arrays, which `Compiled` tells apart.

    None for a task to which a test has added a loss or metrics of its own.
    """
    from jaxbert.tasks import task_class

    model, mesh = owner.model, owner.mesh
    if type(owner.task) is not task_class(owner.task.name):
        return None
    modules = inspect.getclosurevars(model.apply).nonlocals["graphdef"]  # with the number format of the products
    parts = [
        type(owner),
        model.head,
        model.config.to_json_string(),
        owner.task,
        owner.call,
        mesh.devices.tolist(),
        mesh.shape,
    ]
    if hasattr(owner, "total_steps"):
        config = owner.config
        same = {name: getattr(type(config.train)(), name) for name in _HOST_ALONE}
        parts += [config.model, config.optimizer, config.precision, dataclasses.replace(config.train, **same)]
        parts += [owner.total_steps, owner.tuned]
    return modules, *map(repr, parts)
