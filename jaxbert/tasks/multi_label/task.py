"""Multi-label text classification: a sigmoid for each label, and thresholds that are tuned on the validation set.

`tasks.reading` reads the texts, `data.label_lists` decides the labels, and `threshold` finds the threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.special import expit, log_expit
from transformers import BertConfig

from jaxbert.config import Config, TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import LabelRules, Labels
from jaxbert.data.label_lists import encode_lists, fit_label_lists
from jaxbert.data.labels import Head, IntegerLabels, count_labels, meaning_of
from jaxbert.data.overview import Labelling
from jaxbert.data.tokens import AS_IT_IS, Reading, hash_rows
from jaxbert.errors import UserError
from jaxbert.tasks import integers_of, label_names, settings_of, with_labels, with_settings
from jaxbert.tasks.base import Batch, Outcome, Sums, Tally, list_names, metrics_of
from jaxbert.tasks.decision import Tuning, are_numbers, label_thresholds, temperature_of, temperature_setting
from jaxbert.tasks.distance import binary_divergence
from jaxbert.tasks.metrics import ForecastCounts, LabelScores
from jaxbert.tasks.multi_label.threshold import UNTUNED, Given, ThresholdSearch, given_from
from jaxbert.tasks.pooling import (
    WholeExamples,
    focal_factor,
    mean_of_logs,
    pool_examples,
    pool_windows,
    spread_over_windows,
)
from jaxbert.tasks.reading import LabelTask
from jaxbert.tasks.top_k import shown_probabilities


@dataclass(frozen=True)
class MultiLabel(LabelTask):
    """Give each example any number of C labels."""

    name = "multi_label"
    assumes = "a label is given from a probability of 0.5"
    label_kind = "list"
    last_layer = "classifier"
    answer_keys = ("labels", "probabilities")
    default_metric = "f1_micro"
    explains = "log_odds"

    label_names: tuple[str, ...]
    positive_weights: tuple[float, ...] | None = None
    """The factor of each label's loss in training, for examples that have the label; None is 1 for all."""
    label_smoothing: float | None = None
    focal_gamma: float = 0.0
    """The power of the missing probability by which losses are multiplied in training."""
    integers: IntegerLabels = "either"
    """The meaning of an integer in a label column."""
    threshold: float | None = None
    """The least probability of a given label; None: the best for the evaluated examples."""
    thresholds: tuple[float, ...] | None = None
    """The least probability of each label, in label order; None: `threshold` for all."""
    temperature: float = 1.0
    """The number by which the logits were divided; the last layer has it already."""
    reading: Reading = AS_IT_IS
    """How long texts are read."""
    top_k: int | None = None
    """The number of labels whose probabilities an answer shows; None: all of up to 20, else the best 5."""

    @classmethod
    def fit(
        cls, labels: Labels, config: Config, rules: LabelRules, head: Head | None, reading: Reading
    ) -> tuple[MultiLabel, bool]:
        """Return the task with the names and indices of the labels; evaluations tune the threshold later."""
        found = fit_label_lists(labels, rules, config.model.num_labels, head)
        smoothing, gamma = config.train.label_smoothing or None, config.train.focal_gamma
        return cls(found.names, None, smoothing, gamma, integers=found.integers, reading=reading), found.new_head

    def weigh(self, labels: np.ndarray, config: Config) -> MultiLabel:
        """Return the task with the label weights of the configuration."""
        weights = resolve_positive_weights(config.train, labels, self.label_names)
        return dataclasses.replace(self, positive_weights=weights)

    def encode(self, labels: Labels, rules: LabelRules) -> np.ndarray:
        """Return whether each example has each label, bool [N, C]."""
        return encode_lists(labels, self.label_set, rules)

    def overview(self, labels: Labels, encoded: np.ndarray) -> Labelling:
        """Count the examples of each label."""
        names = self.label_names

        def named(example: int) -> str:
            return ", ".join(names[i] for i in np.flatnonzero(encoded[example])) or "none"

        keys = hash_rows(np.packbits(encoded, axis=1))
        return Labelling(meaning_of(labels, self.label_set), count_labels(encoded, names), keys=keys, named=named)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Add the label names and the thresholds."""
        named = with_labels(bert_config, self.label_names, "multi_label_classification")
        own: dict[str, Any] = {**temperature_setting(self.temperature)}
        if self.thresholds is not None:
            own |= {"thresholds": list(self.thresholds)}
        reading = self.reading.to_dict()
        return with_settings(named, self.name, integers=self.integers, threshold=self.threshold, reading=reading, **own)

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> MultiLabel:
        """Return the task with the label names and the thresholds of an export; 0.5 for a model of another program."""
        settings, names = settings_of(bert_config), label_names(bert_config)
        threshold, thresholds = settings.get("threshold"), settings.get("thresholds")
        if thresholds is not None and not are_numbers(thresholds, len(names)):
            raise UserError(f"config.json: `thresholds` has not one number for each of {len(names)} labels")
        return cls(
            names,
            integers=integers_of(settings),
            reading=Reading.of(settings.get("reading")),
            threshold=float(threshold) if isinstance(threshold, int | float) else 0.5,
            thresholds=None if thresholds is None else tuple(map(float, thresholds)),
            temperature=temperature_of(settings),
        )

    @property
    def cuts(self) -> float | np.ndarray:
        """The least probability of a given label: one for all, or float64 [C]."""
        if self.thresholds is not None:
            return np.array(self.thresholds)
        return UNTUNED if self.threshold is None else self.threshold

    def check_tuning(self, tuning: Tuning) -> None:
        """Check that there is no threshold for one of two labels."""
        tuning.refuse("task multi_label", temperature=True, per_label=True)

    def at_temperature(self, temperature: float) -> MultiLabel:
        """Return the task for logits that are divided by `temperature`; the next evaluation tunes the threshold."""
        return dataclasses.replace(self.untuned(), temperature=self.temperature * temperature)

    def loss_at(self, temperature: float, predictions: np.ndarray, examples: Examples) -> float:
        """Return the mean binary cross-entropy over labels and examples."""
        assert examples.labels is not None
        log_odds = pool_windows(predictions, examples, self.reading.pooling).astype(np.float64) / temperature
        return float((np.logaddexp(0, log_odds) - examples.labels * log_odds).mean())

    def untuned(self) -> MultiLabel:
        """Return the task without thresholds."""
        return dataclasses.replace(self, threshold=None, thresholds=None)

    def tuned(self, outcomes: Sequence[Outcome], tuning: Tuning) -> tuple[MultiLabel, dict[str, Any]]:
        """Choose a threshold for each label, if it is asked for; `learned` has the one for all."""
        if not tuning.per_label:
            return self, {}
        probabilities = np.concatenate([self.probabilities(o.predictions, o.examples) for o in outcomes])
        labels = np.concatenate([np.asarray(o.examples.labels) for o in outcomes])
        otherwise = UNTUNED if self.threshold is None else self.threshold
        found = label_thresholds(probabilities, labels, otherwise)
        told = {"thresholds": dict(zip(self.label_names, found, strict=True))}
        return dataclasses.replace(self, thresholds=found), told

    def describe(self) -> str:
        """Return the label names on one line."""
        return f"any of the labels: {list_names(self.label_names)}"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the mean loss over labels of each real example, in float32; weights and smoothing count in training only."""
        logits_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        present_BSC, real_BS = batch["labels"].astype(jnp.float32), batch["example_mask"]
        targets_BSC = present_BSC
        if train and self.label_smoothing is not None:
            targets_BSC = present_BSC * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses_BSC = optax.sigmoid_binary_cross_entropy(logits_BSC, targets_BSC)
        if train and self.focal_gamma:
            own_BSC = jax.nn.log_sigmoid(jnp.where(present_BSC > 0, logits_BSC, -logits_BSC))
            losses_BSC = losses_BSC * focal_factor(own_BSC, self.focal_gamma)
        if train and self.positive_weights is not None:
            weights_C = jnp.asarray(self.positive_weights)
            losses_BSC = losses_BSC * jnp.where(present_BSC > 0, weights_C[None, None], 1.0)
        return {"loss": jnp.where(real_BS, losses_BSC.mean(-1), 0.0).sum(), "examples": real_BS.sum()}

    def distance(self, outputs: dict[str, Any], batch: Batch, totals: Sums, temperature: float) -> Sums:
        """Sum the mean divergence over labels from the teacher's probabilities, over real examples."""
        logits_BSC, pooled = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        targets_BSC, _ = pool_examples(batch["targets"], batch, self.reading.pooling)
        real_BS = pooled["example_mask"]
        losses_BS = binary_divergence(logits_BSC, targets_BSC, temperature).mean(-1)
        return {"loss": jnp.where(real_BS, losses_BS, 0.0).sum(), "examples": real_BS.sum()}

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return log-odds [B, S, C], float32."""
        return outputs["logits"].astype(jnp.float32)

    def explained(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the log-odds of the label `labels` of each example."""
        logits_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        own_BS = jnp.take_along_axis(logits_BSC, batch["labels"][..., None], axis=-1)[..., 0]
        return jnp.where(batch["example_mask"], own_BS, 0.0)

    def probabilities(
        self, predictions: np.ndarray, examples: Examples, first: int = 0, last: int | None = None
    ) -> np.ndarray:
        """Return the probability of each label for examples `first` to `last - 1`, float64 [N, C]."""
        return expit(pool_windows(predictions, examples, self.reading.pooling, first, last).astype(np.float64))

    def average(self, parts: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return log-odds of probabilities that are the mean of those of several models."""
        how = self.reading.pooling
        odds = [pool_windows(part, examples, how).astype(np.float64) for part in parts]
        present, absent = (mean_of_logs([log_expit(sign * found) for found in odds]) for sign in (1, -1))
        return spread_over_windows(present - absent, examples, how)

    def labels_and_answers(self, predictions: np.ndarray, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and the predicted labels as 0 and 1, int32 [N, C]."""
        probabilities = expit(pool_windows(predictions, examples, self.reading.pooling))
        given = probabilities >= self.cuts
        return np.asarray(examples.labels).astype(np.int32), given.astype(np.int32)

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that are single numbers."""
        means = [f"{score}_{mean}" for mean in ("micro", "macro") for score in ("precision", "recall")]
        return [
            *("f1_micro", "f1_macro", "f1_macro_present", "loss", *means, "exact_match"),
            *("calibration_error", "brier"),
        ]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute F1, precision and recall, micro, macro and by label, at the threshold; the headline ones first.

        A score whose divisor is 0 is 0: the precision of a label that is never given, the recall of a label that no example
        has. `f1_macro_present` leaves out labels for which both are true. `calibration_error` and `brier` (the mean squared
        difference of probability and truth, 0 to 1) are those of all pairs of example and label.
        """
        return metrics_of(self.tally(examples), predictions)

    def tally(self, examples: Examples) -> Tally:
        """Return a tally of labels at the threshold; without one, it keeps the probabilities that may be the best one."""
        return _Tally(self, examples)

    def learned(self, evaluation: dict[str, Any]) -> MultiLabel:
        """Return the task with the threshold of an evaluation."""
        return dataclasses.replace(self, threshold=evaluation.get("threshold", self.threshold))

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `labels` (at or above the threshold, most probable first) and `probabilities`, limited by `top_k`."""
        cuts = self.cuts
        answers = []
        for row in expit(pool_windows(predictions, examples, self.reading.pooling, first, last)):
            given = np.flatnonzero(row >= cuts)
            answers.append(
                {
                    "labels": [self.label_names[i] for i in given[np.argsort(-row[given], kind="stable")]],
                    "probabilities": shown_probabilities(self.label_names, row, self.top_k),
                }
            )
        return answers


class _Tally:
    """Computes the metrics from slices of the predictions."""

    def __init__(self, task: MultiLabel, examples: Examples) -> None:
        assert examples.labels is not None
        count, expected = len(examples), int(examples.labels.sum())
        self._task = task
        self._labels = examples.labels
        self._documents = WholeExamples(examples, task.reading.pooling)
        self._losses = np.zeros(count)
        self._threshold = task.threshold if expected or task.threshold is not None else UNTUNED
        self._cuts = None if task.thresholds is None else task.cuts
        """The least probability of each label, if they differ."""
        self._search = ThresholdSearch(expected) if self._threshold is None and self._cuts is None else None
        self._forecasts, self._brier = ForecastCounts(), np.zeros(count)
        self._hits, self._given = (np.zeros(len(task.label_names), np.int64) for _ in range(2))
        self._right, self._wrong = (np.zeros(count, np.int64) for _ in range(2))
        """For each example, the numbers of correctly and wrongly given labels."""

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Add the predictions of some segments."""
        documents, log_odds = self._documents.add(ids, predictions)
        labels = self._labels[documents]
        with np.errstate(invalid="ignore"):  # a diverged model has a loss of NaN
            losses = np.logaddexp(0, log_odds.astype(np.float64)) - labels * log_odds
        self._losses[documents] = losses.mean(-1)
        probabilities = expit(log_odds)
        self._forecasts.add(log_odds, probabilities, labels)
        self._brier[documents] = ((probabilities - labels) ** 2).mean(-1)
        cuts = self._threshold if self._cuts is None else self._cuts
        if self._search is not None:
            self._search.add(probabilities, documents, labels)
        elif cuts is not None:
            self._count(given_from(probabilities, cuts, documents, labels))

    def _count(self, given: Given) -> None:
        present, absent = given.where(given.present), given.where(~given.present)
        self._hits += np.bincount(present.labels, minlength=len(self._hits))
        self._given += np.bincount(given.labels, minlength=len(self._hits))
        self._right += np.bincount(present.documents, minlength=len(self._right))
        self._wrong += np.bincount(absent.documents, minlength=len(self._right))

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all examples."""
        if self._search is not None:
            self._threshold, given = self._search.finish()
            self._count(given)
        names = self._task.label_names
        threshold: dict[str, Any] = {"threshold": self._threshold}
        if self._cuts is not None:
            threshold = {"thresholds": dict(zip(names, np.asarray(self._cuts).tolist(), strict=True))}
        scores = LabelScores(self._hits, self._given, self._labels.sum(0))
        of_all = scores.total()
        exact = (self._wrong == 0) & (self._right == self._labels.sum(1))
        return {
            "f1_micro": of_all.mean("f1"),
            **scores.f1_macro(),
            **threshold,
            "loss": float(self._losses.mean()),
            "precision_micro": of_all.mean("precision"),
            "recall_micro": of_all.mean("recall"),
            "precision_macro": scores.mean("precision"),
            "recall_macro": scores.mean("recall"),
            "exact_match": float(exact.mean()),
            "calibration_error": self._forecasts.bins().error(),
            "brier": float(self._brier.mean()),
            "examples": len(self._losses),
            "macro_over": scores.macro_over(),
            "per_class": scores.by_label(names),
        }


def resolve_positive_weights(
    train: TrainConfig, labels: np.ndarray, label_names: tuple[str, ...]
) -> tuple[float, ...] | None:
    """Return one loss factor for each label, for examples that have it, from `train.class_weights`.

    `balanced` is the number of examples without the label divided by the number with it; 1 for a label that does not occur.

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
