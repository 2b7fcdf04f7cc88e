"""What the trainer asks of a task.

The trainer knows packed batches, sums and predictions, and nothing of labels or losses: a new task is a new class here.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from flax import nnx
from jax import Array

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

    def sums(self, outputs: dict[str, Any], batch: dict[str, Array], *, train: bool) -> Sums:
        """Return sums over the real examples of a batch; `loss` is the one that training minimizes."""
        ...

    def predictions(self, outputs: dict[str, Any]) -> Array:
        """Return what evaluation needs of each example, [B, S, ...]."""
        ...

    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Return all metrics by name, over predictions [N, ...] in the order of `labels`."""
        ...

    def answers(self, predictions: np.ndarray) -> list[dict[str, Any]]:
        """Return one JSON-ready answer for each prediction."""
        ...
