"""Random numbers that are hashes of (purpose, seed, epoch, example, place), for choices that are made on the host.

A number depends on nothing else: packing, padding, the number of hosts and the step of a resume do not change it.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def purpose_key(purpose: int, seed: int, epoch: int) -> np.ndarray:
    """Return the key of an epoch for one purpose, uint64 [1]."""
    return _mix_pair(_mix_pair(_mix(np.array([purpose], np.uint64)), seed), epoch)


def example_keys(key: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Return the key of each example, uint64, in the shape of their numbers."""
    return _mix(_mix_pair(key, examples.astype(np.uint64)))


def uniform(keys: np.ndarray, counters: np.ndarray | int, purpose: int) -> np.ndarray:
    """Return a number from 0 to below 1 for each key and counter."""
    bits = _mix_pair(_mix_pair(keys, counters), purpose)
    return (bits >> np.uint64(11)) * 2.0**-53


def rank_within(groups: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices sorted by group and, in a group, by `order`, and the rank of each of these within its group."""
    ranked = np.lexsort((order, groups))
    grouped = groups[ranked]
    return ranked, np.arange(len(ranked)) - np.searchsorted(grouped, grouped)


def _mix_pair(key: np.ndarray, value: np.ndarray | int) -> np.ndarray:
    return _mix(key + (np.atleast_1d(np.asarray(value, np.uint64)) + np.uint64(1)) * _GOLDEN)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (the finalizer of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * _FACTORS[0]
    x = (x ^ (x >> np.uint64(27))) * _FACTORS[1]
    return x ^ (x >> np.uint64(31))
