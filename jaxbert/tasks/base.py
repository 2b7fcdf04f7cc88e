"""What the trainer asks of a task.

The trainer knows packed batches, sums and predictions, and nothing of labels or losses: a new task is a new class here. How
its data are read is the part of `train.kinds`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from flax import nnx
from jax import Array

from jaxbert.data.examples import Examples

Batch = dict[str, Array]
Sums = dict[str, Array]


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

    def metric_names(self) -> list[str]:
        """Return the metrics by which a best checkpoint can be chosen."""
        ...

    def learned(self, evaluation: dict[str, Any]) -> Task:
        """Return the task with what an evaluation on the validation set has found for it, as an export keeps it."""
        ...

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return one JSON-ready answer for each document from `first` to `last - 1`, in the order of the source."""
        ...


def count_documents(batch: Batch) -> Array:
    """Count the documents of a batch; an example that is none's window is one."""
    if "document" in batch:
        return (batch["document"] * batch["example_mask"]).max() + 1
    return batch["example_mask"].sum()
