"""Attention within packed rows as Pallas kernels for NVIDIA GPUs (Triton): no [T, T] array, no work across segments.

The tiles that a kernel visits, and dropout, are those of `tiles`. Sums, softmax and the weights' gradients are float32.

The backward pass follows FlashAttention-2 (Dao, 2023): weights are recomputed from the saved log-sum-exp, once for the
queries of a tile and once for its keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jaxbert.models.attention.base import Hardware, Kernel, Origin, Request, merge_heads, triton_options
from jaxbert.models.attention.tiles import MASKED, Matrix, dropout_seed, kept, matrix_of, neighbours, tile_padding
from jaxbert.models.layers import DropRate

_TILES = ((128, 64), (256, 32))
"""The bytes of one head of a token, up to which a tile has so many tokens. COMPILED (jax 0.10.2) and UNMEASURED: the largest
tiles whose kernels keep everything in registers on A100, H100 and B200. Registers of a thread, of 255, for forward, queries,
keys: bfloat16 heads of 64: A100 168, 227, 216; H100 134, 232, 174; B200 147, 128, 96; float32 heads of 64: A100 116, 156,
223."""
_WIDEST_HEAD = {"float32": 64, "bfloat16": 128, "float16": 128}
"""Widest head by dtype: tiles of 16 KiB, so that the backward pass fits in the shared memory of small GPUs (99 KiB) too."""
_KEY, _VALUE, _QUERY = range(3)
"""The parts of a fused array. The first two are written by one kernel, so they lie side by side."""


@dataclass(frozen=True)
class KernelSettings:
    """How the kernels divide their work; results differ by rounding alone. UNMEASURED: `jaxbert bench --tune` measures."""

    tile: int
    """Tokens of a tile, a power of two of at least 16."""
    visited: int = 32
    """Queries that the kernel for keys and values reads at a time: with 64, its registers do not suffice on an A100."""
    warps: int = 4
    """Warps of a program (32 threads each)."""
    stages: int = 2
    """Stages of a loop's pipeline."""

    @property
    def triton(self) -> Any:
        """The options for Triton, or None if this jax has no Triton."""
        return triton_options(self.warps, self.stages)


def usual_settings(dtype: str, width: int) -> KernelSettings:
    """Return the settings for heads of this width where nothing was tuned."""
    return KernelSettings(tile_of(dtype, width), stages=1 if dtype == "float32" else 2)


@dataclass(frozen=True)
class _Plan:
    """Constants that are compiled into the kernels."""

    settings: KernelSettings
    tokens: int
    """T before rows were padded to whole tiles: the stride of the dropout index."""
    heads: int
    """H over all devices."""
    width: int
    """K before heads were padded to whole columns."""
    drops: bool
    interpret: bool
    fused: bool
    """Whether keys, values and queries are one array, without their biases."""

    @property
    def tile(self) -> int:
        """The tokens of a tile."""
        return self.settings.tile

    @property
    def scale(self) -> float:
        """The factor of the logits."""
        return self.width**-0.5


def refuses(request: Request, hardware: Hardware) -> str | None:
    """Return the reason if the kernels do not support a call, else None."""
    if reason := hardware.lacks((8, 0)):
        return reason
    widest = _WIDEST_HEAD.get(request.dtype)
    if widest is None:
        return f"it computes in {', '.join(_WIDEST_HEAD)}, and precision.compute is {request.dtype}"
    if request.head_width > widest:
        return f"heads in {request.dtype} are at most {widest} wide, and the model's are {request.head_width}"
    usual = usual_settings(request.dtype, request.head_width)
    return None if usual.triton is not None else "this version of jax has no Pallas for Triton"


def pallas_attention(
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
    settings: KernelSettings | None = None,
) -> Array:
    """Compute attention; arguments as in `base.Attend`.

    Args:
      q_BTHK: queries.
      k_BTHK: keys.
      v_BTHK: values.
      segment_ids_BT: segments; any order is correct, only contiguous ones are fast.
      dropout_rate: dropout rate of the weights, a number or a `DropRate`.
      key: random key of dropout.
      slots: not used.
      origin: the start of these rows and heads, if they are a part of a larger batch.
      interpret: whether to run in the interpreter on any device, for tests.
      settings: how the work is divided; by default as in `usual_settings`.
    """
    del slots
    rate = None if key is None else DropRate.of(dropout_rate)
    plan = _plan(q_BTHK, origin, drops=rate is not None, interpret=interpret, settings=settings, fused=False)
    arrays = tuple(_fit(plan, x) for x in (q_BTHK, k_BTHK, v_BTHK))
    return _run(plan, arrays, None, segment_ids_BT, dropout_seed(rate, key, origin or _whole(plan)))


def pallas_fused_attention(
    kvq_BTCHK: Array,
    bias_CHK: Array,
    segment_ids_BT: Array,
    *,
    dropout_rate: float | DropRate | None = None,
    key: Array | None = None,
    origin: Origin | None = None,
    interpret: bool = False,
    settings: KernelSettings | None = None,
) -> Array:
    """Compute attention from one array of keys, values and queries (C, in this order), without their biases.

    The kernels add the biases of values and queries. That of the keys adds the same to all logits of a query, which softmax
    ignores: it is left out, and its gradient is zero. Other arguments as in `pallas_attention`.
    """
    like = jax.eval_shape(lambda x: x[:, :, 0], kvq_BTCHK)
    rate = None if key is None else DropRate.of(dropout_rate)
    plan = _plan(like, origin, drops=rate is not None, interpret=interpret, settings=settings, fused=True)
    widen = _columns(plan.width) - plan.width
    bias_CHK = jnp.pad(bias_CHK, ((0, 0), (0, 0), (0, widen)))
    seed = dropout_seed(rate, key, origin or _whole(plan))
    return _run(plan, (_fit(plan, kvq_BTCHK),), bias_CHK, segment_ids_BT, seed)


def _plan(
    like_BTHK: Array,
    origin: Origin | None,
    *,
    drops: bool,
    interpret: bool,
    settings: KernelSettings | None,
    fused: bool,
) -> _Plan:
    _, tokens, heads, width = like_BTHK.shape
    settings = settings or usual_settings(like_BTHK.dtype.name, width)
    return _Plan(settings, tokens, origin.heads if origin else heads, width, drops, interpret, fused)


def tile_of(dtype: str, width: int) -> int:
    """Return the tokens of a tile for heads of this width."""
    size = jnp.dtype(dtype).itemsize * width
    return next((tokens for most, tokens in _TILES if size <= most), _TILES[-1][1])


def _columns(width: int) -> int:
    """Return the columns of a tile: Triton multiplies powers of two from 16 on."""
    return max(16, pl.next_power_of_2(width))


def _fit(plan: _Plan, x: Array) -> Array:
    """Pad [B, T, ..., K] to whole tiles."""
    fill, widen = -plan.tokens % plan.tile, _columns(plan.width) - plan.width
    middle = ((0, 0),) * (x.ndim - 3)
    return jnp.pad(x, ((0, 0), (0, fill), *middle, (0, widen))) if fill or widen else x


def _whole(plan: _Plan) -> Origin:
    """Return the start of rows and heads that are all there are."""
    return Origin(0, 0, plan.heads)


def _run(plan: _Plan, arrays: tuple[Array, ...], bias_CHK: Array | None, segment_ids_BT: Array, seed: Array) -> Array:
    ids_BT = tile_padding(jnp.pad(segment_ids_BT, ((0, 0), (0, -plan.tokens % plan.tile))), plan.tile)
    side = _Side(ids_BT, neighbours(ids_BT, plan.tile), seed)
    out_BTD, columns = _attention(plan, arrays, bias_CHK, side), _columns(plan.width)
    if out_BTD.shape[1] == plan.tokens and columns == plan.width:
        return out_BTD  # as the kernel saves it for its backward pass: a loop over layers then saves it once
    out_BTHK = out_BTD.reshape(*out_BTD.shape[:2], -1, columns)
    return merge_heads(out_BTHK[:, : plan.tokens, :, : plan.width])


class _Side(NamedTuple):
    """The arguments of the kernels that have no gradient."""

    ids: Array
    """Segments, with each tile's padding as one of its own, [B, T]."""
    bounds: Array
    """The range of tiles that each tile visits, [B, T / tile, 2]."""
    seed: Array
    """The result of `dropout_seed`."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: _Plan, arrays: tuple[Array, ...], bias: Array | None, side: _Side) -> Array:
    return _forward(plan, arrays, bias, side)[0]


def _forward(plan: _Plan, arrays: tuple[Array, ...], bias: Array | None, side: _Side) -> tuple[Array, tuple[Any, ...]]:
    blocks = _Blocks(plan, arrays)
    out = jax.ShapeDtypeStruct((blocks.B, blocks.T, blocks.H, blocks.K), arrays[0].dtype)
    lse_BHT = jax.ShapeDtypeStruct((blocks.B, blocks.H, blocks.T), jnp.float32)
    out, lse_BHT = blocks.call(
        _forward_kernel,
        [*blocks.queries_keys_values("query"), *blocks.biases(bias), *blocks.side(side)],
        [(out, blocks.tile()), (lse_BHT, blocks.statistic())],
    )
    out_BTD = merge_heads(out)
    return out_BTD, (arrays, bias, side, out_BTD, lse_BHT)


def _backward(plan: _Plan, saved: tuple[Any, ...], grad_out: Array) -> tuple[Any, ...]:
    arrays, bias, side, out_BTD, lse_BHT = saved
    blocks = _Blocks(plan, arrays)
    grad_out, out = (x.reshape(blocks.B, blocks.T, blocks.H, blocks.K) for x in (grad_out, out_BTD))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    sums = jax.ShapeDtypeStruct((blocks.B, blocks.T // plan.tile, blocks.H, blocks.K), jnp.float32)
    summed = [(sums, blocks.column_sums())] if bias is not None else []
    dq, delta_BHT, *dq_sums = blocks.call(
        _query_kernel,
        [
            *blocks.queries_keys_values("query"),
            *blocks.biases(bias),
            *((x, blocks.tile()) for x in (grad_out, out)),
            (lse_BHT, blocks.statistic()),
            *blocks.side(side),
        ],
        [(shapes[0], blocks.tile(_QUERY)), (lse_BHT, blocks.statistic()), *summed],
    )
    whole = (grad_out, blocks.row()), (lse_BHT, blocks.statistic_row()), (delta_BHT, blocks.statistic_row())
    inputs = [*blocks.queries_keys_values("key"), *blocks.biases(bias), *whole, *blocks.side(side)]
    if bias is None:
        dk, dv = blocks.call(_key_kernel, inputs, [(shapes[1], blocks.tile()), (shapes[2], blocks.tile())])
        return (dq, dk, dv), None, None
    # The kernel for keys and values writes its two parts into the array that has the queries' part.
    d_kvq, dv_sums = blocks.call(
        _key_kernel, [*inputs, (dq, blocks.keys_and_values())], [(shapes[0], blocks.keys_and_values()), *summed], into=0
    )
    d_values, d_queries = dv_sums.sum((0, 1)), dq_sums[0].sum((0, 1))
    return (d_kvq,), jnp.stack([jnp.zeros_like(d_values), d_values, d_queries]), None


_attention.defvjp(_forward, _backward)

_Blocked = list[tuple[Any, pl.BlockSpec]]
"""Arrays, or their shapes, with the part of each that one program of a kernel sees."""


class _Blocks:
    """The part of each array that a program of the grid (tile, head, row) sees."""

    def __init__(self, plan: _Plan, arrays: tuple[Array, ...]) -> None:
        self._plan, self._arrays = plan, arrays
        self.B, self.T, self.H, self.K = (arrays[0].shape[axis] for axis in (0, 1, -2, -1))

    def tile(self, part: int | None = None) -> pl.BlockSpec:
        """Return a tile of [B, T, H, K], or of one part of [B, T, C, H, K] where the arrays are fused."""
        if part is None or len(self._arrays) > 1:
            return pl.BlockSpec((None, self._plan.tile, None, self.K), lambda i, h, b: (b, i, h, 0))
        return pl.BlockSpec((None, self._plan.tile, None, None, self.K), lambda i, h, b: (b, i, part, h, 0))

    def row(self, part: int | None = None) -> pl.BlockSpec:
        """Return a whole row of [B, T, H, K], or of one part of [B, T, C, H, K] where the arrays are fused."""
        if part is None or len(self._arrays) > 1:
            return pl.BlockSpec((None, self.T, None, self.K), lambda i, h, b: (b, 0, h, 0))
        return pl.BlockSpec((None, self.T, None, None, self.K), lambda i, h, b: (b, 0, part, h, 0))

    def keys_and_values(self) -> pl.BlockSpec:
        """Return a tile of the keys and values of a fused array."""
        return pl.BlockSpec((None, self._plan.tile, 2, None, self.K), lambda i, h, b: (b, i, 0, h, 0))

    def statistic(self) -> pl.BlockSpec:
        """Return a tile of [B, H, T]."""
        return pl.BlockSpec((None, None, self._plan.tile), lambda i, h, b: (b, h, i))

    def statistic_row(self) -> pl.BlockSpec:
        """Return a whole row of [B, H, T]."""
        return pl.BlockSpec((None, None, self.T), lambda i, h, b: (b, h, 0))

    def column_sums(self) -> pl.BlockSpec:
        """Return the sums of a tile in [B, T / tile, H, K]."""
        return pl.BlockSpec((None, None, None, self.K), lambda i, h, b: (b, i, h, 0))

    def queries_keys_values(self, of_tile: Literal["query", "key"]) -> _Blocked:
        """Return queries, keys and values: a tile of those that the program computes for, whole rows of the others."""
        q, k, v = self._arrays if len(self._arrays) > 1 else self._arrays * 3
        if of_tile == "query":
            return [(q, self.tile(_QUERY)), (k, self.row(_KEY)), (v, self.row(_VALUE))]
        return [(q, self.row(_QUERY)), (k, self.tile(_KEY)), (v, self.tile(_VALUE))]

    def biases(self, bias_CHK: Array | None) -> _Blocked:
        """Return the biases of queries and values, if the kernels add them."""

        def of(part: int) -> pl.BlockSpec:
            return pl.BlockSpec((None, None, self.K), lambda i, h, b: (part, h, 0))

        return [] if bias_CHK is None else [(bias_CHK, of(_QUERY)), (bias_CHK, of(_VALUE))]

    def side(self, side: _Side) -> _Blocked:
        """Return segment ids, bounds and seed."""
        return [
            (side.ids, pl.BlockSpec((None, self.T), lambda i, h, b: (b, 0))),
            (side.bounds, pl.BlockSpec((None, None, 2), lambda i, h, b: (b, i, 0))),
            (side.seed, pl.BlockSpec((8,), lambda i, h, b: (0,))),
        ]

    def call(self, kernel: Callable[..., None], inputs: _Blocked, outputs: _Blocked, into: int | None = None) -> tuple:
        """Run a kernel; output `into` is written into the last input's memory, whose other parts stay."""
        plan = self._plan
        return pl.pallas_call(
            partial(kernel, plan),
            grid=(self.T // plan.tile, self.H, self.B),
            in_specs=[block for _, block in inputs],
            out_specs=tuple(block for _, block in outputs),
            out_shape=tuple(jax.ShapeDtypeStruct(like.shape, like.dtype) for like, _ in outputs),
            compiler_params=None if plan.interpret else plan.settings.triton,
            interpret=plan.interpret,
            input_output_aliases={} if into is None else {len(inputs) - 1: into},
            name=f"packed_attention{kernel.__name__.removesuffix('_kernel')}",
        )(*(array for array, _ in inputs))


def _forward_kernel(plan: _Plan, q_ref, k_ref, v_ref, *refs) -> None:
    """Compute the mixed values of one tile of queries, with a running maximum and sum (base 2)."""
    bias_refs, (ids_ref, bounds_ref, seed_ref, out_ref, lse_ref) = _split_biases(plan, refs)
    here, matrix = pl.program_id(0), _matrix(plan, seed_ref, (plan.tile, plan.tile))
    add_query_bias, add_value_bias = _adders(bias_refs)
    q = add_query_bias(q_ref[...])
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
        v = add_value_bias(v_ref[span, :])
        weights = _drop(plan, weights, matrix, here * plan.tile, there * plan.tile).astype(v.dtype)
        return mixed * shrink[:, None] + _dot(weights, v), new_top, total

    start = jnp.zeros(q.shape, jnp.float32), jnp.full(plan.tile, MASKED), jnp.zeros(plan.tile)
    mixed, top, total = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], visit, start)
    out_ref[...] = (mixed / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = top + jnp.log2(total)


def _query_kernel(plan: _Plan, q_ref, k_ref, v_ref, *refs) -> None:
    """Compute the gradient of one tile of queries, and for each query the sum of its output times the output's gradient."""
    bias_refs, refs = _split_biases(plan, refs)
    grad_ref, out_ref, lse_ref, ids_ref, bounds_ref, seed_ref, dq_ref, delta_ref, *sum_refs = refs
    here, matrix = pl.program_id(0), _matrix(plan, seed_ref, (plan.tile, plan.tile))
    add_query_bias, add_value_bias = _adders(bias_refs)
    q, grad, lse = add_query_bias(q_ref[...]), grad_ref[...], lse_ref[...]
    # The sum over keys of weight times its gradient; right with dropout too, since both have the same mask.
    delta = (grad.astype(jnp.float32) * out_ref[...].astype(jnp.float32)).sum(1)
    delta_ref[...] = delta
    mine = ids_ref[_span(plan, here)]

    def visit(there: Array, dq: Array) -> Array:
        span = _span(plan, there)
        k, v = k_ref[span, :], add_value_bias(v_ref[span, :])
        same = mine[:, None] == ids_ref[span][None, :]
        weights = jnp.where(same, jnp.exp2(_logits(plan, q, k) - lse[:, None]), 0.0)
        d_weights = _drop(plan, _dot(grad, v.T), matrix, here * plan.tile, there * plan.tile)
        d_logits = weights * (d_weights - delta[:, None])
        return dq + _dot(d_logits.astype(k.dtype), k)

    dq = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], visit, jnp.zeros(q.shape, jnp.float32)) * plan.scale
    dq_ref[...] = dq.astype(dq_ref.dtype)
    for ref in sum_refs:
        ref[...] = dq.sum(0)


def _key_kernel(plan: _Plan, q_ref, k_ref, v_ref, *refs) -> None:
    """Compute the gradients of one tile of keys and values; "shares a segment" is symmetric, so the ranges are the same."""
    bias_refs, refs = _split_biases(plan, refs)
    grad_ref, lse_ref, delta_ref, ids_ref, bounds_ref, seed_ref, *outputs = refs
    here, visited = pl.program_id(0), min(plan.settings.visited, plan.tile)
    matrix = _matrix(plan, seed_ref, (plan.tile, visited), query_axis=1)
    add_query_bias, add_value_bias = _adders(bias_refs)
    k, v = k_ref[...], add_value_bias(v_ref[...])
    mine = ids_ref[_span(plan, here)]

    def visit(there: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        span = pl.ds(there * visited, visited)
        q, grad = add_query_bias(q_ref[span, :]), grad_ref[span, :]
        same = mine[:, None] == ids_ref[span][None, :]
        # A row for each key: then no product needs a transposed copy of the weights.
        weights = jnp.where(same, jnp.exp2(_logits(plan, k, q) - lse_ref[span][None, :]), 0.0)
        begins = there * visited, here * plan.tile
        dv += _dot(_drop(plan, weights, matrix, *begins).astype(grad.dtype), grad)
        d_weights = _drop(plan, _dot(v, grad.T), matrix, *begins)
        d_logits = weights * (d_weights - delta_ref[span][None, :])
        return dk + _dot(d_logits.astype(q.dtype), q), dv

    start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    parts = plan.tile // visited
    dk, dv = jax.lax.fori_loop(bounds_ref[0] * parts, bounds_ref[1] * parts, visit, start)
    dk = dk * plan.scale
    if not bias_refs:
        dk_ref, dv_ref = outputs
        dk_ref[...], dv_ref[...] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)
        return
    _, kv_ref, sum_ref = outputs  # the first is the array into which the second writes
    kv_ref[:, _KEY, :], kv_ref[:, _VALUE, :] = dk.astype(kv_ref.dtype), dv.astype(kv_ref.dtype)
    sum_ref[...] = dv.sum(0)


def _split_biases(plan: _Plan, refs: tuple) -> tuple[tuple, tuple]:
    return (refs[:2], refs[2:]) if plan.fused else ((), refs)


def _adders(bias_refs: Sequence[Any]) -> list[Callable[[Array], Array]]:
    """Return the functions that add the biases of queries and of values to a tile; without biases they add nothing."""

    def adder(ref: Any) -> Callable[[Array], Array]:
        return lambda x: x + ref[...][None, :].astype(x.dtype)

    return [adder(ref) for ref in bias_refs] or [lambda x: x] * 2


def _span(plan: _Plan, tile: Array) -> Any:
    return pl.ds(tile * plan.tile, plan.tile)


def _dot(a: Array, b: Array) -> Array:
    return jax.lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _logits(plan: _Plan, q: Array, k: Array) -> Array:
    """Return the scaled products of a tile of queries with a tile of keys, for base 2."""
    return _dot(q, k.T) * (plan.scale * math.log2(math.e))


def _matrix(plan: _Plan, seed_ref: Any, shape: tuple[int, int], query_axis: int = 0) -> Matrix | None:
    return matrix_of(plan, seed_ref, pl.program_id(2), pl.program_id(1), shape, query_axis)


def _drop(plan: _Plan, x: Array, matrix: Matrix | None, first_query: Array, first_key: Array) -> Array:
    """Drop entries of a tile of weights, and scale the others up."""
    if matrix is None:
        return x
    return jnp.where(kept(plan, matrix, first_query, first_key), x * matrix.scale, 0.0)


KERNEL = Kernel(refuses, pallas_attention)
