"""Paired statistics of two models on the same examples: intervals of a difference, and McNemar's test. NumPy only.

A metric is a function of sums over examples (accuracy: a mean; F1: counts; a correlation: moments). So a resample needs only
the sums of the examples that it draws, and examples with equal statistics are drawn together: exact, and independent of N
for metrics of counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
"""The share of resamples inside an interval."""
_SEED = 0
_MOST_DRAWN = 2**23
"""Numbers that are drawn at once."""
_FEW = 8
"""Examples for each distinct pattern from which patterns are drawn, and not examples."""


@dataclass(frozen=True)
class Measure:
    """A metric of one model on N examples, as a function of the sums of K statistics."""

    name: str
    parts: np.ndarray
    """The statistics of each example, float64 [N, K]."""
    formula: Callable[[np.ndarray], np.ndarray]
    """Return the metric of sums, [..., K] -> [...]."""

    @property
    def value(self) -> float:
        """The metric of all examples."""
        return float(self.formula(self.parts.sum(0)))


def mean_measure(name: str, values: np.ndarray) -> Measure:
    """Return a metric that is the mean of a value of each example, [N]."""
    return share_measure(name, values, np.ones(len(values)))


def share_measure(name: str, hits: np.ndarray, wholes: np.ndarray) -> Measure:
    """Return a metric that is a sum over the examples divided by another one, from the two numbers of each, [N]."""
    parts = np.stack([hits, wholes], 1).astype(np.float64)
    return Measure(name, parts, lambda sums: quotient(sums[..., 0], sums[..., 1]))


def f1_measure(name: str, hits: np.ndarray, given: np.ndarray, expected: np.ndarray) -> Measure:
    """Return the mean over C labels of their F1, from the counts of each example, [N, C]; C is 1 for a micro mean."""
    labels = hits.shape[1]

    def formula(sums: np.ndarray) -> np.ndarray:
        right, found, wanted = (sums[..., i * labels : (i + 1) * labels] for i in range(3))
        return quotient(2 * right, found + wanted).mean(-1)

    return Measure(name, np.concatenate([hits, given, expected], 1).astype(np.float64), formula)


def pearson_measure(name: str, found: np.ndarray, expected: np.ndarray) -> Measure:
    """Return Pearson's correlation of two arrays [N]; 0 if one of them is constant."""
    x, y = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (found, expected))
    rounding = np.finfo(np.float64).eps * len(x)
    least_x, least_y = (rounding * float(np.square(values, dtype=np.float64).max()) for values in (found, expected))

    def formula(sums: np.ndarray) -> np.ndarray:
        count, sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        vx, vy = sxx - quotient(sx * sx, count), syy - quotient(sy * sy, count)
        varied = (vx > least_x) & (vy > least_y)
        return quotient(sxy - quotient(sx * sy, count), np.sqrt(np.where(varied, vx * vy, 0.0)))

    return Measure(name, np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1), formula)


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part / whole`, and 0 where `whole` is 0."""
    whole = np.broadcast_to(whole, np.shape(part))
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole != 0)


def difference_interval(first: Measure, second: Measure, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the interval of `second - first` that holds `LEVEL` of the paired bootstrap's resamples (Efron, 1979).

    Both models see the same examples of a resample. The seed is fixed: the same inputs give the same interval.
    """
    rng, examples = np.random.default_rng(_SEED), len(first.parts)
    both = np.concatenate([first.parts, second.parts], 1)
    patterns, pattern_of, counts = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    differences = np.empty(resamples)
    size, columns = max(1, _MOST_DRAWN // examples), first.parts.shape[1]
    for begin in range(0, resamples, size):
        drawn = _draw(rng, min(size, resamples - begin), pattern_of.reshape(-1), counts)
        sums = drawn @ patterns
        differences[begin : begin + len(drawn)] = second.formula(sums[:, columns:]) - first.formula(sums[:, :columns])
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _draw(rng: np.random.Generator, resamples: int, pattern_of: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Draw as many examples as there are, with replacement; return how often each pattern occurs, float64 [resamples, U]."""
    examples, distinct = len(pattern_of), len(counts)
    if distinct * _FEW <= examples:
        return rng.multinomial(examples, counts / examples, resamples).astype(np.float64)
    chosen = pattern_of[rng.integers(0, examples, (resamples, examples))]
    places = chosen + np.arange(resamples)[:, None] * distinct
    return (
        np.bincount(places.reshape(-1), minlength=resamples * distinct).reshape(resamples, distinct).astype(np.float64)
    )


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Test whether two models are right equally often (McNemar, 1947), from whether each is right, bool [N].

    Returns:
      The examples on which only one is right, and the two-sided p-value of the exact binomial test, which holds for any
      number of them.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p_value}
