"""Dropout as a function of a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Set a share of the entries to zero and scale the others up; without a key, return `x`.

    Drawn from 16 random bits an entry: half the generator's work of 32, at a rate that is off by 1/131072 at most. The
    scale uses the rate that results, so the expectation is exact.
    """
    if key is None or rate == 0.0:
        return x
    threshold = round(rate * 2**16)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= threshold
    return jnp.where(keep, x / (1 - threshold / 2**16), jnp.zeros((), x.dtype))
