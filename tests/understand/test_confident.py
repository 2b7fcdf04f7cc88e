"""Confident learning: values counted by hand, and the lists of cleanlab on equal probabilities."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from jaxbert.understand.confident import (
    confident_joint,
    confident_thresholds,
    find_contradicted,
    find_contradicted_sets,
    find_wrong_choices,
    label_quality,
    likely_labels,
    residual_spread,
    score_quality,
    set_quality,
)

LABELS = np.array([0, 0, 0, 1, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.55, 0.45]])


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels of which some are wrong, and probabilities that mostly know the right one."""
    rng = np.random.default_rng(seed)
    labels, count = int(rng.integers(2, 8)), int(rng.integers(60, 900))
    right = rng.integers(0, labels, count)
    given, wrong = right.copy(), rng.random(count) < 0.15
    given[wrong] = rng.integers(0, labels, wrong.sum())
    logits = rng.normal(size=(count, labels))
    logits[np.arange(count), right] += 2
    odds = np.exp(logits)
    return given, (odds / odds.sum(1, keepdims=True)).astype(np.float32 if seed % 2 else np.float64)


def test_values_counted_by_hand():
    np.testing.assert_allclose(confident_thresholds(LABELS, PROBABILITIES), [0.6, 0.65])
    assert likely_labels(LABELS, PROBABILITIES).tolist() == [0, 0, 1, 1, 1, -1]
    assert confident_joint(LABELS, PROBABILITIES).tolist() == [[2, 1], [0, 3]]
    assert find_contradicted(LABELS, PROBABILITIES).tolist() == [False, False, True, False, False, False]
    np.testing.assert_allclose(label_quality(LABELS, PROBABILITIES), [0.9, 0.8, 0.1, 0.7, 0.8, 0.45])
    margins = label_quality(LABELS, PROBABILITIES, "normalized_margin")
    np.testing.assert_allclose(margins, [0.9, 0.8, 0.1, 0.7, 0.8, 0.45])


def test_a_label_without_examples_is_nobodys():
    three = np.concatenate([PROBABILITIES * 0.5, np.full((6, 1), 0.5)], 1)
    assert confident_thresholds(LABELS, three)[2] == np.inf
    assert set(likely_labels(LABELS, three)) <= {-1, 0, 1}


def test_of_each_label_one_example_is_left():
    probabilities = np.array([[0.1, 0.99], [0.1, 0.98], [0.03, 0.97], [0.05, 0.95]])
    assert find_contradicted(np.array([0, 0, 1, 1]), probabilities).tolist() == [True, False, False, False]
    assert not find_contradicted(np.array([0, 1, 1, 1]), probabilities).any()


def test_few_confident_examples_stand_for_all_of_a_label_and_one_for_being_right():
    labels = np.repeat([0, 1], [10, 2])
    probabilities = np.array([[0.5, 0.99]] * 2 + [[0.4, 0.5]] * 8 + [[0.1, 0.9]] * 2)
    assert likely_labels(labels, probabilities).tolist() == [1] * 2 + [-1] * 8 + [1] * 2
    assert confident_joint(labels, probabilities).tolist() == [[3, 7], [0, 2]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rank_by", ["self_confidence", "normalized_margin"])
def test_lists_are_those_of_cleanlab(seed, rank_by):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleanlab = pytest.importorskip("cleanlab.filter")
        labels, probabilities = noisy(seed)
        expected = cleanlab.find_label_issues(labels, probabilities, return_indices_ranked_by=rank_by, n_jobs=1)
    found = np.flatnonzero(find_contradicted(labels, probabilities))
    quality = label_quality(labels, probabilities, rank_by)[found]
    assert len(found) > 3
    assert found[np.argsort(quality, kind="stable")].tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_marks_are_those_of_cleanlab(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleanlab = pytest.importorskip("cleanlab.multilabel_classification.filter")
        rng = np.random.default_rng(seed)
        right = rng.random((300, 4)) < [0.5, 0.3, 0.2, 0.1]
        given = right ^ (rng.random(right.shape) < 0.1)
        probabilities = 1 / (1 + np.exp(-rng.normal(size=right.shape) - 3 * right + 1.5))
        listed = [np.flatnonzero(row).tolist() for row in given]
        expected = cleanlab.find_multilabel_issues_per_class(listed, probabilities, n_jobs=1)
    marks = find_contradicted_sets(given, probabilities)
    np.testing.assert_array_equal(marks, expected)
    quality = set_quality(given, probabilities)
    assert quality[marks].mean() < 0.5 < quality[~marks].mean()


def test_a_choice_is_wrong_if_another_one_is_as_probable_as_right_ones_are():
    right = np.array([0, 1, 0, 1])
    probabilities = np.array([[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.1, 0.2, 0.7], [0.1, 0.4, 0.5]])
    assert find_wrong_choices(right, probabilities).tolist() == [False, False, True, False]  # the threshold is 0.55


def test_scores_far_from_their_predictions():
    residuals = np.random.default_rng(0).normal(0.5, 1, 1000)
    residuals[[3, 7]] = [9.0, -6.0]
    middle, spread = residual_spread(residuals)
    assert middle == pytest.approx(0.5, abs=0.1)
    assert spread == pytest.approx(1, abs=0.1)
    found, quality = score_quality(residuals)
    assert {3, 7} <= set(np.flatnonzero(found))
    assert found.sum() < 6
    assert np.argsort(quality)[:2].tolist() == [3, 7]
    assert score_quality(np.zeros(5))[0].sum() == 0
    assert residual_spread(np.array([0.0, 0.0, 0.0, 0.0, 5.0]))[1] == 2.0  # most are equal
