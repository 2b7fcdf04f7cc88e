"""Metrics that several tasks compute, and whether each metric is better if it is larger or smaller.

Every metric of every task has its direction here; code that compares or sorts models calls `improves` or `merit`. Scores of
labels are computed from counts, in memory linear in the number of labels. Calibration says whether probabilities are right:
a *forecast* is a probability and whether it came true, that of the most probable label of an example, or of each label of
an example that may have several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_FALLING_ENDS = ("loss", "error", "perplexity")
"""Endings of metrics that are better if smaller: nsp_loss, calibration_error."""
_FALLING = {"mse", "mae", "brier"}
_RISING = {
    *("accuracy", "exact_match", "f1", "mcc", "pearson", "precision", "r2", "recall", "spearman"),
    *("answered_f1", "unanswered_accuracy", "masked_accuracy", "nsp_accuracy"),
    *(f"{score}_{mean}" for score in ("f1", "precision", "recall") for mean in ("macro", "micro", "weighted")),
    "f1_macro_present",
}

_own: dict[str, bool] = {}
"""Metrics that a program has declared: whether each is better if smaller."""


def declare(name: str, *, greater_is_better: bool) -> None:
    """Declare the direction of a metric that no task has.

    Raises:
      ValueError: if a task has a metric with this name.
    """
    if is_known(name):
        raise ValueError(f"there is a metric {name!r} already: choose another name")
    _own[name] = not greater_is_better


def is_known(name: str) -> bool:
    """Return whether a task of this package has a metric with this name."""
    return name in _FALLING or name in _RISING or name.endswith(_FALLING_ENDS)


def falls(name: str) -> bool:
    """Return whether a metric is better if it is smaller.

    Raises:
      KeyError: for a metric without a known direction: a wrong one would keep the worst model.
    """
    if name in _own:
        return _own[name]
    if name in _FALLING or name.endswith(_FALLING_ENDS):
        return True
    if name not in _RISING:
        raise KeyError(f"the metric {name!r} has no direction: name it in {__name__}")
    return False


def merit(name: str, value: float) -> float:
    """Return a metric's value, negated if smaller is better, so that larger is better; applied twice, the same value."""
    return -value if falls(name) else value


def improves(name: str, new: float, old: float | None) -> bool:
    """Return whether `new` is better than `old`; None and values that are not finite are worse than any number."""
    if not math.isfinite(new):
        return False
    return old is None or not math.isfinite(old) or merit(name, new) > merit(name, old)


def value_of(metrics: Mapping[str, Any], name: str) -> float:
    """Return a metric's value; `f1_macro_present` is only in `metrics` if it differs from `f1_macro`."""
    return float(metrics["f1_macro" if name == "f1_macro_present" and name not in metrics else name])


@dataclass(frozen=True)
class LabelScores:
    """Precision, recall and F1 of each label, [C], by scikit-learn's formulas; 0 where the divisor is 0."""

    hits: np.ndarray
    """The number of correct predictions of each label, [C]."""
    given: np.ndarray
    """The number of predictions of each label, [C]."""
    expected: np.ndarray
    """The number of examples with each label, its support, [C]."""

    @property
    def precision(self) -> np.ndarray:
        """The share of the predictions that are correct."""
        return _divided(self.hits, self.given)

    @property
    def recall(self) -> np.ndarray:
        """The share of the examples with a label that are predicted correctly."""
        return _divided(self.hits, self.expected)

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of precision and recall."""
        return _divided(2 * self.hits, self.expected + self.given)

    def total(self) -> LabelScores:
        """Return the counts of all labels added up, [1], for micro means."""
        return LabelScores(*(part.sum(keepdims=True) for part in (self.hits, self.given, self.expected)))

    def mean(self, score: str, *, weighted: bool = False) -> float:
        """Return the mean of a score over all labels, equally weighted or by support."""
        return float(np.average(getattr(self, score), weights=self.expected if weighted else None))

    def f1_macro(self) -> dict[str, float]:
        """Return `f1_macro` over all labels and, if it differs, `f1_macro_present` over the labels that occur."""
        of_all, present = self.mean("f1"), self.f1[self._occurs]
        of_present = float(present.mean()) if len(present) else 0.0
        return {"f1_macro": of_all} | ({"f1_macro_present": of_present} if of_present != of_all else {})

    def macro_over(self) -> str:
        """Return a note on which labels the macro means include."""
        absent = int((~self._occurs).sum())
        s = "" if absent > 1 else "s"
        rest = f"; {absent:,} of them occur{s} in neither truth nor prediction and count{s} as 0" if absent else ""
        return f"all {len(self.hits):,} labels{rest}"

    @property
    def _occurs(self) -> np.ndarray:
        return (self.given + self.expected) > 0

    def by_label(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the scores of each label by its name."""
        columns = (self.precision.tolist(), self.recall.tolist(), self.f1.tolist(), self.expected.tolist())
        return {
            name: {"precision": p, "recall": r, "f1": f, "support": int(s)}
            for name, p, r, f, s in zip(names, *columns, strict=True)
        }


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


BINS = 15
"""Bins of the expected calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Forecasts in groups of nearly equal size, in ascending order of their probability; all arrays are [bins]."""

    counts: np.ndarray
    """The number of forecasts, int64."""
    confidence: np.ndarray
    """The mean probability, float64."""
    accuracy: np.ndarray
    """The share of the forecasts that came true, float64."""

    def error(self) -> float:
        """Return the expected calibration error: the mean distance of confidence and accuracy, weighted by the counts."""
        total = self.counts.sum()
        return float((self.counts * np.abs(self.confidence - self.accuracy)).sum() / total) if total else 0.0


def reliability_bins(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS) -> ReliabilityBins:
    """Sort forecasts into at most `bins` bins of nearly equal size.

    Equal probabilities share a bin, so that the result does not depend on the order of the examples; there are fewer bins
    if many are equal.

    Args:
      confidence_N: probabilities, [N].
      correct_N: whether each came true, [N].
      bins: the largest number of bins.
    """
    values, places = np.unique(np.asarray(confidence_N, np.float64), return_inverse=True)
    counts = np.bincount(places, minlength=len(values))
    hits = np.bincount(places, weights=np.asarray(correct_N, np.float64), minlength=len(values))
    return _joined_to(bins, counts, values * counts, hits)


def calibration_error(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error with bins of equal size; 0 is best, 1 is worst (Nguyen and O'Connor 2015).

    Args:
      confidence_N: probabilities, [N].
      correct_N: whether each came true, [N].
      bins: the largest number of bins.
    """
    return reliability_bins(confidence_N, correct_N, bins).error()


def brier_scores(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return each example's Brier score, float64 [N]: the squared differences to the truth, summed over labels, 0 to 2.

    This is the definition of Brier 1950. For two labels it is twice the score that counts one of them only.

    Args:
      probabilities_NC: the probability of each label, [N, C].
      labels_N: the index of the true label, [N].
    """
    differences_NC = np.array(probabilities_NC)
    differences_NC[np.arange(len(differences_NC)), labels_N] -= 1.0
    return (differences_NC**2).sum(-1, dtype=np.float64)


class ForecastCounts:
    """Counts any number of forecasts in slices, in memory that does not grow with them.

    Forecasts whose log-odds are equal as float16 are counted together, so a bin may end a little earlier or later than in
    `reliability_bins`. Probabilities are rounded to 2**-24, so that their sums do not depend on the order of the slices.
    """

    def __init__(self) -> None:
        self._counts, self._confidence, self._hits = (np.zeros(2**16) for _ in range(3))

    def add(self, log_odds: np.ndarray, probabilities: np.ndarray, present: np.ndarray) -> None:
        """Add forecasts: log-odds, their probabilities, and whether they came true; arrays of one shape."""
        with np.errstate(over="ignore"):
            bits = log_odds.astype(np.float16).ravel().view(np.uint16).astype(np.int64)
        # The bits of a negative number fall while the number rises.
        cells = np.where(bits < 2**15, bits + 2**15, 2**16 - 1 - bits)
        for total, weights in (
            (self._counts, None),
            (self._confidence, np.round(probabilities.ravel() * 2.0**24)),
            (self._hits, present.ravel()),
        ):
            total += np.bincount(cells, weights=weights, minlength=2**16)

    def bins(self, bins: int = BINS) -> ReliabilityBins:
        """Return the bins of all forecasts."""
        used = self._counts > 0
        confidence = self._confidence[used] / 2**24
        return _joined_to(bins, self._counts[used].astype(np.int64), confidence, self._hits[used])


def _joined_to(bins: int, counts: np.ndarray, confidence: np.ndarray, hits: np.ndarray) -> ReliabilityBins:
    """Join groups of forecasts, in ascending order, to bins; `confidence` and `hits` are sums over each group."""
    if not len(counts):
        return ReliabilityBins(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    reached = np.cumsum(counts)
    wanted = np.arange(1, bins + 1) * reached[-1] / bins
    last = np.unique(np.searchsorted(reached, wanted))
    first = np.append(0, last[:-1] + 1)
    total, sums, right = (np.add.reduceat(part, first) for part in (counts, confidence, hits))
    return ReliabilityBins(total, sums / total, right / total)
