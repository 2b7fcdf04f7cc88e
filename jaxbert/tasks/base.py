"""What the trainer asks of a task.

The trainer knows packed batches, sums and predictions, and nothing of labels or losses: a new task is a new class here. How
its data are read is the part of `train.kinds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from flax import nnx
from jax import Array

from jaxbert.data.examples import Examples

Batch = dict[str, Array]
Sums = dict[str, Array]
_LISTED = 20
_FIRST = 5


class Task(Protocol):
    """One way to train and use BERT."""

    @property
    def head(self) -> type[nnx.Module]:
        """The module that is trained."""
        ...

    @property
    def architecture(self) -> str:
        """The class of transformers that loads the export."""
        ...

    @property
    def answer_keys(self) -> tuple[str, ...]:
        """The keys of an answer, in order."""
        ...

    @property
    def per_token(self) -> bool:
        """Whether predictions belong to tokens, [B, T, ...], and not to examples, [B, S, ...]."""
        ...

    @property
    def default_metric(self) -> str:
        """The metric that chooses the best checkpoint where the user names none."""
        ...

    def describe(self) -> str:
        """Say in a few words what is learned, `labels: neg, pos`."""
        ...

    def totals(self, batch: Batch) -> Sums:
        """Count what the loss of a whole step is divided by, before it is cut into slices; `examples` always."""
        ...

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Return sums over the real examples of a batch, or of a slice of the step that `totals` counted.

        Training minimizes `loss` divided by `totals["examples"]`.
        """
        ...

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return what evaluation needs of each example, [B, S, ...], or of each token, [B, T, ...]."""
        ...

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Return all metrics by name, the headline ones first.

        Args:
          predictions: [N, ...] in the order of the examples, or aligned with `examples.tokens.ids`.
          examples: with labels.
        """
        ...

    def tally(self, examples: Examples) -> Tally:
        """Return what makes the same metrics of predictions that come piece by piece."""
        ...

    def metric_names(self) -> list[str]:
        """Return the metrics by which a best checkpoint can be chosen."""
        ...

    def learned(self, evaluation: dict[str, Any]) -> Task:
        """Return the task with what an evaluation on the validation set has found for it, as an export keeps it."""
        ...

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return one JSON-ready answer for each document from `first` to `last - 1`, in the order of the source."""
        ...


class Tally(Protocol):
    """Metrics in the making: of the predictions for a whole set it keeps what the metrics need, and no more."""

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Take the predictions [n, ...] of examples, or of tokens, at these places; in any order, each once."""
        ...

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by name, when everything was added."""
        ...


class Gathered:
    """Predictions that come piece by piece, put together."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: np.ndarray | None = None

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Put a piece in its place."""
        if self._rows is None:
            self._rows = np.zeros((self._count, *predictions.shape[1:]), predictions.dtype)
        self._rows[ids] = predictions

    @property
    def rows(self) -> np.ndarray:
        """All predictions, in order."""
        assert self._rows is not None, "no examples"
        return self._rows


class GatheredTally(Gathered):
    """The metrics of a task that needs all predictions at once, where they are a few numbers an example or a token."""

    def __init__(self, task: Task, examples: Examples) -> None:
        super().__init__(count_predictions(task, examples))
        self._task, self._examples = task, examples

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all."""
        return self._task.metrics(self.rows, self._examples)


def metrics_of(tally: Tally, predictions: np.ndarray) -> dict[str, Any]:
    """Return the metrics of predictions that are there at once."""
    tally.add(np.arange(len(predictions)), predictions)
    return tally.metrics()


def count_predictions(task: Task, examples: Examples) -> int:
    """Count the rows of a set's predictions: one for each example, or for each token."""
    return len(examples.tokens.ids) if task.per_token else len(examples.tokens)


def listed(names: Sequence[str]) -> str:
    """Name labels on one line: all of a few, else the first few and how many there are."""
    if len(names) <= _LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_FIRST])}, ... ({len(names):,})"


def count_documents(batch: Batch) -> Array:
    """Count the documents of a batch; an example that is none's window is one."""
    if "document" in batch:
        return (batch["document"] * batch["example_mask"]).max() + 1
    return batch["example_mask"].sum()
