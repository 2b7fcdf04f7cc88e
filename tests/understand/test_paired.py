"""Metrics as functions of sums, intervals of differences and McNemar's test, beside scikit-learn, SciPy and hand values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from jaxbert.understand import paired
from jaxbert.understand.paired import difference_interval, f1_measure, mcnemar, mean_measure, pearson_measure

RNG = np.random.default_rng(0)
GOLD = RNG.integers(0, 4, 300)
FIRST, SECOND = (np.where(RNG.random(300) < share, GOLD, RNG.integers(0, 4, 300)) for share in (0.6, 0.8))


def right(given: np.ndarray) -> np.ndarray:
    return given == GOLD


def macro(given: np.ndarray):
    wanted, found = np.eye(5)[GOLD], np.eye(5)[given]  # a fifth label occurs nowhere
    return f1_measure("f1_macro", wanted * found, found, wanted)


def test_f1_is_that_of_scikit_learn():
    expected = f1_score(GOLD, FIRST, labels=range(5), average="macro", zero_division=0)
    assert macro(FIRST).value == pytest.approx(expected, abs=1e-12)
    micro = f1_measure("f1", right(FIRST)[:, None], np.ones((300, 1)), np.ones((300, 1)))
    assert micro.value == pytest.approx(f1_score(GOLD, FIRST, average="micro"), abs=1e-12)


def test_the_correlation_is_that_of_scipy():
    x, y = GOLD + RNG.normal(size=300), 1e3 + GOLD
    assert pearson_measure("pearson", x, y).value == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
    assert pearson_measure("pearson", np.full(300, 0.1), y).value == 0


def test_mcnemar_by_hand():
    """10 and 2 discordant examples: p = 2 (1 + 12 + 66) / 2**12."""
    first = np.array([True] * 10 + [False] * 2 + [True] * 5)
    second = np.array([False] * 10 + [True] * 2 + [True] * 5)
    found = mcnemar(first, second)
    assert (found["only_first_right"], found["only_second_right"]) == (10, 2)
    assert found["p_value"] == pytest.approx(158 / 4096, rel=1e-12)
    assert mcnemar(first, first)["p_value"] == 1.0


@pytest.mark.parametrize("kind", ["accuracy", "values"])
def test_the_interval_of_a_mean_is_that_of_scipy(kind):
    """From patterns, as counts are drawn, and from examples, as values are."""
    a, b = (right(FIRST) * 1.0, right(SECOND) * 1.0) if kind == "accuracy" else (RNG.normal(size=300), GOLD * 1.0)
    low, high = difference_interval(mean_measure("x", a), mean_measure("x", b))
    found = stats.bootstrap(
        (b, a),
        lambda b, a, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=1,
    ).confidence_interval
    width = found.high - found.low
    assert (low, high) == pytest.approx(tuple(found), abs=0.06 * width)
    assert low < (b - a).mean() < high
    assert difference_interval(mean_measure("x", a), mean_measure("x", b)) == (low, high)


def test_patterns_and_examples_give_one_interval(monkeypatch):
    pair = macro(FIRST), macro(SECOND)
    found = difference_interval(*pair)
    for few in (0, 10**9):  # patterns always, patterns never
        monkeypatch.setattr(paired, "_FEW", few)
        assert difference_interval(*pair) == pytest.approx(found, abs=0.06 * (found[1] - found[0]))
    monkeypatch.setattr(paired, "_MOST_DRAWN", 300 * 7)
    assert difference_interval(*pair) == pytest.approx(found, abs=0.06 * (found[1] - found[0]))


def test_a_model_beside_itself_has_no_difference():
    """Both see the same examples of a resample: the interval of an unpaired bootstrap would not be a point."""
    assert difference_interval(macro(FIRST), macro(FIRST)) == (0.0, 0.0)
