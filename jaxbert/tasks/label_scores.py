"""Compute precision, recall and F1 of labels from counts, in memory linear in the number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
