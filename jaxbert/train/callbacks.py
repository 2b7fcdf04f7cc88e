"""Callbacks, and the other additions of a Python program to a run: its own loss and metrics.

Callbacks receive numbers on the host one step late, so the device does not wait for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from jaxbert.errors import UserError
from jaxbert.tasks.base import Inputs, Task

if TYPE_CHECKING:
    from jaxbert.train.pretrained import Pretrained
    from jaxbert.train.run import Run
    from jaxbert.train.step import State

STOP: Final = "stop"
"""A callback returns it to end the run as if this were the last step: the run is evaluated, saved and exported."""


class Callback:
    """Base class of objects that are called during a run. A subclass overrides the methods that it needs.

    Each method returns None, or `jaxbert.STOP` to end the run. An exception in a method ends the run at once and reaches the
    caller; the last checkpoint stays, and the same call resumes from it. In a run of several processes each process calls
    its own callbacks, and all of them must return the same decision.
    """

    def on_step(self, step: int, values: Mapping[str, Any]) -> str | None:
        """Receive the numbers of a step. It is called when the next step has begun.

        Args:
          step: the number of the step, from 1.
          values: `loss` (the mean over the examples of the step), `learning_rate`, `grad_norm`, `bad` (whether the step was
            skipped because its loss or gradient was not finite), `epoch`, `examples_per_second`, `real_tokens_per_second`.
        """
        return None

    def on_evaluate(self, step: int, metrics: Mapping[str, Any]) -> str | None:
        """Receive all metrics of an evaluation on the validation set.

        Args:
          step: the number of steps before the evaluation.
          metrics: the metrics by name, as in `eval` of `summary.json`.
        """
        return None

    def on_save(self, step: int, path: os.PathLike[str]) -> str | None:
        """Called when the run begins to write a checkpoint.

        Args:
          step: the number of steps before the checkpoint.
          path: the folder of the checkpoint; it exists when the checkpoint is complete.
        """
        return None


Function = Callable[[str, int, Any], Any]
"""`(event, step, values)`: the event is "step", "evaluate" or "save"; `values` is the last argument of the method."""


class Callbacks:
    """All callbacks of a run, in their order."""

    def __init__(self, callbacks: Sequence[Callback | Function] = ()) -> None:
        """Make callbacks of objects and functions.

        Raises:
          UserError: if one cannot be called, or is a class instead of an object.
        """
        for callback in callbacks:
            if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
                raise UserError(
                    f"callbacks: {callback!r} is not a callback: give functions (event, step, values), or objects of "
                    "classes that derive from jaxbert.Callback"
                )
        self._callbacks = tuple(callbacks)
        self._raised = False
        self.stop = False
        """Whether a callback has asked to end the run."""

    def tell(self, event: str, step: int, values: Any) -> None:
        """Call all callbacks for "step", "evaluate" or "save"; after one has raised, no callback is called any more."""
        for callback in self._callbacks if not self._raised else ():
            self._raised = True
            if isinstance(callback, Callback):
                answer = getattr(callback, f"on_{event}")(step, values)
            else:
                answer = callback(event, step, values)
            self._raised = False
            self.stop = self.stop or (isinstance(answer, str) and answer == STOP)


class Stages(Protocol):
    """Changes the shape of a model before some steps of its training."""

    def check(self, run: Run) -> None:
        """Decide the shapes of a run that was just opened, before all else; raise `UserError` for one that cannot be."""
        ...

    def next_after(self, step: int) -> int | None:
        """Return the next step before which the shape changes, after `step` steps; None if there is none."""
        ...

    def is_due(self, step: int) -> bool:
        """Return whether the shape changes when `step` steps are taken."""
        ...

    def at(self, run: Run, step: int) -> Run:
        """Return the run with the shape that its checkpoint of this step has: the one before a change that is due."""
        ...

    def change(self, run: Run, state: State, step: int) -> tuple[Run, State]:
        """Return the run and its state with the next shape."""
        ...


@dataclass(frozen=True)
class Additions:
    """What is added to a configured run: by a Python program, or by a package that training does not know."""

    callbacks: Callbacks
    change_task: Callable[[Task], Task] = lambda task: task
    """A function that gives a task the program's own loss and metrics."""
    loss: str | None = None
    """The name of the program's own loss; None for the task's loss."""
    teach: Callable[[Inputs, Pretrained, int], tuple[Inputs, str]] | None = None
    """A function that adds a teacher's answers to the inputs, given the model and the longest segment, and the loss to the
    task; it also returns a text that changes with the teacher. None without `train.teacher`."""
    stages: Stages | None = None
    """The changes of `train.prune`; None without it."""
    facts: Callable[[], dict[str, Any]] = dict
    """A function that returns further entries of the summary, when the run is complete."""


NOTHING: Final = Additions(Callbacks())
"""No additions, as on the command line."""
