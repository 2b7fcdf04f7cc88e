"""The order of an epoch is a permutation that any stretch can be taken of."""

from __future__ import annotations

import numpy as np
import pytest

from jaxbert.data.packing import Permutation

SIZES = (1, 2, 3, 4, 5, 15, 16, 17, 100, 255, 256, 257, 4096, 10_001)


@pytest.mark.parametrize("size", SIZES)
def test_every_example_comes_once(size):
    order = Permutation(size, seed=3, epoch=1)(0, size)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("size", SIZES)
def test_a_stretch_is_a_slice_of_the_whole(size):
    permutation = Permutation(size, seed=5, epoch=0)
    whole = permutation(0, size)
    rng = np.random.default_rng(size)
    for _ in range(20):
        start, stop = sorted(rng.integers(0, size + 1, 2))
        np.testing.assert_array_equal(permutation(start, stop), whole[start:stop])


def test_the_order_is_the_same_in_every_process():
    # Runs that are going on depend on it: this may change only with a note in the changelog.
    assert Permutation(10, seed=0, epoch=0)(0, 10).tolist() == [1, 3, 7, 4, 2, 0, 5, 9, 6, 8]


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(Permutation(50, seed, epoch)(0, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_looks_random():
    """Neither position nor neighbourhood survives: rank correlations of a random order of 20,000 are below 0.03."""
    size = 20_000
    order = Permutation(size, seed=0, epoch=0)(0, size)
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.03
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
    steps = np.abs(np.diff(order))
    assert steps.mean() == pytest.approx(size / 3, rel=0.03)
