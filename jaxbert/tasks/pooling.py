"""Pool the windows of an example, to one output, one loss and one prediction for each example; and log-odds of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import logsumexp

from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Pooling
from jaxbert.tasks.base import Batch

_NO_DOUBT = 1e-7
"""The least missing probability: at 0 the power has no derivative."""


def focal_factor(log_probability: Array, gamma: float) -> Array:
    """Return the factor of a loss in the focal loss (Lin et al., 2017, arXiv 1708.02002): a power of what is missing to 1.

    Args:
      log_probability: the logarithm of the probability that the model gives to what is true, any shape.
      gamma: the power, above 0.
    """
    missing = -jnp.expm1(log_probability)
    return jnp.maximum(missing, _NO_DOUBT) ** gamma


def pool_examples(logits_BSC: Array, batch: Batch, how: Pooling | None) -> tuple[Array, Batch]:
    """Pool the logits of all windows of each example, in any rows of the batch; without `how`, nothing changes.

    Returns:
      Logits [1, B * S, C] of the examples in the order of the step, with their `labels` and `example_mask`.
    """
    if how is None or "example_index" not in batch:
        return logits_BSC, batch
    real_W = batch["example_mask"].reshape(-1)
    windows = real_W.shape[0]
    example_W = jnp.where(real_W, batch["example_index"].reshape(-1), windows)  # unused slots are dropped
    logits_WC = logits_BSC.reshape(windows, -1)
    count_D = jax.ops.segment_sum(real_W.astype(logits_WC.dtype), example_W, windows)
    if how == "max":
        pooled_DC = jax.ops.segment_max(logits_WC, example_W, windows)
        pooled_DC = jnp.where(count_D[:, None] > 0, pooled_DC, 0.0)
    else:
        pooled_DC = jax.ops.segment_sum(logits_WC, example_W, windows) / jnp.maximum(count_D, 1)[:, None]
    labels = batch["labels"]
    labels_W = labels.reshape(windows, *labels.shape[2:])
    labels_D = jnp.zeros_like(labels_W).at[example_W].set(labels_W, mode="drop")
    return pooled_DC[None], {"labels": labels_D[None], "example_mask": (count_D > 0)[None]}


def log_odds(logits_BSC: Array, labels_BS: Array) -> Array:
    """Return the log-odds of one label against all others for each example, from float32 logits, [B, S]."""
    own_BSC = jax.nn.one_hot(labels_BS, logits_BSC.shape[-1], dtype=bool)
    of_others_BS = jax.nn.logsumexp(jnp.where(own_BSC, jnp.finfo(jnp.float32).min, logits_BSC), axis=-1)
    return jnp.where(own_BSC, logits_BSC, 0.0).sum(-1) - of_others_BS


def pool_windows(
    logits: np.ndarray, examples: Examples, how: Pooling | None, first: int = 0, last: int | None = None
) -> np.ndarray:
    """Pool the logits of windows, [W, ...], to examples `first` to `last - 1`; without `how`, segments are examples."""
    last = len(examples) if last is None else last
    if how is None or examples.windows is None:
        return logits[first:last]
    begins = examples.windows.first[first : last + 1]
    return _pool(logits[begins[0] : begins[-1]], examples.windows.counts[first:last], how)


def _pool(rows: np.ndarray, counts: np.ndarray, how: Pooling) -> np.ndarray:
    """Pool each group of consecutive rows; `counts` are the sizes of the groups."""
    places = np.cumsum(counts) - counts
    if how == "max":
        return np.maximum.reduceat(rows, places)
    return np.add.reduceat(rows, places) / counts.reshape(-1, *[1] * (rows.ndim - 1)).astype(rows.dtype)


def mean_of_logs(logs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logarithms of the mean of some arrays of probabilities, which are given as logarithms; float64."""
    return logsumexp(np.stack(logs).astype(np.float64), axis=0) - math.log(len(logs))


def spread_over_windows(values: np.ndarray, examples: Examples, how: Pooling | None) -> np.ndarray:
    """Give each window the value of its example, float32 [W, ...]: pooled, they are the values of the examples again."""
    whole = values.astype(np.float32)
    return whole if how is None or examples.windows is None else np.repeat(whole, examples.windows.counts, axis=0)


class WholeExamples:
    """Pools windows that arrive in any order; an example is returned when its last window has arrived."""

    def __init__(self, examples: Examples, how: Pooling | None) -> None:
        self._how = how
        self._windows = None if how is None else examples.windows
        if self._windows is not None:
            self._missing = self._windows.counts.copy()
            self._waiting: dict[int, np.ndarray] = {}

    def add(self, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the outputs of some windows; return the examples that are now complete, and a pooled output for each."""
        if self._windows is None or self._how is None:
            return ids, rows
        self._waiting.update((int(window), row.copy()) for window, row in zip(ids, rows, strict=True))
        documents, found = np.unique(self._windows.examples_of(ids), return_counts=True)
        self._missing[documents] -= found
        whole = documents[self._missing[documents] == 0]
        members, _ = self._windows.members(whole)
        if not len(members):
            return whole, rows[:0]
        together = np.stack([self._waiting.pop(window) for window in members.tolist()])
        return whole, _pool(together, self._windows.counts[whole], self._how)
