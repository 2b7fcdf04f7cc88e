"""What a Python program adds to a run: functions that are called while it goes on, a loss and metrics of its own.

Callbacks see numbers of the host, one step late: the device never waits for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jaxbert.errors import UserError
from jaxbert.tasks.base import Task

STOP: Final = "stop"
"""What a callback returns to end the run as if this were its last step: it is evaluated, saved and exported."""


class Callback:
    """What is called while a run goes on; a subclass overrides what it needs.

    Each method may return `jaxbert.STOP` to end the run, and nothing else. What it raises ends the run at once and passes
    through: the last checkpoint stays, and the same call goes on from there. Of several processes each calls its own; they
    must decide alike.
    """

    def on_step(self, step: int, values: Mapping[str, Any]) -> str | None:
        """Take the numbers of a step, after the next one has begun.

        Args:
          step: its number, from 1.
          values: `loss` (the mean over its examples), `learning_rate`, `grad_norm`, `bad` (whether it was skipped because
            something was not finite), `epoch`, `examples_per_second`, `real_tokens_per_second`.
        """
        return None

    def on_evaluate(self, step: int, metrics: Mapping[str, Any]) -> str | None:
        """Take all metrics of an evaluation on the validation set.

        Args:
          step: how many steps were taken before it.
          metrics: by name, as `summary.json` has them in `eval`.
        """
        return None

    def on_save(self, step: int, path: os.PathLike[str]) -> str | None:
        """Take note that a checkpoint is being written.

        Args:
          step: how many steps it holds.
          path: its folder, which has this name when it is whole.
        """
        return None


Function = Callable[[str, int, Any], Any]
"""`(event, step, values)`: the event is "step", "evaluate" or "save"; what stands last is what the method gets."""


class Callbacks:
    """All callbacks of a run, in their order."""

    def __init__(self, callbacks: Sequence[Callback | Function] = ()) -> None:
        """Take them.

        Raises:
          UserError: for one that cannot be called, or a class where an object is needed.
        """
        for callback in callbacks:
            if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
                raise UserError(
                    f"callbacks: {callback!r} is no callback: give functions (event, step, values), or objects of classes "
                    "that derive from jaxbert.Callback"
                )
        self._callbacks = tuple(callbacks)
        self._raised = False
        self.stop = False
        """Whether one has asked for the end."""

    def tell(self, event: str, step: int, values: Any) -> None:
        """Call them for "step", "evaluate" or "save"; none is called any more after one has raised."""
        for callback in self._callbacks if not self._raised else ():
            self._raised = True
            if isinstance(callback, Callback):
                answer = getattr(callback, f"on_{event}")(step, values)
            else:
                answer = callback(event, step, values)
            self._raised = False
            self.stop = self.stop or (isinstance(answer, str) and answer == STOP)


@dataclass(frozen=True)
class Additions:
    """What a Python program adds to the run of a configuration."""

    callbacks: Callbacks
    change_task: Callable[[Task], Task] = lambda task: task
    """Gives a task the program's own loss and metrics."""
    loss: str | None = None
    """The name of its own loss; None for the task's."""


NOTHING: Final = Additions(Callbacks())
"""What the command line adds."""
