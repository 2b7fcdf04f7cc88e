"""The validation split keeps the shares of the labels and never empties one."""

import numpy as np
import pytest

from jaxbert.data.split import split_groups, stratified_split
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
