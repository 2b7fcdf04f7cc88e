"""The probability from which a label is given: the one with the largest micro F1, found in bounded memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UNTUNED = 0.5
_KEPT_FOR_EACH = 16
_LEAST_KEPT = 2**21


class Given(NamedTuple):
    """Labels that examples may be given: of each the example, the label's index, and whether the example has it."""

    documents: np.ndarray
    labels: np.ndarray
    present: np.ndarray

    def where(self, mask: np.ndarray) -> Given:
        """Return those of a mask."""
        return Given(self.documents[mask], self.labels[mask], self.present[mask])


def given_from(probabilities: np.ndarray, least: float, documents: np.ndarray, labels: np.ndarray) -> Given:
    """Return what examples are given from a threshold on.

    Args:
      probabilities: [n, C].
      least: the threshold.
      documents: which examples they are, [n].
      labels: the labels that these have, bool [n, C].
    """
    rows, columns = np.nonzero(probabilities >= least)
    return Given(documents[rows].astype(np.int32), columns.astype(np.int32), labels[rows, columns])


class ThresholdSearch:
    """Probabilities that come piece by piece, of which those are kept that can be the best threshold.

    Of n given labels no more than the `expected` ones are right, so that F1 is 2 * expected / (n + expected) at most. So
    only the largest `16 * expected` probabilities are kept (two million at least): where the best F1 among them is above
    2 / 17, no other threshold has a larger one. Below that, it is the best of those that give no more labels than these.
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
        """Take the probabilities [n, C] of some examples, and the labels that these have, bool [n, C]."""
        kept = probabilities >= self._least
        self._below = max(self._below, float(probabilities[~kept].max(initial=0.0)))
        self._pieces.append((probabilities[kept], given_from(probabilities, self._least, documents, labels)))
        self._count += len(self._pieces[-1][0])
        if self._count > 2 * self._most:
            self._cut()

    def _cut(self) -> None:
        """Keep the largest probabilities, and those that equal the smallest of them unless these are too many."""
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
        """Return the threshold, and what it gives."""
        self._cut()
        ((values, given),) = self._pieces
        if not len(values):
            return self._least or UNTUNED, given  # all equal the smallest that would be kept, or no number
        threshold = best_threshold(values, given.present, self._expected, self._below)
        return threshold, given.where(values >= threshold)


def best_threshold(
    probabilities: np.ndarray, labels: np.ndarray, expected: int | None = None, below: float = 0.0
) -> float:
    """Return the probability from which giving labels has the largest micro F1; half-way to the next lower one.

    Args:
      probabilities: of any shape.
      labels: whether they are of labels that are there, bool of the same shape.
      expected: how many labels are there, where some have no probability here.
      below: the largest probability that is not here.
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
