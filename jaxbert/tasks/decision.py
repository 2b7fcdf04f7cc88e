"""Decide from probabilities: a threshold for two labels, thresholds for several, abstaining, and conformal sets of labels.

NumPy only. `Tuning` says what is chosen on held-out examples; `Decision` is the result, which an export keeps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from jaxbert.config import TUNING_KEYS, TrainConfig
from jaxbert.errors import UserError
from jaxbert.ranges import ThresholdRule, check_field

_KEPT_SCORES = 1000
"""Conformity scores that an export keeps: a coverage is met within 0.1%."""
_SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the answers that `selective_accuracy` tells."""
_PAIRS = (
    *(("0", "1"), ("no", "yes"), ("n", "y"), ("false", "true"), ("neg", "pos"), ("negative", "positive")),
    *(("label_0", "label_1"), ("否", "是"), ("假", "真"), ("负面", "正面"), ("消极", "积极")),
)
"""Pairs of labels, of which the second one is the positive one."""


def place_of_label(label: str, names: Sequence[str]) -> int | None:
    """Return the index of a label, or None; `1` is LABEL_1, as labels that are numbers in the data are called."""
    return next((names.index(name) for name in (label, f"LABEL_{label}") if name in names), None)


@dataclass(frozen=True)
class Tuning:
    """What is chosen on held-out examples after training."""

    temperature: bool = False
    threshold: ThresholdRule | None = None
    positive_label: str | None = None
    per_label: bool = False
    """Whether each label of several gets its own threshold."""
    spell: Callable[[str], str] = "train.{}".format
    """A function that returns the name of a setting in messages."""

    @classmethod
    def of(cls, train: TrainConfig) -> Tuning:
        """Read the settings of a run."""
        return cls.make(**{key: getattr(train, key) for key in TUNING_KEYS})

    @classmethod
    def make(
        cls,
        calibration: str,
        threshold: str | None,
        positive_label: str | None,
        thresholds: str,
        spell: Callable[[str], str] = "train.{}".format,
    ) -> Tuning:
        """Read settings as `TrainConfig` has them.

        Raises:
          UserError: if one is wrong, or there is a positive label, but no threshold for it.
        """
        for key, value in zip(TUNING_KEYS, (calibration, threshold, positive_label, thresholds), strict=True):
            check_field(TrainConfig, key, value, spell)
        rule = None if threshold is None else ThresholdRule.parse(threshold, spell("threshold"))
        if rule is None and positive_label is not None:
            raise UserError(
                f"{spell('positive_label')} is the label that {spell('threshold')} is for: give that too, or leave both out"
            )
        return cls(calibration == "temperature", rule, positive_label, thresholds == "per_label", spell)

    @property
    def anything(self) -> bool:
        """Whether something is chosen that changes answers."""
        return self.temperature or self.threshold is not None or self.per_label

    def refuse(self, task: str, *, temperature: bool = False, threshold: bool = False, per_label: bool = False) -> None:
        """Check that nothing is asked for but what the arguments say the task has.

        Raises:
          UserError: for the first setting without a meaning.
        """
        for asked, has, key, tasks in (
            (self.temperature, temperature, "calibration", "classification, multi_label and multiple_choice"),
            (self.threshold is not None, threshold, "threshold", "classification with two labels"),
            (self.per_label, per_label, "thresholds", "multi_label"),
        ):
            if asked and not has:
                raise UserError(f"{self.spell(key)} has no meaning for {task}: it is for {tasks}")

    def positive_of(self, names: Sequence[str]) -> int:
        """Return the index of the positive label of two.

        Raises:
          UserError: if there are more labels, no such label, or the names do not tell which one it is.
        """
        threshold, key = self.spell("threshold"), self.spell("positive_label")
        if len(names) != 2:
            raise UserError(f"{threshold} is for two labels, but there are {len(names):,}: leave it out")
        first, second = names
        if self.positive_label is not None:
            place = place_of_label(self.positive_label, names)
            if place is None:
                raise UserError(f"{key} is {self.positive_label!r}, but the labels are {first!r} and {second!r}")
            return place
        known = (first.casefold(), second.casefold())
        if known in _PAIRS:
            return 1
        if known[::-1] in _PAIRS:
            return 0
        raise UserError(f"{threshold}: the positive label may be {first!r} or {second!r}: name it with {key}")


@dataclass(frozen=True)
class Conformity:
    """How little the model believed true labels: 1 less the probability of the true label, of held-out examples."""

    examples: int
    """The number of the examples."""
    scores: tuple[float, ...]
    """Their scores, ascending; of more than 1,000, the 1,000 that divide them evenly. They are rounded up to 6 digits."""

    @classmethod
    def of(cls, own_N: np.ndarray) -> Conformity:
        """Keep the scores of examples whose true labels have these probabilities, [N]."""
        ordered = np.sort(1 - np.asarray(own_N, np.float64))
        kept = ordered[_ranks(len(ordered)) - 1]
        return cls(len(ordered), tuple((np.ceil(kept * 1e6) / 1e6).tolist()))

    @classmethod
    def read(cls, content: Any) -> Conformity | None:
        """Read what an export keeps; None if there is nothing.

        Raises:
          UserError: if it is damaged.
        """
        if content is None:
            return None
        kept: dict[str, Any] = content if isinstance(content, dict) else {}
        examples, scores = kept.get("examples"), kept.get("scores")
        if type(examples) is not int or not scores or not are_numbers(scores, min(examples, _KEPT_SCORES)):
            raise UserError("config.json: `conformity` is damaged: remove it, or calibrate the model again")
        return cls(examples, tuple(map(float, scores)))

    def least_probability(self, coverage: float) -> float:
        """Return the least probability of a label in a set that has the true label with probability `coverage`.

        Split conformal prediction: the score of rank ceil((N + 1) * coverage) of N (Vovk et al. 2005; Sadinle et al. 2019).
        0 if N is too small to rule out any label.
        """
        rank = math.ceil((self.examples + 1) * coverage - 1e-9)
        if rank > self.examples:
            return 0.0
        return 1 - self.scores[int(np.searchsorted(_ranks(self.examples), rank))]


def are_numbers(values: Any, count: int) -> bool:
    """Return whether a value of JSON is a list of so many numbers."""
    return isinstance(values, list) and len(values) == count and all(type(value) in (int, float) for value in values)


def _ranks(count: int) -> np.ndarray:
    """Return the ranks, from 1, of the scores of `count` examples that are kept."""
    kept = min(count, _KEPT_SCORES)
    return -(-count * np.arange(1, kept + 1) // max(kept, 1))


@dataclass(frozen=True)
class Decision:
    """How an answer follows from the probabilities of labels; by default it is the most probable label."""

    positive: int | None = None
    """The index of the label that `threshold` is for."""
    threshold: float | None = None
    """The least probability with which the positive one of two labels is given."""
    conformity: Conformity | None = None
    temperature: float = 1.0
    """The number by which the logits were divided; the last layer has it already."""
    abstain_below: float | None = None
    """The least probability of a given label; below it none is given."""
    coverage: float | None = None
    """The share of the examples whose true label is to be in the set of labels of an answer."""

    @classmethod
    def read(cls, settings: dict[str, Any], names: Sequence[str] = ()) -> Decision:
        """Read the settings of an export.

        Raises:
          UserError: if they are damaged, or are not for the labels `names`.
        """
        positive, threshold = settings.get("positive_label"), settings.get("threshold")
        conformity, temperature = Conformity.read(settings.get("conformity")), temperature_of(settings)
        if positive is None:
            return cls(conformity=conformity, temperature=temperature)
        if len(names) != 2 or positive not in names or threshold is None or not are_numbers([threshold], 1):
            raise UserError(
                f"config.json: `positive_label` is {positive!r} with the `threshold` {threshold!r}, which is not a "
                "threshold "
                f"for one of the labels {', '.join(names)}: correct it, or remove both"
            )
        return cls(list(names).index(positive), float(threshold), conformity, temperature)

    def settings(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the settings for an export; only those that differ from the default."""
        kept: dict[str, Any] = temperature_setting(self.temperature)
        if self.threshold is not None and self.positive is not None:
            kept |= {"threshold": self.threshold, "positive_label": names[self.positive]}
        if self.conformity is not None:
            kept["conformity"] = {"examples": self.conformity.examples, "scores": list(self.conformity.scores)}
        return kept

    def choose(self, probabilities_NC: np.ndarray) -> np.ndarray:
        """Return the index of the given label of each example, [N], whatever its probability."""
        if self.threshold is None or self.positive is None:
            return probabilities_NC.argmax(-1)
        return np.where(probabilities_NC[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)

    def abstains(self, score: float) -> bool:
        """Return whether no label is given, for the probability of the chosen one."""
        return self.abstain_below is not None and not score >= self.abstain_below

    def label_set(self, probabilities_C: np.ndarray) -> list[int]:
        """Return the indices of the labels that are not ruled out, the most probable first; there may be none."""
        assert self.coverage is not None
        assert self.conformity is not None
        least = self.conformity.least_probability(self.coverage)
        order = np.argsort(-probabilities_C, kind="stable")
        return order[probabilities_C[order] >= least].tolist()

    def at_temperature(self, temperature: float) -> Decision:
        """Return the decision for logits that are divided by `temperature`: the same labels, unknown conformity."""
        moved = self.threshold
        if moved is not None and 0 < moved < 1:
            moved = float(expit(logit(moved) / temperature))
        return dataclasses.replace(self, threshold=moved, conformity=None, temperature=self.temperature * temperature)


MOST_PROBABLE = Decision()
"""The most probable label, always."""


def temperature_of(settings: dict[str, Any]) -> float:
    """Return the temperature that an export's last layer has; 1 if none was fitted.

    Raises:
      UserError: if it is no number above 0.
    """
    found = settings.get("temperature", 1)
    if not are_numbers([found], 1) or not 0 < found < math.inf:
        raise UserError(f"config.json: `temperature` is {found!r}, but it must be a number above 0")
    return float(found)


def temperature_setting(temperature: float) -> dict[str, float]:
    """Return the setting of an export for a temperature; none for 1."""
    return {} if temperature == 1 else {"temperature": temperature}


@dataclass(frozen=True)
class Cut:
    """A threshold for the positive label, and what it gives on the examples it was chosen on."""

    threshold: float
    precision: float
    recall: float
    cost: float | None = None
    """The mean cost of an example, if mistakes have costs."""


def choose_threshold(probabilities_N: np.ndarray, positive_N: np.ndarray, rule: ThresholdRule) -> Cut | None:
    """Return the best threshold by a rule, half-way between two probabilities; None if no threshold reaches what it asks.

    Args:
      probabilities_N: the probability of the positive label, [N].
      positive_N: whether it is the true one, bool [N].
      rule: what is best.
    """
    order = np.argsort(-probabilities_N, kind="stable")
    values, hits = probabilities_N[order], np.cumsum(positive_N[order])
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    # The first threshold gives the label to nobody.
    given = np.append(0, last + 1)
    right, total = np.append(0, hits[last]), int(positive_N.sum())
    wrong, missed = given - right, total - right
    precision = np.divide(right, given, out=np.zeros(len(given)), where=given > 0)
    recall = right / total if total else np.zeros(len(given))
    cost = None
    if rule.kind == "f_beta":
        weight = rule.value**2
        score = (1 + weight) * right / np.maximum((1 + weight) * right + weight * missed + wrong, 1e-9)
    elif rule.kind == "cost":
        cost = (rule.value * wrong + rule.other * missed) / max(len(values), 1)
        score = -cost
    else:
        reached, other = (precision, recall) if rule.kind == "precision" else (recall, precision)
        score = np.where(reached >= rule.value, other, -1.0)
    best = int(np.argmax(score))
    if not total or (cost is None and (score[best] < 0 or not given[best])):
        return None
    upper = float(values[last[best - 1]]) if best else 1.0
    lower = float(values[last[best]]) if best < len(last) else 0.0
    threshold = (upper + lower) / 2 if best or lower < 1 else math.nextafter(1.0, 2.0)
    return Cut(threshold, float(precision[best]), float(recall[best]), None if cost is None else float(cost[best]))


def describe_cut(cut: Cut | None) -> dict[str, Any]:
    """Return the numbers of a threshold by name, or a note that there is none."""
    if cut is None:
        return {"note": "no threshold reaches what is asked on these rows: the more probable label is the answer"}
    return {name: value for name, value in dataclasses.asdict(cut).items() if value is not None}


def label_thresholds(probabilities_NC: np.ndarray, labels_NC: np.ndarray, otherwise: float) -> tuple[float, ...]:
    """Return the threshold of each label with its largest F1; `otherwise` for a label that no example has.

    Args:
      probabilities_NC: the probability of each label, [N, C].
      labels_NC: whether each example has it, bool [N, C].
      otherwise: the threshold of a label without examples.
    """
    rule = ThresholdRule("f_beta", 1.0)
    cuts = [choose_threshold(*columns, rule) for columns in zip(probabilities_NC.T, labels_NC.T, strict=True)]
    return tuple(otherwise if cut is None else cut.threshold for cut in cuts)


def selective_accuracy(scores_N: np.ndarray, correct_N: np.ndarray) -> list[dict[str, float]]:
    """Return what abstaining buys: for some scores, the share of answers at or above it, and how many of them are right.

    Args:
      scores_N: the probability of each given label, [N].
      correct_N: whether it is the true one, bool [N].
    """
    ordered, curve = np.sort(scores_N)[::-1], []
    for share in _SHARES:
        least = float(ordered[math.ceil(share * len(ordered)) - 1])
        least = math.floor(least * 1e6) / 1e6
        answered = scores_N >= least
        point = {"abstain_below": least, "answered": answered.mean(), "accuracy": correct_N[answered].mean()}
        curve.append({name: float(value) for name, value in point.items()})
    return curve


def with_answer_options(task: Any, abstain_below: float | None, coverage: float | None) -> Any:
    """Return the task with these options for its answers; None changes nothing.

    Raises:
      UserError: for a task whose answers are not one of some labels, or a model without conformity scores.
    """
    decision: Decision | None = getattr(task, "decision", None)
    for option, value in (("--abstain_below", abstain_below), ("--coverage", coverage)):
        if value is not None and decision is None:
            raise UserError(
                f"{option} is for models that choose one of several labels, but this one is of task {task.name}"
            )
    if decision is None or (abstain_below is None and coverage is None):
        return task
    if coverage is not None and decision.conformity is None:
        raise UserError(
            "--coverage needs the scores of held-out rows, which this model's folder does not have: `jaxbert calibrate "
            "--model MODEL --data ROWS` adds them"
        )
    changed = dataclasses.replace(decision, abstain_below=abstain_below, coverage=coverage)
    return dataclasses.replace(task, decision=changed)
