"""Attention within packed rows as Pallas kernels for NVIDIA GPUs (Triton): no [T, T] array, no work across segments.

Each kernel loops only over the tiles that share a segment with its own one (`tiles`). Sums, softmax and the gradients of the
weights are float32.

The backward pass follows FlashAttention-2 (Dao, 2023): weights are recomputed from the saved log-sum-exp, once for the
queries of a tile and once for its keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jaxbert.models.attention.base import Hardware, Kernel, Origin, Request
from jaxbert.models.attention.tiles import MASKED, Matrix, dropout_seed, kept, matrix_of, neighbours, tile_padding

TILE = 64
"""Tokens per tile. UNMEASURED: small, because packed segments are short and the waste is up to one tile per segment."""
_WIDEST_HEAD = {"float32": 64, "bfloat16": 128, "float16": 128}
"""Widest head by dtype: tiles of 16 KiB, so that the backward pass fits in the shared memory of small GPUs (99 KiB) too."""


@dataclass(frozen=True)
class _Plan:
    """Constants that are compiled into the kernels."""

    tile: int
    tokens: int
    """T before rows were padded to whole tiles: the stride of the dropout index."""
    heads: int
    """H over all devices."""
    scale: float
    rate: float
    interpret: bool


def refuses(request: Request, hardware: Hardware) -> str | None:
    """Return the reason if the kernels do not support a call, else None."""
    if reason := hardware.lacks((8, 0)):
        return reason
    widest = _WIDEST_HEAD.get(request.dtype)
    if widest is None:
        return f"it computes in {', '.join(_WIDEST_HEAD)}, and precision.compute is {request.dtype}"
    if request.head_width > widest:
        return f"heads in {request.dtype} are at most {widest} wide, and the model's are {request.head_width}"
    return None if _triton_options() is not None else "this version of jax has no Pallas for Triton"


def pallas_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segment_ids_BT: Array,
    *,
    dropout_rate: float = 0.0,
    key: Array | None = None,
    slots: int | None = None,
    origin: Origin | None = None,
    interpret: bool = False,
    tile: int = TILE,
) -> Array:
    """Compute attention; arguments as in `base.Attend`.

    Args:
      q_BTHK: queries.
      k_BTHK: keys.
      v_BTHK: values.
      segment_ids_BT: segments; any order is correct, only contiguous ones are fast.
      dropout_rate: dropout rate of the weights.
      key: random key of dropout.
      slots: not used.
      origin: the start of these rows and heads, if they are a part of a larger batch.
      interpret: whether to run in the interpreter on any device, for tests.
      tile: tokens per tile, a power of two of at least 16.
    """
    del slots
    _, tokens, heads, width = q_BTHK.shape
    origin = origin or Origin(0, 0, heads)
    rate = 0.0 if key is None else dropout_rate
    plan = _Plan(tile, tokens, origin.heads, width**-0.5, rate, interpret)
    fill = -tokens % tile
    widen = max(16, pl.next_power_of_2(width)) - width

    def fit(x_BTHK: Array) -> Array:
        return jnp.pad(x_BTHK, ((0, 0), (0, fill), (0, 0), (0, widen))) if fill or widen else x_BTHK

    ids_BT = tile_padding(jnp.pad(segment_ids_BT, ((0, 0), (0, fill))), tile)
    seed = dropout_seed(rate, key, origin)
    out_BTHK = _attention(plan, fit(q_BTHK), fit(k_BTHK), fit(v_BTHK), ids_BT, neighbours(ids_BT, tile), seed)
    return out_BTHK[:, :tokens, :, :width]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: _Plan, q: Array, k: Array, v: Array, ids: Array, bounds: Array, seed: Array) -> Array:
    return _forward(plan, q, k, v, ids, bounds, seed)[0]


def _forward(plan: _Plan, q: Array, *rest: Array) -> tuple[Array, tuple[Array, ...]]:
    B, T, H, K = q.shape
    tile, row, statistic = _specs(plan, T, K)
    out, lse_BHT = _call(
        plan,
        _forward_kernel,
        (q, *rest),
        (tile, row, row, *_side_specs(T)),
        [(q, tile), (jax.ShapeDtypeStruct((B, H, T), jnp.float32), statistic)],
    )
    return out, (q, *rest, out, lse_BHT)


def _backward(plan: _Plan, saved: tuple[Array, ...], grad_out: Array) -> tuple[Array | None, ...]:
    q, k, v, ids, bounds, seed, out, lse_BHT = saved
    _, T, _, K = q.shape
    tile, row, statistic = _specs(plan, T, K)
    statistic_row = pl.BlockSpec((None, None, T), lambda i, h, b: (b, h, 0))
    # The sum over keys of weight times its gradient, per query; right with dropout too, since both have the same mask.
    delta_BHT = jnp.einsum("BTHK,BTHK->BHT", out, grad_out, preferred_element_type=jnp.float32)
    side = (ids, bounds, seed)
    (dq,) = _call(
        plan,
        _query_kernel,
        (q, k, v, grad_out, lse_BHT, delta_BHT, *side),
        (tile, row, row, tile, statistic, statistic, *_side_specs(T)),
        [(q, tile)],
    )
    dk, dv = _call(
        plan,
        _key_kernel,
        (q, k, v, grad_out, lse_BHT, delta_BHT, *side),
        (row, tile, tile, row, statistic_row, statistic_row, *_side_specs(T)),
        [(k, tile), (v, tile)],
    )
    return dq, dk, dv, None, None, None


_attention.defvjp(_forward, _backward)


def _specs(plan: _Plan, T: int, K: int) -> tuple[pl.BlockSpec, ...]:
    """Return the blocks of [B, T, H, K] as tiles and as whole rows, and of [B, H, T] as tiles; grid: (tile, head, row)."""
    return (
        pl.BlockSpec((None, plan.tile, None, K), lambda i, h, b: (b, i, h, 0)),
        pl.BlockSpec((None, T, None, K), lambda i, h, b: (b, 0, h, 0)),
        pl.BlockSpec((None, None, plan.tile), lambda i, h, b: (b, h, i)),
    )


def _side_specs(T: int) -> tuple[pl.BlockSpec, ...]:
    """Return the blocks of segment ids, bounds and seed."""
    return (
        pl.BlockSpec((None, T), lambda i, h, b: (b, 0)),
        pl.BlockSpec((None, None, 2), lambda i, h, b: (b, i, 0)),
        pl.BlockSpec((4,), lambda i, h, b: (0,)),
    )


def _call(plan: _Plan, kernel: Callable[..., None], args: tuple, in_specs: tuple, outputs: list[tuple]) -> tuple:
    B, T, H, _ = args[0].shape
    return pl.pallas_call(
        partial(kernel, plan),
        grid=(T // plan.tile, H, B),
        in_specs=list(in_specs),
        out_specs=tuple(spec for _, spec in outputs),
        out_shape=tuple(jax.ShapeDtypeStruct(like.shape, like.dtype) for like, _ in outputs),
        compiler_params=None if plan.interpret else _triton_options(stages=1 if args[0].dtype == jnp.float32 else 2),
        interpret=plan.interpret,
        name=f"packed_attention{kernel.__name__.removesuffix('_kernel')}",
    )(*args)


def _triton_options(stages: int = 2) -> Any:
    """Return the number of warps and stages (UNMEASURED) for Triton, or None if this jax has no Triton."""
    try:
        from jax.experimental.pallas.triton import CompilerParams
    except ImportError:
        return None
    return CompilerParams(num_warps=4, num_stages=stages)


def _forward_kernel(plan: _Plan, q_ref, k_ref, v_ref, ids_ref, bounds_ref, seed_ref, out_ref, lse_ref) -> None:
    """Compute the mixed values of one tile of queries, with a running maximum and sum (base 2)."""
    here, matrix = pl.program_id(0), _matrix(plan, seed_ref)
    q = q_ref[...]
    mine = ids_ref[_span(plan, here)]

    def visit(there: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        mixed, top, total = carry
        span = _span(plan, there)
        same = mine[:, None] == ids_ref[span][None, :]
        logits = jnp.where(same, _logits(plan, q, k_ref[span, :]), MASKED)
        new_top = jnp.maximum(top, logits.max(1))
        shrink = jnp.exp2(top - new_top)
        weights = jnp.where(same, jnp.exp2(logits - new_top[:, None]), 0.0)
        total = total * shrink + weights.sum(1)
        v = v_ref[span, :]
        weights = _drop(plan, weights, matrix, here, there).astype(v.dtype)
        return mixed * shrink[:, None] + _dot(weights, v), new_top, total

    start = jnp.zeros(q.shape, jnp.float32), jnp.full(plan.tile, MASKED), jnp.zeros(plan.tile)
    mixed, top, total = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], visit, start)
    out_ref[...] = (mixed / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = top + jnp.log2(total)


def _query_kernel(
    plan: _Plan, q_ref, k_ref, v_ref, grad_ref, lse_ref, delta_ref, ids_ref, bounds_ref, seed_ref, dq_ref
) -> None:
    """Compute the gradient of one tile of queries."""
    here, matrix = pl.program_id(0), _matrix(plan, seed_ref)
    q, grad, lse, delta = q_ref[...], grad_ref[...], lse_ref[...], delta_ref[...]
    mine = ids_ref[_span(plan, here)]

    def visit(there: Array, dq: Array) -> Array:
        span = _span(plan, there)
        k, v = k_ref[span, :], v_ref[span, :]
        same = mine[:, None] == ids_ref[span][None, :]
        weights = jnp.where(same, jnp.exp2(_logits(plan, q, k) - lse[:, None]), 0.0)
        d_weights = _drop(plan, _dot(grad, v.T), matrix, here, there)
        d_logits = weights * (d_weights - delta[:, None])
        return dq + _dot(d_logits.astype(k.dtype), k)

    dq = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], visit, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = (dq * plan.scale).astype(dq_ref.dtype)


def _key_kernel(
    plan: _Plan, q_ref, k_ref, v_ref, grad_ref, lse_ref, delta_ref, ids_ref, bounds_ref, seed_ref, dk_ref, dv_ref
) -> None:
    """Compute the gradients of one tile of keys and values; "shares a segment" is symmetric, so the ranges are the same."""
    here, matrix = pl.program_id(0), _matrix(plan, seed_ref)
    k, v = k_ref[...], v_ref[...]
    mine = ids_ref[_span(plan, here)]

    def visit(there: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        span = _span(plan, there)
        q, grad = q_ref[span, :], grad_ref[span, :]
        same = ids_ref[span][:, None] == mine[None, :]
        weights = jnp.where(same, jnp.exp2(_logits(plan, q, k) - lse_ref[span][:, None]), 0.0)
        dv += _dot(_drop(plan, weights, matrix, there, here).astype(grad.dtype).T, grad)
        d_weights = _drop(plan, _dot(grad, v.T), matrix, there, here)
        d_logits = weights * (d_weights - delta_ref[span][:, None])
        return dk + _dot(d_logits.astype(q.dtype).T, q), dv

    start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], visit, start)
    dk_ref[...] = (dk * plan.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _span(plan: _Plan, tile: Array) -> Any:
    return pl.ds(tile * plan.tile, plan.tile)


def _dot(a: Array, b: Array) -> Array:
    return jax.lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _logits(plan: _Plan, q: Array, k: Array) -> Array:
    """Return the scaled products of a tile of queries with a tile of keys, for base 2."""
    return _dot(q, k.T) * (plan.scale * math.log2(math.e))


def _matrix(plan: _Plan, seed_ref: Any) -> Matrix | None:
    return matrix_of(plan, seed_ref, pl.program_id(2), pl.program_id(1))


def _drop(plan: _Plan, x: Array, matrix: Matrix | None, query_tile: Array, key_tile: Array) -> Array:
    """Drop entries of a tile of weights, and scale the others up."""
    if matrix is None:
        return x
    return jnp.where(kept(plan, matrix, query_tile, key_tile), x * (1 / (1 - plan.rate)), 0.0)


KERNEL = Kernel(refuses, pallas_attention)
