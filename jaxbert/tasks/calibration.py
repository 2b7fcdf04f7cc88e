"""Measure whether probabilities are right: reliability bins, the expected calibration error and the Brier score.

NumPy only. A *forecast* is a probability and whether it came true: that of the most probable label of an example, or of each
label of an example that may have several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    differences_NC = np.array(probabilities_NC, np.float64)
    differences_NC[np.arange(len(differences_NC)), labels_N] -= 1.0
    return (differences_NC**2).sum(-1)


class ForecastCounts:
    """Counts any number of forecasts in slices, in memory that does not grow with them.

    Forecasts whose log-odds are equal as float16 are counted together, so a bin may end a little earlier or later than in
    `reliability_bins`; the means in the bins are exact.
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
            (self._confidence, probabilities.ravel()),
            (self._hits, present.ravel()),
        ):
            total += np.bincount(cells, weights=weights, minlength=2**16)

    def bins(self, bins: int = BINS) -> ReliabilityBins:
        """Return the bins of all forecasts."""
        used = self._counts > 0
        return _joined_to(bins, self._counts[used].astype(np.int64), self._confidence[used], self._hits[used])


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
