"""Reliability bins, calibration error and Brier score against values counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jaxbert.tasks.metrics import ForecastCounts, brier_scores, calibration_error, reliability_bins

CONFIDENCE = np.array([0.9, 0.6, 0.8, 0.7, 0.9, 0.6])
CORRECT = np.array([True, False, True, False, False, True])


def test_bins_of_equal_size_have_the_counted_means():
    bins = reliability_bins(CONFIDENCE, CORRECT, bins=3)
    assert bins.counts.tolist() == [2, 2, 2]
    np.testing.assert_allclose(bins.confidence, [0.6, 0.75, 0.9])
    np.testing.assert_allclose(bins.accuracy, [0.5, 0.5, 0.5])
    assert calibration_error(CONFIDENCE, CORRECT, bins=3) == pytest.approx((0.1 + 0.25 + 0.4) / 3)


def test_equal_probabilities_share_a_bin_and_the_order_is_of_no_account():
    confidence, correct = np.array([0.5, 0.5, 0.5, 0.9]), np.array([1, 0, 1, 0])
    bins = reliability_bins(confidence, correct, bins=4)
    assert bins.counts.tolist() == [3, 1]
    np.testing.assert_allclose(bins.accuracy, [2 / 3, 0])
    order = [3, 1, 0, 2]
    assert calibration_error(confidence[order], correct[order], bins=4) == calibration_error(
        confidence, correct, bins=4
    )
    assert calibration_error(confidence, correct, bins=4) == pytest.approx((3 * (2 / 3 - 0.5) + 0.9) / 4)


def test_sizes_differ_by_one_at_most_if_all_probabilities_differ():
    counts = reliability_bins(np.linspace(0.5, 1, 100), np.ones(100), bins=15).counts
    assert counts.sum() == 100
    assert set(counts.tolist()) == {6, 7}


def test_fewer_examples_than_bins_are_bins_of_one_and_none_is_no_error():
    assert calibration_error(np.array([0.75]), np.array([True])) == pytest.approx(0.25)
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == 0.0


def test_brier_scores_are_the_squared_distances_to_the_truth():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    scores = brier_scores(probabilities, np.array([0, 1, 2]))
    np.testing.assert_allclose(scores, [0.3**2 + 0.2**2 + 0.1**2, 0.0, 2.0])


def test_counts_in_slices_have_the_error_of_all_forecasts():
    generator = np.random.default_rng(0)
    log_odds = np.append(generator.normal(-2, 3, (1000, 4)), [[-1e6, 0.0, -0.0, 1e6]], axis=0)  # beyond float16 too
    probabilities = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
    present = generator.random(log_odds.shape) < probabilities**2
    counts = ForecastCounts()
    for first in range(0, 1001, 300):
        part = slice(first, first + 300)
        counts.add(log_odds[part], probabilities[part], present[part])
    whole, exact = counts.bins(), reliability_bins(probabilities.ravel(), present.ravel())
    assert np.all(np.diff(whole.confidence) > 0), "the cells are in ascending order"
    assert whole.counts.sum() == exact.counts.sum() == 4004
    assert np.abs(whole.counts - exact.counts).max() <= 4
    assert whole.error() == pytest.approx(exact.error(), abs=2e-3)
    assert exact.error() > 0.05
