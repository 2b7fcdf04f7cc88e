"""Multi-label text classification: a sigmoid for each label, and one threshold that is tuned on the validation set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxbert.config import TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.labels import IntegerLabels
from jaxbert.data.long_texts import AS_IT_IS, Reading
from jaxbert.errors import UserError
from jaxbert.models.heads import SequenceClassification
from jaxbert.tasks.base import Batch, Sums, count_documents
from jaxbert.tasks.pooling import pool_documents, pool_windows
from jaxbert.tasks.top_k import shown_probabilities

_UNTUNED = 0.5


@dataclass(frozen=True)
class MultiLabel:
    """Give each example any number of C labels."""

    label_names: tuple[str, ...]
    positive_weights: tuple[float, ...] | None = None
    """Factor of the loss where a label is present, in training; None is 1 for all."""
    label_smoothing: float = 0.0
    integers: IntegerLabels = "either"
    """What an integer in a label column means."""
    threshold: float | None = None
    """Probability from which a label is given; None: the best for the examples that are evaluated."""
    reading: Reading = AS_IT_IS
    """How long texts are read."""
    top_k: int | None = None
    """How many labels an answer shows the probabilities of; None: all of up to 20, else the best 5."""
    head: type[nnx.Module] = SequenceClassification
    architecture: str = "BertForSequenceClassification"
    per_token: bool = False
    default_metric: str = "f1_micro"

    def describe(self) -> str:
        """Name the labels."""
        return f"any of the labels: {', '.join(self.label_names)}"

    def totals(self, batch: Batch) -> Sums:
        """Count the examples."""
        return {"examples": count_documents(batch)}

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum over real examples the mean of their labels' losses, in float32; weights and smoothing in training only."""
        logits_BSC, batch = pool_documents(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        present_BSC, real_BS = batch["labels"].astype(jnp.float32), batch["example_mask"]
        targets_BSC = present_BSC
        if train and self.label_smoothing:
            targets_BSC = present_BSC * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses_BSC = optax.sigmoid_binary_cross_entropy(logits_BSC, targets_BSC)
        if train and self.positive_weights is not None:
            weights_C = jnp.asarray(self.positive_weights)
            losses_BSC = losses_BSC * jnp.where(present_BSC > 0, weights_C[None, None], 1.0)
        return {"loss": jnp.where(real_BS, losses_BSC.mean(-1), 0.0).sum(), "examples": real_BS.sum()}

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return log-odds [B, S, C], float32."""
        return outputs["logits"].astype(jnp.float32)

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        made_up = self._metrics(np.zeros((2, len(self.label_names)), np.float32), np.eye(2, len(self.label_names)) > 0)
        return [name for name, value in made_up.items() if isinstance(value, float) and name != "threshold"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute F1, precision and recall, micro, macro and by label, at the threshold; the headline ones first."""
        assert examples.labels is not None
        return self._metrics(pool_windows(predictions, examples, self.reading.pooling), examples.labels)

    def _metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        from sklearn import metrics

        probabilities = np.asarray(jax.nn.sigmoid(predictions))
        threshold = best_threshold(probabilities, labels) if self.threshold is None else self.threshold
        predicted = probabilities >= threshold

        def scores(average: str | None) -> Any:
            return metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)

        micro, macro, by_label = scores("micro"), scores("macro"), scores(None)
        losses = np.logaddexp(0, predictions.astype(np.float64)) - labels * predictions
        return {
            "f1_micro": float(micro[2]),
            "f1_macro": float(macro[2]),
            "threshold": float(threshold),
            "loss": float(losses.mean()),
            "precision_micro": float(micro[0]),
            "recall_micro": float(micro[1]),
            "precision_macro": float(macro[0]),
            "recall_macro": float(macro[1]),
            "exact_match": float((predicted == labels).all(-1).mean()),
            "examples": len(labels),
            "per_class": {
                name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
                for name, p, r, f, s in zip(self.label_names, *by_label, strict=True)
            },
        }

    def learned(self, evaluation: dict[str, Any]) -> MultiLabel:
        """Keep the threshold that an evaluation has found."""
        return dataclasses.replace(self, threshold=evaluation.get("threshold", self.threshold))

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `labels` (those from the threshold on, the most probable first) and the `probabilities` of the best."""
        threshold = _UNTUNED if self.threshold is None else self.threshold
        answers = []
        for row in np.asarray(jax.nn.sigmoid(pool_windows(predictions, examples, self.reading.pooling, first, last))):
            given = [self.label_names[i] for i in np.argsort(-row, kind="stable") if row[i] >= threshold]
            answers.append({"labels": given, "probabilities": shown_probabilities(self.label_names, row, self.top_k)})
        return answers


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the probability from which giving labels has the largest micro F1; half-way to the next lower one.

    Args:
      probabilities: [N, C].
      labels: bool [N, C].
    """
    flat, present = probabilities.ravel(), labels.ravel()
    if not present.any():
        return _UNTUNED
    order = np.argsort(-flat, kind="stable")
    values, hits = flat[order], np.cumsum(present[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + present.sum())
    last_of_value = np.append(values[1:] != values[:-1], True)
    best = int(np.argmax(np.where(last_of_value, f1, -1)))
    lower = values[best + 1] if best + 1 < len(values) else 0.0
    return float((values[best].astype(np.float64) + lower) / 2)


def resolve_positive_weights(
    train: TrainConfig, labels: np.ndarray, label_names: tuple[str, ...]
) -> tuple[float, ...] | None:
    """Turn `train.class_weights` into one factor a label, for the examples that have it.

    `balanced` is how many examples lack it for each that has it; a label that does not occur gets 1.

    Raises:
      UserError: if a given list has another length than the labels.
    """
    if train.class_weights == "none":
        return None
    if train.class_weights == "balanced":
        counts = labels.sum(0)
        return tuple(float((len(labels) - c) / c) if c else 1.0 for c in counts)
    weights = tuple(float(w) for w in train.class_weights)
    if len(weights) != len(label_names):
        raise UserError(
            f"train.class_weights has {len(weights)} weights, but there are {len(label_names)} labels: "
            f"give one for each of {', '.join(label_names)}"
        )
    return weights
