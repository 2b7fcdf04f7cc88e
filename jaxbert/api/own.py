"""A loss and metrics of the user's program, added to a task without changing the task."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.data.examples import Examples
from jaxbert.errors import UserError, kind_of, shorten
from jaxbert.tasks.base import Batch, Gathered, Sums, Tally, Task, count_predictions
from jaxbert.tasks.metrics import declare, is_known
from jaxbert.tasks.reading import TextTask
from jaxbert.train.run import Additions, Callback, Callbacks, Function

LossFunction = Callable[[dict[str, Any], Batch], Array]
"""Your own loss, `(outputs, batch) -> losses`. B rows, S example slots in each row, C labels (1 for scores):
`outputs["logits"]` is [B, S, C], `batch["labels"]` is [B, S], or [B, S, C] for several labels, and the losses are [B, S]:
one for each slot. Losses of unused slots are ignored."""
MetricFunction = Callable[[Any, Any], Any]
"""Your own metric, `(labels, predicted) -> number`, with the arguments in the order of scikit-learn. N examples, C labels:
two lists of N label names for classification, two arrays of 0 and 1, [N, C], for several labels, two arrays of scores, [N],
for regression, two lists of the places of choices for multiple choice, two lists of N lists of tags for token classification
(as seqeval takes them), and for question answering a list of N lists of true answers and a list of N texts."""


@dataclass(frozen=True)
class Metric:
    """Your own metric and its direction, so that `best_metric` may name it."""

    function: MetricFunction
    """The metric, `(labels, predicted) -> number`."""
    greater_is_better: bool
    """Whether a larger number is better."""


@dataclass(frozen=True)
class Own:
    """The loss and the metrics of the user's program."""

    loss: LossFunction | None = None
    metrics: Mapping[str, MetricFunction] = dataclasses.field(default_factory=dict)


class _OwnTask(Task):
    """Inserted before the class of a task: adds its own loss in training and its own metrics after those of the task."""

    own: Own

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Return the sums of the own loss over real examples."""
        sums = super().sums(outputs, batch, totals, train=train)
        if not train or self.own.loss is None:
            return sums
        real_BS = batch["example_mask"]
        losses = self.own.loss(outputs, batch)
        if not isinstance(losses, Array | np.ndarray | np.number | float | int):
            raise UserError(
                f"loss: gives {kind_of(losses)} ({shorten(repr(losses))}), but it must give an array of losses, [B, S]"
            )
        losses = jnp.asarray(losses, jnp.float32)
        if losses.shape == real_BS.shape[:1] and real_BS.shape[1] == 1:
            losses = losses[:, None]
        if losses.shape != real_BS.shape:
            raise UserError(
                f"loss: gives an array of shape {losses.shape}, but it must give one number for each example slot of each "
                f"row, {real_BS.shape} here: logits are [B, S, C], so leave the last axis out and no other"
            )
        return sums | {"loss": jnp.where(real_BS, losses, 0.0).sum()}

    def tally(self, examples: Examples) -> Tally:
        """Return a tally that also computes the own metrics of all predictions."""
        return _OwnTally(self, super().tally(examples), examples) if self.own.metrics else super().tally(examples)

    def metric_names(self) -> list[str]:
        """Return the task's names and the own ones."""
        return [*super().metric_names(), *self.own.metrics]


class _OwnTally(Gathered):
    """Computes the metrics of a task, and those of the user's program."""

    def __init__(self, task: _OwnTask, whole: Tally, examples: Examples) -> None:
        super().__init__(count_predictions(task, examples))
        self._task, self._whole, self._examples = task, whole, examples

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Add some predictions."""
        super().add(ids, predictions)
        self._whole.add(ids, predictions)

    def metrics(self) -> dict[str, Any]:
        """Return all metrics, those of the task first."""
        found = self._whole.metrics()
        labels, predicted = self._task.learned(found).labels_and_answers(self.rows, self._examples)
        functions = self._task.own.metrics
        if taken := [name for name in functions if name in found or name == "sets"]:
            raise UserError(f"metrics: {taken[0]!r} is the name of a result that jaxbert reports: choose another one")
        own = {name: _number(name, function(labels, predicted)) for name, function in functions.items()}
        head = {name: value for name, value in found.items() if isinstance(value, float)}
        return head | own | {name: value for name, value in found.items() if name not in head}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"metrics: {name!r} gave {shorten(repr(value))}, but it must give a number") from error


def make_additions(
    callbacks: Callback | Function | list[Callback | Function] | tuple[Callback | Function, ...],
    metrics: Mapping[str, MetricFunction | Metric],
    loss: LossFunction | None,
    best_metric: str | None,
) -> Additions:
    """Check the callbacks, metrics and loss that a program adds to a run.

    Raises:
      UserError: if one cannot be called, a name is taken, or the best metric has no direction.
    """
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    if loss is not None and not callable(loss):
        raise UserError(
            f"loss: {loss!r} is not a function: give a function (outputs, batch) that returns losses [B, S]"
        )
    functions = _functions(metrics)
    if best_metric in functions and not isinstance(metrics[best_metric], Metric):
        raise UserError(
            f"best_metric is {best_metric}, a metric of your own: say whether larger values are better, "
            f"metrics={{{best_metric!r}: jaxbert.Metric(FUNCTION, greater_is_better=True)}}"
        )
    change = partial(with_own, own=Own(loss, functions)) if loss or functions else lambda task: task
    name = (
        None
        if loss is None
        else f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', type(loss).__name__)}"
    )
    return Additions(Callbacks(given), change, name)


def _functions(metrics: Mapping[str, MetricFunction | Metric]) -> dict[str, MetricFunction]:
    """Record the directions of the metrics, and return their functions."""
    functions: dict[str, MetricFunction] = {}
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise UserError(
            f"metrics is {shorten(repr(metrics))}, but it must be a dictionary of functions by name: "
            '{"NAME": FUNCTION}'
        )
    for name, metric in metrics.items():
        if is_known(name):
            raise UserError(f"metrics: {name!r} is the name of a metric that jaxbert computes: choose another one")
        functions[name] = metric.function if isinstance(metric, Metric) else metric
        if not callable(functions[name]):
            raise UserError(
                f"metrics: {name!r} is not a function: give a function (labels, predicted) that returns a number"
            )
        declare(name, greater_is_better=metric.greater_is_better if isinstance(metric, Metric) else True)
    return functions


def with_own(task: Task, own: Own) -> Task:
    """Return the task with a loss and metrics of the user's program.

    Raises:
      UserError: if the task does not support them.
    """
    if own.loss is not None and not isinstance(task, TextTask):
        raise UserError(f"a loss of your own is for tasks that label complete texts, not for {task.name}")
    if own.metrics and type(task).labels_and_answers is Task.labels_and_answers:
        raise UserError(f"metrics of your own need the labels and answers of a task, which {task.name} does not give")
    reading = getattr(task, "reading", None)
    if own.loss is not None and getattr(reading, "pooling", None) is not None:
        raise UserError(
            "loss: texts in windows (data.long_texts) have one loss for several windows: set pooling to first"
        )
    changed = copy.copy(task)
    kind = type(task)
    sub = type(kind.__name__, (_OwnTask, kind), {"own": own, "__module__": kind.__module__})
    object.__setattr__(changed, "__class__", sub)
    return changed
