"""Converts the arguments of a legacy call to the packed batch of the heads.

An unpacked row is a packed row with one example: the tokens with attention mask 1 are segment 1, the others are padding. All
its tokens, padding too, attend to segment 1 (`ForwardOptions.padding_reads`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxbert.errors import UserValueError

Batch = dict[str, Array]


def make_batch(
    input_ids: Any,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    *,
    max_positions: int,
) -> Batch:
    """Make the batch of unpacked rows; by default no token is masked, positions are 0 to T - 1 and there is one sentence."""
    ids_BT = _rows(input_ids)
    length = ids_BT.shape[1]
    if position_ids is None:
        if length > max_positions:
            raise UserValueError(f"input_ids has rows of {length} tokens, but the model has {max_positions} positions")
        position_ids = jnp.arange(length)[None]
    shown = jnp.ones_like(ids_BT) if attention_mask is None else jnp.asarray(attention_mask) > 0
    return _batch(ids_BT, token_type_ids, position_ids, shown, jnp.zeros((ids_BT.shape[0], 1), jnp.int32))


def make_packed_batch(
    input_ids: Any, segment_ids: Any, cls_positions: Any = None, token_type_ids: Any = None, position_ids: Any = None
) -> Batch:
    """Make the batch of packed rows; by default positions restart with every segment."""
    ids_BT = _rows(input_ids)
    segment_ids = jnp.asarray(segment_ids, jnp.int32)
    if position_ids is None:
        position_ids = _restart(segment_ids)
    return _batch(ids_BT, token_type_ids, position_ids, segment_ids, cls_positions)


def join_choices(*arrays: Any) -> list[Any]:
    """Make each choice a row: [B, choices, T] becomes [B * choices, T]; None stays None."""
    return [None if array is None else jnp.reshape(jnp.asarray(array), (-1, jnp.shape(array)[-1])) for array in arrays]


def _rows(input_ids: Any) -> Array:
    ids_BT = jnp.asarray(input_ids, jnp.int32)
    if ids_BT.ndim != 2:
        raise UserValueError(f"input_ids has shape {ids_BT.shape}, expected [rows, tokens]")
    return ids_BT


def _restart(segment_ids_BT: Array) -> Array:
    """Return positions counted from the start of each segment; padding, which may be longer than any example, has 0."""
    index_BT = jnp.broadcast_to(jnp.arange(segment_ids_BT.shape[1]), segment_ids_BT.shape)
    starts_BT = jnp.diff(segment_ids_BT, axis=1, prepend=-1) != 0
    positions_BT = index_BT - jax.lax.cummax(jnp.where(starts_BT, index_BT, 0), axis=1)
    return jnp.where(segment_ids_BT > 0, positions_BT, 0)


def _batch(ids_BT: Array, token_type_ids: Any, position_ids: Any, segment_ids: Any, cls_positions: Any) -> Batch:
    if token_type_ids is None:
        token_type_ids = jnp.zeros_like(ids_BT)
    rows = {"token_type_ids": token_type_ids, "position_ids": position_ids, "segment_ids": segment_ids}
    batch = {name: _like(jnp.asarray(value, jnp.int32), ids_BT, name) for name, value in rows.items()}
    batch["input_ids"] = ids_BT
    return batch if cls_positions is None else batch | {"cls_positions": jnp.asarray(cls_positions, jnp.int32)}


def _like(value: Array, ids_BT: Array, name: str) -> Array:
    if value.ndim != 2 or any(given not in (1, size) for given, size in zip(value.shape, ids_BT.shape, strict=True)):
        raise UserValueError(f"{name} has shape {value.shape}, but input_ids has {ids_BT.shape}")
    return jnp.broadcast_to(value, ids_BT.shape)
