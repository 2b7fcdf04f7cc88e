"""Single-label text classification: softmax cross-entropy, scikit-learn's metrics, and answers with probabilities.

`tasks.reading` reads the texts, and `data.labels` decides the labels."""

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
from scipy.special import log_softmax
from transformers import BertConfig

from jaxbert.config import Config, TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import LabelRules, Labels
from jaxbert.data.labels import Head, IntegerLabels, count_labels, encode, fit_labels, meaning_of
from jaxbert.data.overview import Labelling
from jaxbert.data.tokens import AS_IT_IS, Reading
from jaxbert.errors import UserError
from jaxbert.tasks import integers_of, label_names, settings_of, with_labels, with_settings
from jaxbert.tasks.base import Batch, Outcome, Sums, Tally, list_names, metrics_of
from jaxbert.tasks.decision import (
    MOST_PROBABLE,
    Conformity,
    Decision,
    Tuning,
    choose_threshold,
    describe_cut,
    selective_accuracy,
)
from jaxbert.tasks.distance import divergence
from jaxbert.tasks.metrics import LabelScores, brier_scores, calibration_error
from jaxbert.tasks.pooling import (
    WholeExamples,
    focal_factor,
    log_odds,
    mean_of_logs,
    pool_examples,
    pool_windows,
    spread_over_windows,
)
from jaxbert.tasks.reading import LabelTask
from jaxbert.tasks.top_k import shown_probabilities

_DENSE_UP_TO = 30
"""The most labels with a complete confusion matrix."""


@dataclass(frozen=True)
class Classification(LabelTask):
    """Give each example one of C labels."""

    name = "classification"
    assumes = "each text has one label"
    last_layer = "classifier"
    default_metric = "accuracy"
    explains = "log_odds"

    label_names: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None
    """The factor of each label's loss in training; None is 1 for all."""
    label_smoothing: float | None = None
    focal_gamma: float = 0.0
    """The power of the missing probability by which losses are multiplied in training."""
    integers: IntegerLabels = "either"
    """The meaning of an integer in a label column."""
    reading: Reading = AS_IT_IS
    """How long texts are read."""
    top_k: int | None = None
    """The number of labels whose probabilities an answer shows; None: all of up to 20, else the best 5."""
    decision: Decision = MOST_PROBABLE
    """How a label follows from the probabilities."""

    @property
    def answer_keys(self) -> tuple[str, ...]:
        """The keys of an answer; `label_set` only if a coverage is asked for."""
        own = ("label_set",) if self.decision.coverage is not None else ()
        return ("label", "score", *own, "probabilities")

    @classmethod
    def fit(
        cls, labels: Labels, config: Config, rules: LabelRules, head: Head | None, reading: Reading
    ) -> tuple[Classification, bool]:
        """Return the task with the names and indices of the labels, and whether it needs a new head."""
        found = fit_labels(labels, rules, config.model.num_labels, head)
        smoothing = config.train.label_smoothing or None
        gamma = config.train.focal_gamma
        return cls(found.names, None, smoothing, gamma, integers=found.integers, reading=reading), found.new_head

    def weigh(self, labels: np.ndarray, config: Config) -> Classification:
        """Return the task with the class weights of the configuration."""
        weights = resolve_class_weights(config.train, labels, self.label_names)
        return dataclasses.replace(self, class_weights=weights)

    def encode(self, labels: Labels, rules: LabelRules) -> np.ndarray:
        """Return label indices, int32 [N]."""
        return encode(labels, self.label_set, rules)

    def overview(self, labels: Labels, encoded: np.ndarray) -> Labelling:
        """Count the examples of each label."""
        names, counts = self.label_names, count_labels(encoded, self.label_names)
        meaning = meaning_of(labels, self.label_set)
        return Labelling(meaning, counts, keys=encoded, named=lambda i: names[encoded[i]])

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Add the label names and how labels are decided."""
        named = with_labels(bert_config, self.label_names, "single_label_classification")
        decided = self.decision.settings(self.label_names)
        return with_settings(named, self.name, integers=self.integers, reading=self.reading.to_dict(), **decided)

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> Classification:
        """Return the task with the label names of an export, and its way to decide."""
        settings, names = settings_of(bert_config), label_names(bert_config)
        reading, decision = Reading.of(settings.get("reading")), Decision.read(settings, names)
        return cls(names, integers=integers_of(settings), reading=reading, decision=decision)

    def check_tuning(self, tuning: Tuning) -> None:
        """Check that a threshold is for one of two labels."""
        tuning.refuse("task classification", temperature=True, threshold=True)
        if tuning.threshold is not None:
            tuning.positive_of(self.label_names)

    def at_temperature(self, temperature: float) -> Classification:
        """Return the task for logits that are divided by `temperature`; a threshold gives the same labels as before."""
        return dataclasses.replace(self, decision=self.decision.at_temperature(temperature))

    def loss_at(self, temperature: float, predictions: np.ndarray, examples: Examples) -> float:
        """Return the mean cross-entropy."""
        assert examples.labels is not None
        logits = pool_windows(predictions, examples, self.reading.pooling).astype(np.float64)
        own = log_softmax(logits / temperature, axis=-1)[np.arange(len(examples)), examples.labels]
        return -float(own.mean())

    def tuned(self, outcomes: Sequence[Outcome], tuning: Tuning) -> tuple[Classification, dict[str, Any]]:
        """Choose the threshold of the positive label; keep conformity scores; tell what abstaining buys."""
        probabilities = np.concatenate([self.probabilities(o.predictions, o.examples) for o in outcomes])
        labels = np.concatenate([np.asarray(o.examples.labels) for o in outcomes])
        every = np.arange(len(labels))
        decision = dataclasses.replace(self.decision, conformity=Conformity.of(probabilities[every, labels]))
        told: dict[str, Any] = {}
        if tuning.threshold is not None:
            positive = tuning.positive_of(self.label_names)
            cut = choose_threshold(probabilities[:, positive], labels == positive, tuning.threshold)
            told["threshold"] = {"positive_label": self.label_names[positive], **describe_cut(cut)}
            if cut is not None:
                decision = dataclasses.replace(decision, positive=positive, threshold=cut.threshold)
        chosen = decision.choose(probabilities)
        told["abstaining"] = selective_accuracy(probabilities[every, chosen], chosen == labels)
        return dataclasses.replace(self, decision=decision), told

    def describe(self) -> str:
        """Return the label names on one line."""
        return f"labels: {list_names(self.label_names)}"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the loss over real examples, in float32; weights and smoothing count in training only."""
        logits_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        labels_BS, real_BS = batch["labels"], batch["example_mask"]
        targets_BSC = jax.nn.one_hot(labels_BS, len(self.label_names))
        if train and self.label_smoothing is not None:
            targets_BSC = optax.smooth_labels(targets_BSC, self.label_smoothing)
        losses_BS = optax.softmax_cross_entropy(logits_BSC, targets_BSC)
        if train and self.focal_gamma:
            own_BS = jnp.take_along_axis(jax.nn.log_softmax(logits_BSC), labels_BS[..., None], axis=-1)[..., 0]
            losses_BS = losses_BS * focal_factor(own_BS, self.focal_gamma)
        if train and self.class_weights is not None:
            losses_BS = losses_BS * jnp.asarray(self.class_weights)[labels_BS]
        right_BS = (logits_BSC.argmax(-1) == labels_BS) & real_BS
        return {
            "loss": jnp.where(real_BS, losses_BS, 0.0).sum(),
            "correct": right_BS.sum(),
            "examples": real_BS.sum(),
        }

    def distance(self, outputs: dict[str, Any], batch: Batch, totals: Sums, temperature: float) -> Sums:
        """Sum the divergence from the teacher's probabilities over real examples."""
        logits_BSC, pooled = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        targets_BSC, _ = pool_examples(batch["targets"], batch, self.reading.pooling)
        real_BS = pooled["example_mask"]
        losses_BS = divergence(logits_BSC, targets_BSC, temperature)
        return {"loss": jnp.where(real_BS, losses_BS, 0.0).sum(), "examples": real_BS.sum()}

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return log-probabilities [B, S, C], float32; logits if windows are pooled later."""
        logits_BSC = outputs["logits"].astype(jnp.float32)
        return jax.nn.log_softmax(logits_BSC) if self.reading.pooling is None else logits_BSC

    def explained(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the log-odds of the label `labels` against all others, of each example."""
        logits_BSC, batch = pool_examples(outputs["logits"].astype(jnp.float32), batch, self.reading.pooling)
        return jnp.where(batch["example_mask"], log_odds(logits_BSC, batch["labels"]), 0.0)

    def labels_and_answers(self, predictions: np.ndarray, examples: Examples) -> tuple[list[str], list[str]]:
        """Return the names of the true and of the predicted labels."""
        assert examples.labels is not None
        chosen = self.decision.choose(self.probabilities(predictions, examples))
        return [self.label_names[i] for i in examples.labels], [self.label_names[i] for i in chosen]

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that are single numbers."""
        means = [f"{score}_{mean}" for mean in ("macro", "weighted") for score in ("f1", "precision", "recall")]
        mcc = ["mcc"] if len(self.label_names) == 2 else []
        return ["accuracy", "f1_macro", "f1_macro_present", *mcc, "loss", *means[1:], "calibration_error", "brier"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute accuracy, loss, and precision, recall and F1 by class, macro and weighted; the headline ones first.

        A class that is neither predicted nor present counts as 0 in the macro means, as in scikit-learn with all labels
        given; `f1_macro_present` leaves it out. `calibration_error` is that of the most probable label, `brier` the Brier
        score, 0 to 2.
        """
        return metrics_of(self.tally(examples), predictions)

    def tally(self, examples: Examples) -> Tally:
        """Return a tally that keeps each example's label, the log-probability of its true label, and its calibration."""
        return _Tally(self, examples)

    def of_logits(self, pooled: np.ndarray) -> np.ndarray:
        """Return log-probabilities of pooled outputs, [N, C]; `predictions` returns logits if windows are pooled."""
        return pooled if self.reading.pooling is None else log_softmax(pooled, axis=-1)

    def probabilities(
        self, predictions: np.ndarray, examples: Examples, first: int = 0, last: int | None = None
    ) -> np.ndarray:
        """Return the probability of each label for examples `first` to `last - 1`, float64 [N, C]."""
        pooled = pool_windows(predictions, examples, self.reading.pooling, first, last)
        return np.exp(self.of_logits(pooled).astype(np.float64))

    def average(self, parts: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return predictions whose probabilities are the mean of those of several models."""
        how = self.reading.pooling
        logs = [self.of_logits(pool_windows(part, examples, how)) for part in parts]
        return spread_over_windows(mean_of_logs(logs), examples, how)

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `label`, `score` (its probability) and `probabilities` by label name, limited by `top_k`.

        With a least score, `label` is None below it. With a coverage there is `label_set` too, most probable first.
        """
        names, decision, answers = self.label_names, self.decision, []
        rows = self.probabilities(predictions, examples, first, last)
        for row, chosen in zip(rows, decision.choose(rows).tolist(), strict=True):
            score = float(row[chosen])
            answer: dict[str, Any] = {
                "label": None if decision.abstains(score) else names[chosen],
                "score": round(score, 6),
            }
            if decision.coverage is not None:
                answer["label_set"] = [names[i] for i in decision.label_set(row)]
            answers.append(answer | {"probabilities": shown_probabilities(names, row, self.top_k)})
        return answers


class _Tally:
    """Computes the metrics from slices of the predictions."""

    def __init__(self, task: Classification, examples: Examples) -> None:
        assert examples.labels is not None
        self._task = task
        self._labels = examples.labels
        self._documents = WholeExamples(examples, task.reading.pooling)
        self._predicted = np.zeros(len(examples), np.int32)
        self._own = np.zeros(len(examples), np.float32)
        """The log-probability of each example's true label."""
        self._confidence = np.zeros(len(examples), np.float32)
        """The probability of each example's most probable label."""
        self._sure = np.zeros(len(examples), bool)
        """Whether the most probable label is the true one."""
        self._brier = np.zeros(len(examples))

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Add the predictions of some segments."""
        documents, pooled = self._documents.add(ids, predictions)
        rows = self._task.of_logits(pooled)
        probabilities, labels, most = np.exp(rows), self._labels[documents], rows.argmax(-1)
        decided = self._task.decision.threshold is not None
        self._predicted[documents] = self._task.decision.choose(np.exp(rows, dtype=np.float64)) if decided else most
        self._own[documents] = rows[np.arange(len(rows)), labels]
        self._confidence[documents] = probabilities.max(-1)
        self._sure[documents] = most == labels
        self._brier[documents] = brier_scores(probabilities, labels)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all examples."""
        from sklearn.metrics import matthews_corrcoef

        names, labels, predicted = self._task.label_names, self._labels, self._predicted
        right = predicted == labels
        hits, given, expected = (np.bincount(of, minlength=len(names)) for of in (labels[right], predicted, labels))
        scores = LabelScores(hits, given, expected)
        result: dict[str, Any] = {"accuracy": float(right.mean()), **scores.f1_macro()}
        if len(names) == 2:
            # By definition 0 if all examples have one label, for which scikit-learn warns.
            varied = len(np.union1d(labels, predicted)) > 1
            result["mcc"] = float(matthews_corrcoef(labels, predicted)) if varied else 0.0
        return result | {
            "loss": float(-self._own.mean(dtype=np.float64)),
            "precision_macro": scores.mean("precision"),
            "recall_macro": scores.mean("recall"),
            "f1_weighted": scores.mean("f1", weighted=True),
            "precision_weighted": scores.mean("precision", weighted=True),
            "recall_weighted": scores.mean("recall", weighted=True),
            "calibration_error": calibration_error(self._confidence, self._sure),
            "brier": float(self._brier.mean()),
            "examples": len(labels),
            "macro_over": scores.macro_over(),
            "per_class": scores.by_label(names),
            **_confusion(labels, predicted, names),
        }


def _confusion(labels: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Return `confusion_matrix`, a row for each true label; above 30 labels `confusion`, the pairs that occur.

    Each pair is `[true, predicted, count]`, in the order of the labels.
    """
    pairs, counts = np.unique(labels.astype(np.int64) * len(names) + predicted, return_counts=True)
    rows, columns = np.divmod(pairs, len(names))
    if len(names) > _DENSE_UP_TO:
        cells = zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True)
        return {"confusion": [[names[true], names[found], count] for true, found, count in cells]}
    matrix = np.zeros((len(names), len(names)), np.int64)
    matrix[rows, columns] = counts
    return {"confusion_matrix": matrix.tolist()}


def resolve_class_weights(
    train: TrainConfig, labels: np.ndarray, label_names: tuple[str, ...]
) -> tuple[float, ...] | None:
    """Return one loss factor for each label, from `train.class_weights`.

    `balanced` is N / (C * count), scikit-learn's rule; a label that does not occur gets 1.

    Raises:
      UserError: if a given list has another length than the labels.
    """
    if train.class_weights == "none":
        return None
    if train.class_weights == "balanced":
        counts = np.bincount(labels, minlength=len(label_names))
        return tuple(float(len(labels) / (len(counts) * c)) if c else 1.0 for c in counts)
    weights = tuple(float(w) for w in train.class_weights)
    if len(weights) != len(label_names):
        raise UserError(
            f"train.class_weights has {len(weights)} weights, but there are {len(label_names)} labels: "
            f"give one for each of {list_names(label_names)}"
        )
    return weights
