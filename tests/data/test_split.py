"""The validation split keeps the shares of the labels and never empties one."""

import numpy as np
import pytest

from jaxbert.data.split import make_folds, split_groups, stratified_split
from jaxbert.errors import UserError


def labels(*counts: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)


def test_parts_are_sorted_disjoint_and_stratified():
    y = labels(700, 250, 50)
    train, validation = stratified_split(y, 0.1, seed=3)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert np.bincount(y[validation]).tolist() == [70, 25, 5]


def test_the_seed_decides():
    y = labels(70, 30)
    first, again, other = (stratified_split(y, 0.2, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ((97, 2, 1), 0.1, [9, 1, 0]),
        ((2, 2), 0.5, [1, 1]),
        ((6, 2, 2, 2), 0.34, [1, 1, 1, 1]),
        ((3, 3, 3), 0.5, [2, 1, 1]),
        ((10, 10, 10), 0.04, [1, 0, 0]),
        ((90, 10), 0.98, None),
    ],
)
def test_rare_labels(counts, fraction, expected):
    y = labels(*counts)
    train, validation = stratified_split(y, fraction, seed=0)
    got = np.bincount(y[validation], minlength=len(counts))
    assert (np.bincount(y[train], minlength=len(counts)) > 0).all()
    assert len(validation) == round(fraction * sum(counts))
    if expected:
        assert got.tolist() == expected


@pytest.mark.parametrize(
    ("counts", "fraction"), [((10, 10), 0.0), ((10, 10), 1.0), ((5, 5), 0.01), ((5, 5), 0.95), ((1, 1), 0.5)]
)
def test_impossible_fractions(counts, fraction):
    with pytest.raises(UserError, match=r"data\.validation_fraction"):
        stratified_split(labels(*counts), fraction, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_whole(seed):
    groups = np.random.default_rng(seed).integers(0, 30, 400)
    train, validation = split_groups(groups, 0.2, seed)
    assert sorted([*train, *validation]) == list(range(400))
    assert not set(groups[train]) & set(groups[validation])
    assert 80 <= len(validation) < 80 + np.bincount(groups).max()
    again = split_groups(groups, 0.2, seed)[1]
    assert validation.tolist() == again.tolist() != split_groups(groups, 0.2, seed + 1)[1].tolist()


@pytest.mark.parametrize(("groups", "fraction"), [([0, 0, 0], 0.5), ([0, 1], 0.1), ([0, 1], 0.9)])
def test_groups_that_leave_a_part_empty(groups, fraction):
    with pytest.raises(UserError, match=r"leaves one part of \d rows in \d groups empty"):
        split_groups(np.array(groups), fraction, seed=0)


def spread(counts):
    return max(counts) - min(counts)


@pytest.mark.parametrize(("sizes", "count"), [((50, 50), 5), ((83, 17, 3), 5), ((7, 7, 7, 7), 3), ((1, 1, 1, 2), 4)])
def test_folds_have_equal_sizes_and_equal_shares_of_each_label(sizes, count):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    folds = make_folds(count, labels, seed=3)
    assert folds.dtype == np.int32
    assert spread(np.bincount(folds, minlength=count)) <= 1
    for label in range(len(sizes)):
        assert spread(np.bincount(folds[labels == label], minlength=count)) <= 1
    np.testing.assert_array_equal(folds, make_folds(count, labels, seed=3))
    if len(labels) > 20:
        assert (folds != make_folds(count, labels, seed=4)).any()


def test_folds_keep_groups_together_and_even():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 9, 60))) * 7  # numbers may have gaps
    labels = (groups // 7 % 3 == 0).astype(np.int32)  # all rows of a group have one label
    folds = make_folds(5, labels, 0, groups)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    sizes = np.bincount(folds, minlength=5)
    assert spread(sizes) <= 16
    for label in (0, 1):
        assert spread(np.bincount(folds[labels == label], minlength=5)) <= 8


def test_no_fold_is_empty_though_one_group_is_most_of_the_rows():
    groups = np.array([0] * 50 + [1, 2, 3, 4])
    for seed in range(5):
        folds = make_folds(5, (groups > 0).astype(np.int32), seed, groups)
        assert sorted(np.bincount(folds, minlength=5)) == [1, 1, 1, 1, 50]


def test_more_folds_than_rows_or_groups_are_refused():
    with pytest.raises(UserError, match=r"train\.folds is 4, but there are only 3 training rows"):
        make_folds(4, np.zeros(3, np.int32), 0)
    with pytest.raises(UserError, match=r"train\.folds is 3, but there are only 2 groups of training rows"):
        make_folds(3, np.zeros(9, np.int32), 0, np.arange(9) % 2)
