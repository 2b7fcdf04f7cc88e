"""The order of an epoch: a seeded permutation that is computed piece by piece and never stored.

Position -> example by a Feistel network, which is a bijection on a power of four, walked until it lands inside the data
set. Any stretch of any epoch can be computed alone, so resuming costs nothing and memory does not grow with the data.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """A bijection of 0..size-1 that depends on (seed, epoch)."""

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, -(-max(size - 1, 1).bit_length() // 2)))
        self._mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        self._keys = np.random.default_rng((seed, epoch)).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return the examples at positions `start` to `stop - 1`, int64."""
        values = self._scramble(np.arange(start, stop, dtype=np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._scramble(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _scramble(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            mixed = (right ^ key) * _MULTIPLIER
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._mask)
        return (left << self._half_bits) | right
