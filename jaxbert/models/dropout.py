"""Dropout as a function of a key, with random bits that cost next to nothing."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# The multipliers and shifts of MurmurHash3's 32-bit finalizer (Appleby, public domain).
_MIX = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))


def random_words(key: Array, shape: tuple[int, ...]) -> Array:
    """Return 32 random bits for each entry, uint32: its index, hashed with the key.

    A cryptographic generator is more than dropout needs: threefry was 14% of a CPU step (MiniLM, 432 tokens), this is 1%
    and fuses into the operation that uses it. An entry depends on its index alone, so sharding changes nothing.
    """
    index = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return hash_index(index, *seed_words(key))


def seed_words(key: Array) -> tuple[Array, Array]:
    """Return the two words of a key that `hash_index` takes."""
    seed = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    return seed[0], seed[-1]


def hash_index(index: Array, first: Array, second: Array) -> Array:
    """Hash flat indices (uint32) with the two words of a key; of integer operations alone, so that kernels can do it too."""
    words = (index ^ first) * _MIX[0]
    words = (words ^ (words >> 16) ^ second) * _MIX[0]
    words = (words ^ (words >> 13)) * _MIX[1]
    return words ^ (words >> 16)


def threshold(rate: float) -> np.uint32:
    """Return the random word from which on an entry is kept."""
    return np.uint32(min(round(rate * 2**32), 2**32 - 1))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Set a share of the entries to zero and scale the others up; without a key, return `x`."""
    if key is None or rate == 0.0:
        return x
    keep = random_words(key, x.shape) >= threshold(rate)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
