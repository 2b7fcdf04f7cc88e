"""Multi-label text classification: a sigmoid for each label, and one threshold that is tuned on the validation set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.special import expit
from transformers import BertConfig

from jaxbert.config import Config, TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import LabelRules, Labels
from jaxbert.data.label_lists import encode_lists, fit_label_lists
from jaxbert.data.labels import Head, IntegerLabels, count_labels, meaning_of
from jaxbert.data.overview import Labelling
from jaxbert.data.tokens import AS_IT_IS, Reading, hash_rows
from jaxbert.errors import UserError
from jaxbert.tasks.base import Batch, Sums, Tally, list_names, metrics_of
from jaxbert.tasks.exported import integers_of, label_names, settings_of, with_labels, with_settings
from jaxbert.tasks.label_scores import LabelScores
from jaxbert.tasks.multi_label.threshold import UNTUNED, Given, ThresholdSearch, given_from
from jaxbert.tasks.pooling import WholeExamples, pool_examples, pool_windows
from jaxbert.tasks.text import LabelTask
from jaxbert.tasks.top_k import shown_probabilities


@dataclass(frozen=True)
class MultiLabel(LabelTask):
    """Give each example any number of C labels."""

    name = "multi_label"
    assumes = "a label is given from a probability of 0.5"
    label_kind = "list"
    answer_keys = ("labels", "probabilities")
    default_metric = "f1_micro"

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

    @classmethod
    def fit(
        cls, labels: Labels, config: Config, rules: LabelRules, head: Head | None, reading: Reading
    ) -> tuple[MultiLabel, bool]:
        """Decide names and indices; the threshold is found by the evaluations."""
        found = fit_label_lists(labels, rules, config.model.num_labels, head)
        smoothing = config.train.label_smoothing
        return cls(found.names, None, smoothing, integers=found.integers, reading=reading), found.new_head

    def weigh(self, labels: np.ndarray, config: Config) -> MultiLabel:
        """Weigh the labels as the configuration says."""
        weights = resolve_positive_weights(config.train, labels, self.label_names)
        return dataclasses.replace(self, positive_weights=weights)

    def encode(self, labels: Labels, rules: LabelRules) -> np.ndarray:
        """Return which labels each example has, bool [N, C]."""
        return encode_lists(labels, self.label_set, rules)

    def overview(self, labels: Labels, encoded: np.ndarray) -> Labelling:
        """Count the examples of each label."""
        names = self.label_names

        def named(example: int) -> str:
            return ", ".join(names[i] for i in np.flatnonzero(encoded[example])) or "none"

        keys = hash_rows(np.packbits(encoded, axis=1))
        return Labelling(meaning_of(labels, self.label_set), count_labels(encoded, names), keys=keys, named=named)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Add the label names and the threshold."""
        named = with_labels(bert_config, self.label_names, "multi_label_classification")
        return with_settings(
            named, self.name, integers=self.integers, threshold=self.threshold, reading=self.reading.to_dict()
        )

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> MultiLabel:
        """Take the label names and the threshold; half, where another program has trained the model."""
        settings = settings_of(bert_config)
        threshold = settings.get("threshold")
        return cls(
            label_names(bert_config),
            integers=integers_of(settings),
            reading=Reading.of(settings.get("reading")),
            threshold=float(threshold) if isinstance(threshold, int | float) else 0.5,
        )

    def describe(self) -> str:
        """Name the labels."""
        return f"any of the labels: {list_names(self.label_names)}"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum over real examples the mean of their labels' losses, in float32; weights and smoothing in training only."""
        logits_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
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
        means = [f"{score}_{mean}" for mean in ("micro", "macro") for score in ("precision", "recall")]
        return ["f1_micro", "f1_macro", "f1_macro_present", "loss", *means, "exact_match"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute F1, precision and recall, micro, macro and by label, at the threshold; the headline ones first.

        What divides by nothing is 0: the precision of a label that is never given, the recall of one that no example has,
        and all scores of one that is neither, which `f1_macro_present` leaves out.
        """
        return metrics_of(self.tally(examples), predictions)

    def tally(self, examples: Examples) -> Tally:
        """Count the labels from the threshold on; without one, keep the probabilities that may be the best."""
        return _Tally(self, examples)

    def learned(self, evaluation: dict[str, Any]) -> MultiLabel:
        """Keep the threshold that an evaluation has found."""
        return dataclasses.replace(self, threshold=evaluation.get("threshold", self.threshold))

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `labels` (those from the threshold on, the most probable first) and the `probabilities` of the best."""
        threshold = UNTUNED if self.threshold is None else self.threshold
        answers = []
        for row in expit(pool_windows(predictions, examples, self.reading.pooling, first, last)):
            given = np.flatnonzero(row >= threshold)
            answers.append(
                {
                    "labels": [self.label_names[i] for i in given[np.argsort(-row[given], kind="stable")]],
                    "probabilities": shown_probabilities(self.label_names, row, self.top_k),
                }
            )
        return answers


class _Tally:
    """The metrics of predictions that come piece by piece."""

    def __init__(self, task: MultiLabel, examples: Examples) -> None:
        assert examples.labels is not None
        count, expected = len(examples), int(examples.labels.sum())
        self._task = task
        self._labels = examples.labels
        self._documents = WholeExamples(examples, task.reading.pooling)
        self._losses = np.zeros(count)
        self._threshold = task.threshold if expected or task.threshold is not None else UNTUNED
        self._search = ThresholdSearch(expected) if self._threshold is None else None
        self._hits, self._given = (np.zeros(len(task.label_names), np.int64) for _ in range(2))
        self._right, self._wrong = (np.zeros(count, np.int64) for _ in range(2))
        """Of each example, how many labels were given that it has, and that it lacks."""

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Take the predictions of some examples."""
        documents, log_odds = self._documents.add(ids, predictions)
        labels = self._labels[documents]
        with np.errstate(invalid="ignore"):  # a model that is broken has a loss that is no number
            losses = np.logaddexp(0, log_odds.astype(np.float64)) - labels * log_odds
        self._losses[documents] = losses.mean(-1)
        probabilities = expit(log_odds)
        if self._search is not None:
            self._search.add(probabilities, documents, labels)
        elif self._threshold is not None:
            self._count(given_from(probabilities, self._threshold, documents, labels))

    def _count(self, given: Given) -> None:
        present, absent = given.where(given.present), given.where(~given.present)
        self._hits += np.bincount(present.labels, minlength=len(self._hits))
        self._given += np.bincount(given.labels, minlength=len(self._hits))
        self._right += np.bincount(present.documents, minlength=len(self._right))
        self._wrong += np.bincount(absent.documents, minlength=len(self._right))

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all."""
        if self._search is not None:
            self._threshold, given = self._search.finish()
            self._count(given)
        assert self._threshold is not None
        scores = LabelScores(self._hits, self._given, self._labels.sum(0))
        of_all = scores.total()
        exact = (self._wrong == 0) & (self._right == self._labels.sum(1))
        return {
            "f1_micro": of_all.mean("f1"),
            **scores.f1_macro(),
            "threshold": float(self._threshold),
            "loss": float(self._losses.mean()),
            "precision_micro": of_all.mean("precision"),
            "recall_micro": of_all.mean("recall"),
            "precision_macro": scores.mean("precision"),
            "recall_macro": scores.mean("recall"),
            "exact_match": float(exact.mean()),
            "examples": len(self._losses),
            "macro_over": scores.macro_over(),
            "per_class": scores.by_label(self._task.label_names),
        }


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
            f"give one for each of {list_names(label_names)}"
        )
    return weights
