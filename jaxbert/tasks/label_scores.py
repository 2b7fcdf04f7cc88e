"""Precision, recall and F1 of labels from counts: nothing here grows with the square of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelScores:
    """Precision, recall and F1 of each label, [C], by scikit-learn's formulas; 0 where they divide by nothing."""

    hits: np.ndarray
    """How often a label was given rightly."""
    given: np.ndarray
    """How often it was given."""
    expected: np.ndarray
    """How often it should have been given: the support."""

    @property
    def precision(self) -> np.ndarray:
        """The share of those given that are right."""
        return _divided(self.hits, self.given)

    @property
    def recall(self) -> np.ndarray:
        """The share of those expected that were given."""
        return _divided(self.hits, self.expected)

    @property
    def f1(self) -> np.ndarray:
        """Their harmonic mean."""
        return _divided(2 * self.hits, self.expected + self.given)

    def total(self) -> LabelScores:
        """Count all labels as one, for micro means."""
        return LabelScores(*(part.sum(keepdims=True) for part in (self.hits, self.given, self.expected)))

    def mean(self, score: str, *, weighted: bool = False) -> float:
        """Return the mean of a score over all labels, each counting the same or by its support."""
        return float(np.average(getattr(self, score), weights=self.expected if weighted else None))

    def f1_macro(self) -> dict[str, float]:
        """Return `f1_macro` over all labels and, where it differs, `f1_macro_present` over those that occur."""
        of_all, present = self.mean("f1"), self.f1[self._occurs]
        of_present = float(present.mean()) if len(present) else 0.0
        return {"f1_macro": of_all} | ({"f1_macro_present": of_present} if of_present != of_all else {})

    def macro_over(self) -> str:
        """Say over which labels the macro means are."""
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
