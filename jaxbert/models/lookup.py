"""Looking up word embeddings so that their gradient is a gather instead of an addition into an array of zeros."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def lookup(table_VD: Array, ids: Array, dtype: Any) -> Array:
    """Return the rows of a table, [..., D], in a number format.

    The gradient is the usual one, but computed the other way round: where ordinary indexing fills a [V, D] array with
    zeros and adds rows to it, this one adds up the rows of the batch alone, and every word takes its own from there. That
    is a gather, which XLA writes once or fuses into what reads the gradient. It pays where the table is large beside the
    batch and on one device: spread over several, words would have to be looked up in everybody's rows.
    """

    @jax.custom_vjp
    def take(table_VD: Array) -> Array:
        return jnp.take(table_VD, ids, axis=0).astype(dtype)

    def forward(table_VD: Array) -> tuple[Array, None]:
        return take(table_VD), None

    def backward(_: None, grads: Array) -> tuple[Array]:
        words, rows_ND = ids.reshape(-1), grads.reshape(-1, grads.shape[-1]).astype(table_VD.dtype)
        nobody = words.size
        # One token of each word collects the rows of all; a word that no token is takes the row of zeros behind them.
        collector_V = jnp.full(table_VD.shape[0], nobody, jnp.int32).at[words].min(jnp.arange(nobody, dtype=jnp.int32))
        zeros = jnp.zeros((nobody + 1, rows_ND.shape[1]), rows_ND.dtype)
        rows_ND = zeros.at[collector_V[words]].add(rows_ND, mode="promise_in_bounds")
        return (rows_ND.at[collector_V].get(mode="promise_in_bounds"),)

    take.defvjp(forward, backward)
    return take(table_VD)
