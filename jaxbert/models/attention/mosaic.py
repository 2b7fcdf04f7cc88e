"""Attention within packed rows as Pallas kernels for TPUs (Mosaic): no [T, T] array, no work across segments, dropout.

Queries, keys and values stay [B, T, H * K], as the dense layers return them, and nothing is transposed in memory. A block is
all tokens of a row and some heads; two heads of width 64, or four of 32, share the 128 lanes of a register. In the core's
memory tiles are transposed, so that a head is a range of sublanes, which costs nothing to take.

Tiles and dropout are those of `tiles`. A tile of weights has the keys along its sublanes and the queries along its lanes:
maxima and sums over the keys then need few operations across lanes. The backward pass recomputes the weights from the saved
log-sum-exp once for all three gradients; those of the queries are summed in the core's memory.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jaxbert.models.attention.base import Hardware, Kernel, Origin, Request, merge_heads
from jaxbert.models.attention.tiles import MASKED, Matrix, dropout_seed, kept, matrix_of, neighbours, tile_padding
from jaxbert.models.layers import DropRate

_LANES = 128
TILE = _LANES
"""Tokens per tile: one number for each of its tokens fills the lanes of a register."""
_ITEMSIZE = {"bfloat16": 2, "float32": 4}
_MEMORY = 15 * 2**20
"""Bytes for the blocks of a row. The smallest core, that of v4, has 16 MiB; the rest is for what the compiler spills."""
_TOGETHER = 4
"""Heads of a block, if that divides their number and the block fits: a softmax fills the wait for another head's product."""
_PACKAGE = "jax.experimental.pallas.tpu"


@dataclass(frozen=True)
class _Plan:
    """Constants that are compiled into the kernels."""

    tile: int
    tokens: int
    """T before rows were padded to whole tiles."""
    heads: int
    """H over all devices."""
    scale: float
    drops: bool
    interpret: bool
    width: int
    """Lanes of a head."""
    group: int
    """Heads of a block."""

    @property
    def log2_scale(self) -> float:
        """The factor of the logits for powers of two."""
        return self.scale * math.log2(math.e)

    @property
    def lanes(self) -> int:
        """The lanes of a block."""
        return self.width * self.group


def refuses(request: Request, hardware: Hardware) -> str | None:
    """Return the reason if the kernels do not support a call, else None."""
    if hardware.platform != "tpu":
        return f"it needs a TPU, and the devices are {hardware.platform.upper()}s"
    itemsize = _ITEMSIZE.get(request.dtype)
    if itemsize is None:
        return f"it computes in {' and '.join(_ITEMSIZE)}, and precision.compute is {request.dtype}"
    longest = _longest_row(max(_LANES, _head_lanes(request.head_width)), itemsize)
    if request.row_length > longest:
        return f"rows in {request.dtype} are at most {longest} tokens, and these are {request.row_length}"
    try:
        importlib.import_module(_PACKAGE)
    except ImportError:
        return "this version of jax has no Pallas for TPU"
    return None


def _head_lanes(width: int) -> int:
    """Return the lanes that a head takes: a power of two of at least 16, or whole registers."""
    return max(16, pl.next_power_of_2(width)) if width <= _LANES else width + -width % _LANES


def _longest_row(lanes: int, itemsize: int) -> int:
    """Return the most tokens of a row for which the backward pass of a block fits in the core's memory.

    That holds eight arrays in two buffers, since the next block is fetched meanwhile; queries and gradients transposed, and
    the sum of the gradients of the queries; ids, and numbers for at most eight heads.
    """
    of_a_token = 2 * 8 * lanes * itemsize + 2 * lanes * itemsize + 4 * lanes + 4 * (2 + 3 * 8)
    return _MEMORY // of_a_token // TILE * TILE


def _heads_of_a_block(heads: int, width: int, tokens: int, itemsize: int) -> int:
    """Return the heads that fill a register's lanes, or a multiple of them."""
    filling = min(heads, max(1, _LANES // width))
    more = range(_TOGETHER // filling * filling, filling, -filling)
    return next((g for g in more if heads % g == 0 and tokens <= _longest_row(g * width, itemsize)), filling)


def mosaic_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segment_ids_BT: Array,
    *,
    dropout_rate: float | DropRate | None = None,
    key: Array | None = None,
    slots: int | None = None,
    origin: Origin | None = None,
    interpret: bool = False,
    tile: int = TILE,
) -> Array:
    """Compute attention; arguments as in `base.Attend` and `pallas`. Tiles other than `TILE` are for the interpreter."""
    del slots
    B, tokens, heads, K = q_BTHK.shape
    origin = origin or Origin(0, 0, heads)
    rate = None if key is None else DropRate.of(dropout_rate)
    width = _head_lanes(K)
    group = _heads_of_a_block(heads, width, tokens, q_BTHK.dtype.itemsize)
    plan = _Plan(tile, tokens, origin.heads, K**-0.5, rate is not None, interpret, width, group)
    fill, more, widen = -tokens % tile, -heads % group, width - K

    def fit(x_BTHK: Array) -> Array:
        if fill or more or widen:
            x_BTHK = jnp.pad(x_BTHK, ((0, 0), (0, fill), (0, more), (0, widen)))
        return x_BTHK.reshape(B, tokens + fill, (heads + more) * width)

    ids_BT = tile_padding(jnp.pad(segment_ids_BT, ((0, 0), (0, fill))), tile)
    bounds = neighbours(ids_BT, tile).reshape(B, 1, -1)
    side = ids_BT.reshape(B, -1, tile), bounds, dropout_seed(rate, key, origin)
    out_BTD = _attention(plan, fit(q_BTHK), fit(k_BTHK), fit(v_BTHK), *side)
    if not (fill or more or widen):
        return out_BTD  # as the kernel saves it for its backward pass: a loop over layers then saves it once
    return merge_heads(out_BTD.reshape(B, tokens + fill, heads + more, width)[:, :tokens, :heads, :K])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: _Plan, q: Array, k: Array, v: Array, ids: Array, bounds: Array, seed: Array) -> Array:
    return _forward(plan, q, k, v, ids, bounds, seed)[0]


def _forward(plan: _Plan, q: Array, *rest: Array) -> tuple[Array, tuple[Array, ...]]:
    transposed, statistic = _shapes(plan, q)
    columns = jax.ShapeDtypeStruct((transposed.shape[0], plan.tile, plan.tile), jnp.int32)
    out, lse = _call(plan, _forward_kernel, 2, (q, *rest), [q, statistic], [transposed, columns])
    return out, (q, *rest, out, lse)


def _backward(plan: _Plan, saved: tuple[Array, ...], grad_out: Array) -> tuple[Array | None, ...]:
    q, k, v, ids, bounds, seed, out, lse = saved
    transposed, statistic = _shapes(plan, q)
    summed = jax.ShapeDtypeStruct(transposed.shape, jnp.float32)
    delta = jax.ShapeDtypeStruct(statistic.shape[2:], jnp.float32)
    args = (q, k, v, grad_out, out, lse, ids, bounds, seed)
    grads = _call(plan, _backward_kernel, 5, args, [q, k, v], [transposed, transposed, summed, delta])
    return *grads, None, None, None


_attention.defvjp(_forward, _backward)


def _shapes(plan: _Plan, q: Array) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes of a block whose tiles are transposed, and of one number for each head and token.

    The latter is [B, blocks, heads of a block * tiles, tile].
    """
    B, T, D = q.shape
    transposed = jax.ShapeDtypeStruct((T // plan.tile, plan.lanes, plan.tile), q.dtype)
    rows = plan.group * (T // plan.tile)
    return transposed, jax.ShapeDtypeStruct((B, D // plan.lanes, rows, plan.tile), jnp.float32)


def _call(
    plan: _Plan, kernel: Callable[..., None], products: int, args: tuple, outputs: list, scratch: list
) -> list[Array]:
    """Run a kernel for each row and each block of heads; it has `products` matrix products for each pair of tiles."""
    from jax.experimental.pallas import tpu

    (B, T, D), tiles = args[0].shape, args[0].shape[1] // plan.tile
    heads = pl.BlockSpec((None, T, plan.lanes), lambda row, block: (row, 0, block))
    statistic = pl.BlockSpec((None, None, plan.group * tiles, plan.tile), lambda row, block: (row, block, 0, 0))
    side_specs = (
        pl.BlockSpec((None, tiles, plan.tile), lambda row, block: (row, 0, 0)),
        pl.BlockSpec((None, 1, 2 * tiles), lambda row, block: (row, 0, 0), memory_space=tpu.SMEM),
        pl.BlockSpec(memory_space=tpu.SMEM),
    )
    cost = pl.CostEstimate(
        flops=2 * products * B * T * T * D,
        transcendentals=B * T * T * D // plan.width,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*args, *outputs)),
    )
    return pl.pallas_call(
        partial(kernel, plan),
        grid=(B, D // plan.lanes),
        in_specs=[*(statistic if x.ndim == 4 else heads for x in args[:-3]), *side_specs],
        out_specs=[statistic if x.ndim == 4 else heads for x in outputs],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        scratch_shapes=[tpu.VMEM(x.shape, x.dtype) for x in scratch],
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=plan.interpret,
        name=f"packed_attention{kernel.__name__.removesuffix('_kernel')}",
    )(*args)


def _forward_kernel(
    plan: _Plan, q_ref, k_ref, v_ref, ids_ref, bounds_ref, seed_ref, out_ref, lse_ref, values_ref, columns_ref
) -> None:
    """Compute the mixed values of a row, with a running maximum and sum (base 2) for each head and query."""
    tiles, new_row = ids_ref.shape[0], pl.program_id(1) == 0
    matrices = _matrices(plan, seed_ref)

    def prepare(here: Array, _: None) -> None:
        values_ref[here] = v_ref[_span(plan, here), :].T

        @pl.when(new_row)  # all blocks of a row have the same ids
        def fill_columns() -> None:
            columns_ref[here] = _column(ids_ref[pl.ds(here, 1), :])

    def mix(here: Array, _: None) -> None:
        q, mine = q_ref[_span(plan, here), :].T, ids_ref[pl.ds(here, 1), :]

        def visit(there: Array, carry: tuple) -> tuple:
            k, v, same = k_ref[_span(plan, there), :], values_ref[there], columns_ref[there] == mine
            after = []
            for head, (logits, (mixed, top, total)) in enumerate(zip(_head_products(plan, k, q), carry, strict=True)):
                logits = jnp.where(same, logits * plan.log2_scale, MASKED)
                new_top = jnp.maximum(top, logits.max(0, keepdims=True))
                shrink, weights = jnp.exp2(top - new_top), jnp.exp2(logits - new_top)
                total = total * shrink + weights.sum(0, keepdims=True)
                weights = _drop(weights, _keep(plan, matrices[head], here, there)).astype(v.dtype)
                after.append((mixed * shrink + _dot(v[_rows(plan, head)], weights), new_top, total))
            return tuple(after)

        # The maximum starts far above MASKED: the weights of a tile without a token of the query's segment are zero.
        start = jnp.zeros((plan.width, plan.tile)), jnp.full((1, plan.tile), MASKED / 2), jnp.zeros((1, plan.tile))
        found = jax.lax.fori_loop(*_bounds(bounds_ref, here), visit, (start,) * plan.group)
        out = jnp.concatenate([_scaled(mixed / total, matrices) for mixed, _, total in found])
        out_ref[_span(plan, here), :] = out.T.astype(out_ref.dtype)
        for head, (_, top, total) in enumerate(found):
            lse_ref[_line(tiles, head, here), :] = top + jnp.log2(total)

    for step in (prepare, mix):
        jax.lax.fori_loop(0, tiles, step, None)


def _backward_kernel(plan: _Plan, *refs: Any) -> None:
    """Compute the gradients of a row, tile of keys by tile of keys; "shares a segment" is symmetric, as are the ranges."""
    q_ref, k_ref, v_ref, grad_ref, out_ref, lse_ref, ids_ref, bounds_ref, seed_ref = refs[:9]
    dq_ref, dk_ref, dv_ref, queries_ref, grads_ref, dq_sum_ref, delta_ref = refs[9:]
    heads, tiles, matrices = range(plan.group), ids_ref.shape[0], _matrices(plan, seed_ref)

    def prepare(here: Array, _: None) -> None:
        span = _span(plan, here)
        queries_ref[here], grads_ref[here] = q_ref[span, :].T, grad_ref[span, :].T
        dq_sum_ref[here] = jnp.zeros(dq_sum_ref.shape[1:], jnp.float32)
        # The sum over keys of weight times its gradient, per query; right with dropout too, since both have the same mask.
        products = (out_ref[span, :].astype(jnp.float32) * grad_ref[span, :].astype(jnp.float32)).T
        for head in heads:
            delta = products[_rows(plan, head)].sum(0, keepdims=True)
            delta_ref[_line(tiles, head, here), :] = delta if matrices[0] is None else delta / matrices[0].scale

    def gradients(here: Array, _: None) -> None:
        span = _span(plan, here)
        k, v, mine = k_ref[span, :], v_ref[span, :], _column(ids_ref[pl.ds(here, 1), :])
        keys = k.T

        def visit(there: Array, carry: tuple) -> tuple:
            q, grad, same = queries_ref[there], grads_ref[there], mine == ids_ref[pl.ds(there, 1), :]
            logits, d_weights = _head_products(plan, k, q), _head_products(plan, v, grad)
            after = []
            for head, (dk, dv) in enumerate(carry):
                line, rows = _line(tiles, head, there), _rows(plan, head)
                keep = _keep(plan, matrices[head], there, here)
                weights = jnp.exp2(logits[head] * plan.log2_scale - lse_ref[line, :])
                weights = jnp.where(same, weights, 0.0)
                d_logits = (weights * (_drop(d_weights[head], keep) - delta_ref[line, :])).astype(q.dtype)
                dv += _dot(grad[rows], _drop(weights, keep).astype(q.dtype), transposed=True)
                dk += _dot(q[rows], d_logits, transposed=True)
                dq_sum_ref[there, rows, :] += _dot(keys[rows], d_logits)
                after.append((dk, dv))
            return tuple(after)

        zeros = jnp.zeros((plan.width, plan.tile))
        found = jax.lax.fori_loop(*_bounds(bounds_ref, here), visit, ((zeros, zeros),) * plan.group)
        dk, dv = (jnp.concatenate(parts).T for parts in zip(*found, strict=True))
        dk_ref[span, :] = _scaled(dk * plan.scale, matrices).astype(dk_ref.dtype)
        dv_ref[span, :] = _scaled(dv, matrices).astype(dv_ref.dtype)

    def finish(here: Array, _: None) -> None:
        dq_ref[_span(plan, here), :] = _scaled(dq_sum_ref[here].T * plan.scale, matrices).astype(dq_ref.dtype)

    for step in (prepare, gradients, finish):
        jax.lax.fori_loop(0, tiles, step, None)


def _span(plan: _Plan, tile: Array) -> Any:
    """Return the tokens of a tile."""
    return pl.ds(pl.multiple_of(tile * plan.tile, plan.tile), plan.tile)


def _line(tiles: int, head: int, tile: Array) -> Any:
    """Return the line of a head and a tile in an array with one number for each head and token."""
    return pl.ds(head * tiles + tile, 1)


def _rows(plan: _Plan, head: int) -> slice:
    """Return the sublanes of a head in a transposed tile."""
    return slice(head * plan.width, (head + 1) * plan.width)


def _bounds(bounds_ref: Any, tile: Array) -> tuple[Array, Array]:
    return bounds_ref[0, 2 * tile], bounds_ref[0, 2 * tile + 1]


def _column(line: Array) -> Array:
    """Return numbers along the lanes, [1, tile], as numbers along the sublanes, the same in all lanes."""
    return jnp.broadcast_to(line, (line.shape[1],) * 2).T


def _head_products(plan: _Plan, a: Array, transposed: Array) -> list[Array]:
    """Return the product of each head's columns of a tile with its rows of a transposed one.

    A product takes all lanes of a register. The rows of its other heads are zero; to leave them out would cost the same.
    """
    size = min(max(plan.width, _LANES), plan.lanes)
    other = jnp.zeros((plan.width, plan.tile), a.dtype)
    products = []
    for head in range(plan.group):
        first = head * plan.width // size * size
        sharing = range(first // plan.width, (first + size) // plan.width)
        rows = jnp.concatenate([transposed[_rows(plan, i)] if i == head else other for i in sharing])
        products.append(_dot(a[:, first : first + size], rows))
    return products


def _dot(a: Array, b: Array, *, transposed: bool = False) -> Array:
    """Return the product with `b`, or with its transpose."""
    axis = 1 if transposed else 0
    return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def _matrices(plan: _Plan, seed_ref: Any) -> list[Matrix | None]:
    """Describe the matrix of weights of each head of this block."""
    row, first = pl.program_id(0), pl.program_id(1) * plan.group
    return [
        matrix_of(plan, seed_ref, row, first + head, (plan.tile, plan.tile), query_axis=1) for head in range(plan.group)
    ]


def _keep(plan: _Plan, matrix: Matrix | None, query_tile: Array, key_tile: Array) -> Array | None:
    return None if matrix is None else kept(plan, matrix, query_tile * plan.tile, key_tile * plan.tile)


def _drop(x: Array, keep: Array | None) -> Array:
    """Set dropped entries to zero; the results are scaled up instead of the others."""
    return x if keep is None else jnp.where(keep, x, 0.0)


def _scaled(x: Array, matrices: list[Matrix | None]) -> Array:
    """Scale a result up for the entries that were dropped."""
    return x if matrices[0] is None else x * matrices[0].scale


KERNEL = Kernel(refuses, mosaic_attention)
