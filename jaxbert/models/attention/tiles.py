"""The tiles of a row that our kernels visit, and dropout of their weights; the same for GPU (`pallas`) and TPU (`mosaic`).

A row is cut into tiles. Since segments are contiguous, the tiles that share a segment with a given tile form a range, which
is computed from the segment ids before the kernels start. Each kernel loops only over this range, so a row costs the sum of
its segments' squares (in whole tiles) and not the square of the row. Dropout hashes an entry's index exactly as
`layers.dropout` does: the same key drops the same weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxbert.models.attention.base import Origin
from jaxbert.models.layers import DropRate, hash_index, scale_of, seed_words

MASKED = -1e30
"""The logit of a pair in different segments."""
_LAST = 2**31 - 1


class TilePlan(Protocol):
    """Constants of a kernel on which its dropout depends."""

    @property
    def tokens(self) -> int:
        """T before rows were padded to whole tiles: the stride of the dropout index."""

    @property
    def heads(self) -> int:
        """H over all devices."""

    @property
    def drops(self) -> bool:
        """Whether weights are dropped."""


def tile_padding(segment_ids_BT: Array, tile: int) -> Array:
    """Make the padding of each tile its own segment, numbered from -1 down: each tile of padding visits only itself."""
    own_T = -1 - jnp.arange(segment_ids_BT.shape[1], dtype=jnp.int32) // tile
    return jnp.where(segment_ids_BT > 0, segment_ids_BT, own_T[None])


def neighbours(ids_BT: Array, tile: int) -> Array:
    """Return the range of tiles that each tile must visit, first and end (exclusive), int32 [B, T / tile, 2].

    The range holds the tile itself and the tiles with which it may share a segment: their ranges of ids overlap.
    """
    tiles_BNT = ids_BT.reshape(ids_BT.shape[0], -1, tile)
    low_BN, high_BN = jnp.where(tiles_BNT > 0, tiles_BNT, _LAST).min(-1), tiles_BNT.max(-1)
    near_BNN = (low_BN[:, :, None] <= high_BN[:, None, :]) & (low_BN[:, None, :] <= high_BN[:, :, None])
    near_BNN |= jnp.eye(near_BNN.shape[-1], dtype=bool)[None]
    first_BN = jnp.argmax(near_BNN, -1)
    end_BN = near_BNN.shape[-1] - jnp.argmax(near_BNN[:, :, ::-1], -1)
    return jnp.stack([first_BN, end_BN], -1).astype(jnp.int32)


def dropout_seed(rate: DropRate | None, key: Array | None, origin: Origin) -> Array:
    """Return what dropout needs, uint32 [8]: the key's two words, the first row and head of this part, and the rate's two.

    The last two are zeros, to have a power of two; all are zeros if nothing is dropped.
    """
    if rate is None or key is None:
        return jnp.zeros(8, jnp.uint32)
    first = (jnp.asarray(x, jnp.uint32) for x in origin[:2])
    return jnp.stack([*seed_words(key), *first, *rate.words(), *[jnp.uint32(0)] * 2])


class Matrix(NamedTuple):
    """The [T, T] weights of one row and head, as dropout sees them."""

    first: Array
    second: Array
    """The key's two words."""
    number: Array
    """The index of this matrix among all rows and heads."""
    offsets: Array
    """The index of a tile's entries from its first entry on, uint32."""
    threshold: Array
    """The smallest random word for which an entry is kept."""
    scale: Array
    """The factor of the entries that are kept."""


def matrix_of(
    plan: TilePlan, seed: Any, row: Array, head: Array, shape: tuple[int, int], query_axis: int = 0
) -> Matrix | None:
    """Describe the weights of a row and a head before a kernel's loop; None if nothing is dropped.

    Args:
      plan: the constants of the kernel.
      seed: the result of `dropout_seed`, or a reference to it.
      row: the index among the rows of this part, int32.
      head: the index among the heads of this part, int32.
      shape: the sizes of the tiles of weights that the loop computes.
      query_axis: the axis of a tile along which its queries lie.
    """
    if not plan.drops:
        return None
    number = (seed[2] + row.astype(jnp.uint32)) * jnp.uint32(plan.heads) + seed[3] + head.astype(jnp.uint32)
    query, key = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (query_axis, 1 - query_axis))
    offsets = (query * plan.tokens + key).astype(jnp.uint32)
    return Matrix(seed[0], seed[1], number, offsets, seed[4], scale_of(seed[5]))


def kept(plan: TilePlan, matrix: Matrix, first_query: Array, first_key: Array) -> Array:
    """Return which entries of a tile of weights are kept, by their index in the whole [B, H, T, T] array."""
    T = jnp.uint32(plan.tokens)
    query, key = first_query.astype(jnp.uint32), first_key.astype(jnp.uint32)
    index = (matrix.number * T + query) * T + key + matrix.offsets
    return hash_index(index, matrix.first, matrix.second) >= matrix.threshold
