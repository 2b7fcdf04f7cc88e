"""Attention by plain matrix products, which XLA compiles for any device; the reference for all other backends.

Only this backend can return the weights and take a head mask.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxbert.models.layers import DropRate, dropout


def same_segment(segment_ids_BT: Array, query_segment_ids_BP: Array | None = None) -> Array:
    """Return whether a query may attend to a token, bool [B, 1, T, T], or [B, 1, P, T] for some queries only.

    Padding (segment 0) attends to padding, so that no row of the softmax is empty and all values stay finite.
    """
    queries = segment_ids_BT if query_segment_ids_BP is None else query_segment_ids_BP
    return (queries[:, :, None] == segment_ids_BT[:, None, :])[:, None]


def xla_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segment_ids_BT: Array,
    *,
    dropout_rate: float | DropRate | None = None,
    key: Array | None = None,
    slots: int | None = None,
) -> Array:
    """Compute attention; arguments as in `base.Attend`."""
    del slots
    return attend_with_weights(q_BTHK, k_BTHK, v_BTHK, segment_ids_BT, dropout_rate=dropout_rate, key=key)[0]


def attend_with_weights(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segment_ids_BT: Array,
    *,
    dropout_rate: float | DropRate | None = None,
    key: Array | None = None,
    head_mask_H: Array | None = None,
    query_segment_ids: Array | None = None,
) -> tuple[Array, Array]:
    """Compute attention, and return the weights too.

    Args:
      query_segment_ids: segments of the queries if they are not all tokens of a row, int [B, P]; [B, 1] if all are equal.

    Returns:
      The mixed values [B, T, H * K] and the weights [B, H, T, T] (after dropout and head mask, as in transformers).
    """
    scale = q_BTHK.shape[-1] ** -0.5
    logits_BHTT = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK * scale, k_BTHK, preferred_element_type=jnp.float32)
    logits_BHTT = jnp.where(same_segment(segment_ids_BT, query_segment_ids), logits_BHTT, jnp.finfo(jnp.float32).min)
    weights_BHTT = jax.nn.softmax(logits_BHTT, axis=-1).astype(v_BTHK.dtype)
    weights_BHTT = dropout(weights_BHTT, dropout_rate, key)
    if head_mask_H is not None:
        weights_BHTT = weights_BHTT * head_mask_H[None, :, None, None]
    mixed_BTHK = jnp.einsum("BHTS,BSHK->BTHK", weights_BHTT, v_BTHK)
    return mixed_BTHK.reshape(*mixed_BTHK.shape[:2], -1), weights_BHTT
