"""Regression: a score for each example, by the mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxbert.data.examples import Examples
from jaxbert.data.long_texts import AS_IT_IS, Reading
from jaxbert.models.heads import SequenceClassification
from jaxbert.tasks.base import Batch, GatheredTally, Sums, Tally, count_documents
from jaxbert.tasks.pooling import pool_documents, pool_windows

LABEL = "score"
"""The name of the only output, in the configuration of an export."""


@dataclass(frozen=True)
class Regression:
    """Give each example a number."""

    reading: Reading = AS_IT_IS
    """How long texts are read."""
    head: type[nnx.Module] = SequenceClassification
    architecture: str = "BertForSequenceClassification"
    answer_keys: tuple[str, ...] = ("score",)
    per_token: bool = False
    default_metric: str = "pearson"

    def describe(self) -> str:
        """Say that a score is learned."""
        return "a score each"

    def totals(self, batch: Batch) -> Sums:
        """Count the examples."""
        return {"examples": count_documents(batch)}

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the squared errors of real examples, in float32."""
        scores_BSC, batch = pool_documents(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        errors_BS = scores_BSC[..., 0] - batch["labels"]
        real_BS = batch["example_mask"]
        return {"loss": jnp.where(real_BS, errors_BS**2, 0.0).sum(), "examples": real_BS.sum()}

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return scores [B, S], float32."""
        return outputs["logits"][..., 0].astype(jnp.float32)

    def tally(self, examples: Examples) -> Tally:
        """Gather all predictions."""
        return GatheredTally(self, examples)

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        return ["pearson", "spearman", "loss", "mse", "mae", "r2"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute correlations and errors; a correlation with what does not vary is 0."""
        from scipy import stats

        assert examples.labels is not None
        predictions = pool_windows(predictions, examples, self.reading.pooling)
        found, expected = predictions.astype(np.float64), examples.labels.astype(np.float64)
        varied = len(found) > 1 and np.ptp(found) > 0 and np.ptp(expected) > 0
        mse = float(((found - expected) ** 2).mean())
        variance = float(expected.var())
        return {
            "pearson": float(stats.pearsonr(found, expected)[0]) if varied else 0.0,
            "spearman": float(stats.spearmanr(found, expected)[0]) if varied else 0.0,
            "loss": mse,
            "mse": mse,
            "mae": float(np.abs(found - expected).mean()),
            "r2": 1 - mse / variance if variance else 0.0,
            "examples": len(expected),
        }

    def learned(self, evaluation: dict[str, Any]) -> Regression:
        """Return itself: an evaluation finds nothing to keep."""
        return self

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `score`."""
        return [
            {"score": round(float(score), 6)}
            for score in pool_windows(predictions, examples, self.reading.pooling, first, last)
        ]
