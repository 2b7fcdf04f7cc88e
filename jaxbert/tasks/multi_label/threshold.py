"""Find the threshold, the least probability of a given label, with the largest micro F1, in bounded memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UNTUNED = 0.5
_KEPT_FOR_EACH = 16
_LEAST_KEPT = 2**21


class Given(NamedTuple):
    """Given labels: for each the example, the label's index, and whether the example has the label, all [n]."""

    documents: np.ndarray
    labels: np.ndarray
    present: np.ndarray

    def where(self, mask: np.ndarray) -> Given:
        """Return the given labels where `mask`, bool [n], is true."""
        return Given(self.documents[mask], self.labels[mask], self.present[mask])


def given_from(
    probabilities: np.ndarray, least: float | np.ndarray, documents: np.ndarray, labels: np.ndarray
) -> Given:
    """Return the labels whose probabilities are at or above a threshold.

    Args:
      probabilities: [n, C].
      least: the threshold, or that of each label, [C].
      documents: the indices of the examples, [n].
      labels: whether each example has each label, bool [n, C].
    """
    rows, columns = np.nonzero(probabilities >= least)
    return Given(documents[rows].astype(np.int32), columns.astype(np.int32), labels[rows, columns])


class ThresholdSearch:
    """Search the best threshold in slices of probabilities; only those that can be the best are kept.

    Of n given labels, at most `expected` are right, so F1 is at most 2 * expected / (n + expected). So only the largest
    `16 * expected` probabilities are kept (at least two million): if the best F1 among them is above 2 / 17, no other
    threshold has a larger one. Otherwise the result is the best threshold that gives no more labels than are kept.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._most = max(_LEAST_KEPT, _KEPT_FOR_EACH * expected)
        self._pieces: list[tuple[np.ndarray, Given]] = []
        self._count = 0
        self._least = 0.0
        self._below = 0.0
        """The largest probability that was left out."""

    def add(self, probabilities: np.ndarray, documents: np.ndarray, labels: np.ndarray) -> None:
        """Add the probabilities [n, C] of some examples, and their labels, bool [n, C]."""
        kept = probabilities >= self._least
        self._below = max(self._below, float(probabilities[~kept].max(initial=0.0)))
        self._pieces.append((probabilities[kept], given_from(probabilities, self._least, documents, labels)))
        self._count += len(self._pieces[-1][0])
        if self._count > 2 * self._most:
            self._cut()

    def _cut(self) -> None:
        """Keep the largest probabilities, with those equal to the smallest kept one unless they are too many."""
        values = np.concatenate([values for values, _ in self._pieces])
        given = Given(*map(np.concatenate, zip(*(given for _, given in self._pieces), strict=True)))
        if len(values) > self._most:
            least = np.partition(values, len(values) - self._most)[len(values) - self._most]
            if np.count_nonzero(values >= least) > 2 * self._most:
                least = np.nextafter(least, np.float32(2))
            kept = values >= least
            self._below = max(self._below, float(values[~kept].max(initial=0.0)))
            self._least, values, given = float(least), values[kept], given.where(kept)
        self._pieces, self._count = [(values, given)], len(values)

    def finish(self) -> tuple[float, Given]:
        """Return the threshold, and the labels that it gives."""
        self._cut()
        ((values, given),) = self._pieces
        if not len(values):
            return self._least or UNTUNED, given  # all are equal to the smallest kept one, or NaN
        threshold = best_threshold(values, given.present, self._expected, self._below)
        return threshold, given.where(values >= threshold)


def best_threshold(
    probabilities: np.ndarray, labels: np.ndarray, expected: int | None = None, below: float = 0.0
) -> float:
    """Return the threshold with the largest micro F1: half-way between the least given probability and the next lower.

    Args:
      probabilities: an array of any shape.
      labels: whether the example has the label, bool of the same shape.
      expected: the number of labels that examples have, if some have no probability here.
      below: the largest probability that is left out here.
    """
    flat, present = probabilities.ravel(), labels.ravel()
    expected = int(present.sum()) if expected is None else expected
    if not expected:
        return UNTUNED
    order = np.argsort(-flat, kind="stable")
    values, hits = flat[order], np.cumsum(present[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + expected)
    last_of_value = np.append(values[1:] != values[:-1], True)
    best = int(np.argmax(np.where(last_of_value, f1, -1)))
    lower = values[best + 1] if best + 1 < len(values) else below
    return float((values[best].astype(np.float64) + lower) / 2)
