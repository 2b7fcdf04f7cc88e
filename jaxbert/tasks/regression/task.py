"""Regression: a score for each example, trained with the mean squared error. `tasks.reading` reads the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import BertConfig

from jaxbert.config import Config, TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import LabelRules, Labels, scores_of
from jaxbert.data.labels import Head
from jaxbert.data.overview import Labelling
from jaxbert.data.store import Stored
from jaxbert.data.tokens import AS_IT_IS, Reading
from jaxbert.errors import UserError
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.tasks import settings_of, with_labels, with_settings
from jaxbert.tasks.base import Batch, Sums
from jaxbert.tasks.pooling import pool_examples, pool_windows, spread_over_windows
from jaxbert.tasks.reading import TextTask

LABEL = "score"
"""The name of the only output in the configuration of an export."""


@dataclass(frozen=True)
class Regression(TextTask):
    """Give each example a number."""

    name = "regression"
    assumes = "each text has a score"
    label_kind = "number"
    head = SequenceClassificationHead
    architecture = "ForSequenceClassification"
    answer_keys = ("score",)
    default_metric = "pearson"
    explains = "score"

    reading: Reading = AS_IT_IS
    """How long texts are read."""

    @classmethod
    def fit(
        cls, labels: Labels, config: Config, rules: LabelRules, head: Head | None, reading: Reading
    ) -> tuple[Regression, bool]:
        """Check that no setting for labels is used, and return the task and whether it needs a new head."""
        if config.data.label_names is not None or config.model.num_labels not in (None, 1):
            raise UserError("task regression learns one score: remove data.label_names and model.num_labels")
        for key in ("class_weights", "label_smoothing", "focal_gamma"):
            if getattr(config.train, key) != getattr(TrainConfig(), key):
                raise UserError(f"task regression has no labels: remove train.{key}")
        if (labels.codes == labels.codes[0]).all():
            raise UserError(f"{labels.source}: every score is {scores_of(labels)[0]:g}: at least two are needed")
        return cls(reading), False

    def check_map(self, rules: LabelRules, sources: Sequence[Stored]) -> None:
        """Raise `UserError` if `data.label_map` is set: scores have no names."""
        if rules.map:
            raise UserError("data.label_map renames labels, but this model gives a score: leave it out")

    def encode(self, labels: Labels, rules: LabelRules) -> np.ndarray:
        """Return the scores, float32 [N]."""
        return scores_of(labels)

    def overview(self, labels: Labels, encoded: np.ndarray) -> Labelling:
        """Return the smallest, mean and largest score."""
        numbers = {
            "min": float(encoded.min()),
            "mean": float(encoded.mean(dtype=np.float64)),
            "max": float(encoded.max()),
        }
        return Labelling("score", numbers=numbers, keys=encoded, named=lambda i: f"{encoded[i]:g}")

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Name the output."""
        named = with_labels(bert_config, (LABEL,), "regression")
        return with_settings(named, self.name, reading=self.reading.to_dict())

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> Regression:
        """Check that there is one output."""
        if bert_config.num_labels != 1:
            raise UserError(f"the model says that it is for regression, but has {bert_config.num_labels} outputs")
        return cls(Reading.of(settings_of(bert_config).get("reading")))

    def describe(self) -> str:
        """Return the task in a few words."""
        return "a score each"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the squared errors of real examples, in float32."""
        scores_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        errors_BS = scores_BSC[..., 0] - batch["labels"]
        real_BS = batch["example_mask"]
        return {"loss": jnp.where(real_BS, errors_BS**2, 0.0).sum(), "examples": real_BS.sum()}

    def distance(self, outputs: dict[str, Any], batch: Batch, totals: Sums, temperature: float) -> Sums:
        """Sum the squared differences from the teacher's scores over real examples; the temperature has no meaning."""
        scores_BSC, pooled = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        targets_BSC, _ = pool_examples(batch["targets"][..., None], batch, self.reading.pooling)
        real_BS = pooled["example_mask"]
        errors_BS = (scores_BSC - targets_BSC)[..., 0]
        return {"loss": jnp.where(real_BS, errors_BS**2, 0.0).sum(), "examples": real_BS.sum()}

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return scores [B, S], float32."""
        return outputs["logits"][..., 0].astype(jnp.float32)

    def average(self, parts: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return the mean scores of several models."""
        how = self.reading.pooling
        return spread_over_windows(
            np.mean([pool_windows(part, examples, how) for part in parts], axis=0), examples, how
        )

    def explained(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the score of each example."""
        scores_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        return jnp.where(batch["example_mask"], scores_BSC[..., 0], 0.0)

    def labels_and_answers(self, predictions: np.ndarray, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted scores, [N]."""
        return np.asarray(examples.labels), pool_windows(predictions, examples, self.reading.pooling)

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that are single numbers."""
        return ["pearson", "spearman", "loss", "mse", "mae", "r2"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute correlations and errors; a correlation with constant values is 0."""
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

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `score`."""
        return [
            {"score": round(float(score), 6)}
            for score in pool_windows(predictions, examples, self.reading.pooling, first, last)
        ]
