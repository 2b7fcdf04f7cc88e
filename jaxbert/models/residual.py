"""The end of each half of a layer: bias, dropout, residual and LayerNorm; on NVIDIA GPUs in one pass over memory.

XLA needs five passes forward and backward for the same arithmetic, since a LayerNorm's gradient sums along rows and along
columns: each of these sums reads its arrays again. The Pallas kernels (Triton) keep a row on the chip, save only the sum
that is normalized, and compute mean, deviation and dropout again in the backward pass. Dropout hashes an entry's index
exactly as `layers.dropout` does: the same key drops the same entries. Sums are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from jaxbert.models.attention.base import Hardware, Spread, triton_options
from jaxbert.models.layers import DropRate, add_bias, dropout, hash_index, layer_norm, scale_of, seed_words

_ROWS = 2
"""Tokens in one tile; UNMEASURED: with 1,024 columns each of 128 threads holds 32 numbers of an array."""
_PROGRAMS = 512
"""The most programs of the backward pass, UNMEASURED; each adds up its part of the parameters' gradients."""
_WIDEST = 2048
"""Columns up to which a row is kept in registers (COMPILED for A100 and B200); wider models use XLA."""


class NormParams(NamedTuple):
    """The parameters at the end of a half layer, all [D]."""

    dense_bias: Array
    """The bias of the dense layer before it."""
    scale: Array
    bias: Array


@dataclass(frozen=True)
class ResidualNorm:
    """Computes `LayerNorm(dropout(x + dense_bias) + residual)`, by the kernels on NVIDIA GPUs and by XLA elsewhere."""

    hardware: Hardware = Hardware()  # noqa: RUF009 (frozen)
    spread: Spread = Spread()  # noqa: RUF009 (frozen)
    interpret: bool = False
    """Whether to run the kernels in the interpreter on any hardware (for tests)."""

    def __call__(
        self,
        x_BTD: Array,
        residual_BTD: Array,
        params: NormParams,
        *,
        epsilon: float,
        rate: float | DropRate | None,
        key: Array | None,
    ) -> tuple[Array, Array]:
        """Return the normalized sum, [B, T, D], twice.

        The next half layer uses one as its input and the other as its residual. Then each has a gradient of its own, and the
        kernel adds the two while it reads them.

        Args:
          x_BTD: the dense layer's product, without its bias.
          residual_BTD: the input of the half layer, in the dtype of `x_BTD`.
          params: biases and scale, float32.
          epsilon: added to the variance.
          rate: dropout rate of the dense layer's output, a number or a `DropRate`.
          key: random key; without one there is no dropout.
        """
        rate = None if key is None else DropRate.of(rate)
        if not self.uses_kernel(x_BTD.shape[-1]):
            total = dropout(add_bias(x_BTD, params.dense_bias), rate, key) + residual_BTD
            return (layer_norm(total, params.scale, params.bias, epsilon),) * 2
        words = jnp.zeros(4, jnp.uint32)
        if key is not None and rate is not None:
            words = jnp.stack([*seed_words(key), *rate.words()])
        plan = _Plan(x_BTD.shape[-1], epsilon, rate is not None, self.interpret, self.spread)
        return _fused(plan, x_BTD, residual_BTD, params, words)

    def uses_kernel(self, width: int) -> bool:
        """Return whether the kernels compute rows of this width."""
        return width <= _WIDEST and (self.interpret or (self.hardware.lacks((8, 0)) is None and _options() is not None))


@dataclass(frozen=True)
class _Plan:
    """Constants that are compiled into the kernels."""

    width: int
    epsilon: float
    drops: bool
    interpret: bool
    spread: Spread

    @property
    def own(self) -> PartitionSpec:
        """The sharding of rows."""
        return PartitionSpec(self.spread.row_axes or None)

    def seed(self, words: Array, own: Array) -> Array:
        """Return the words of key and rate, and the index of the first token of this device's part, uint32 [5]."""
        first = self.spread.first(self.spread.row_axes, own.shape[0] * own.shape[1])
        return jnp.concatenate([words, jnp.asarray(first, jnp.uint32)[None]])

    @property
    def columns(self) -> int:
        """The width of a tile: Triton computes with powers of two."""
        return pl.next_power_of_2(self.width)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(plan: _Plan, x: Array, residual: Array, params: NormParams, words: Array) -> tuple[Array, Array]:
    return _forward(plan, x, residual, params, words)[0]


def _forward(
    plan: _Plan, x: Array, residual: Array, params: NormParams, words: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    def compute(x: Array, residual: Array, params: NormParams, words: Array) -> tuple[Array, ...]:
        flat = x.reshape(-1, plan.width)
        shape = jax.ShapeDtypeStruct(flat.shape, flat.dtype)
        found = _call(
            plan,
            "residual_norm_forward",
            partial(_forward_kernel, plan, len(flat)),
            pl.cdiv(len(flat), _ROWS),
            (flat, residual.reshape(flat.shape), *params, plan.seed(words, x)),
            (shape, shape),
        )
        return tuple(one.reshape(x.shape) for one in found)

    in_specs = (plan.own, plan.own, PartitionSpec(), PartitionSpec())
    out, total = plan.spread.run(compute, (x, residual, params, words), in_specs, (plan.own, plan.own))
    return (out, out), (total, params.scale, words)


def _backward(plan: _Plan, saved: tuple[Array, ...], gradients: tuple[Array, Array]) -> tuple[Any, ...]:
    def compute(total: Array, grad: Array, residual_grad: Array, scale: Array, words: Array) -> tuple[Array, ...]:
        flat = [array.reshape(-1, plan.width) for array in (total, grad, residual_grad)]
        tokens, tiles = len(flat[0]), pl.cdiv(len(flat[0]), _ROWS)
        programs = min(tiles, _PROGRAMS)
        like = jax.ShapeDtypeStruct(flat[0].shape, total.dtype)
        sums = jax.ShapeDtypeStruct((3, programs, plan.width), jnp.float32)
        *grads, parts = _call(
            plan,
            "residual_norm_backward",
            partial(_backward_kernel, plan, tokens, pl.cdiv(tiles, programs)),
            programs,
            (*flat, scale, plan.seed(words, total)),
            (like, like, sums) if plan.drops else (like, sums),
        )
        return (*(grad.reshape(total.shape) for grad in grads), parts)

    total, scale, words = saved
    in_specs = (plan.own, plan.own, plan.own, PartitionSpec(), PartitionSpec())
    out_specs = (*(plan.own,) * (2 if plan.drops else 1), PartitionSpec(None, plan.spread.row_axes or None))
    *grads, parts = plan.spread.run(compute, (total, *gradients, scale, words), in_specs, out_specs)
    return grads[-1], grads[0], NormParams(*parts.sum(1)), None


_fused.defvjp(_forward, _backward)


def _call(plan: _Plan, name: str, kernel: Any, programs: int, args: tuple, outputs: tuple) -> tuple:
    return pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=outputs,
        compiler_params=None if plan.interpret else _options(),
        interpret=plan.interpret,
        name=name,
    )(*args)


def _options() -> Any:
    return triton_options(warps=4, stages=1)


def _forward_kernel(
    plan: _Plan, tokens: int, x_ref, residual_ref, dense_bias_ref, scale_ref, bias_ref, seed_ref, out_ref, total_ref
) -> None:
    """Compute one tile: the sum that is normalized, and the result."""
    tile = _Tile(plan, tokens, pl.program_id(0))
    x = tile.load(x_ref) + tile.load_columns(dense_bias_ref)
    total = tile.drop(x, seed_ref) + tile.load(residual_ref)
    total = total.astype(total_ref.dtype).astype(jnp.float32)  # the backward pass reads the rounded sum
    tile.store(total_ref, total)
    centered, rstd = tile.normalize(total)
    tile.store(out_ref, centered * (rstd * tile.load_columns(scale_ref)) + tile.load_columns(bias_ref))


def _backward_kernel(
    plan: _Plan, tokens: int, rounds: int, total_ref, grad_ref, residual_grad_ref, scale_ref, seed_ref, *outputs
) -> None:
    """Compute the gradients of several tiles, and their part of the gradients of the parameters."""
    *grad_refs, sums_ref = outputs
    program, programs = pl.program_id(0), sums_ref.shape[1]

    def visit(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        tile = _Tile(plan, tokens, program + i * programs)
        grad = tile.load(grad_ref) + tile.load(residual_grad_ref)
        centered, rstd = tile.normalize(tile.load(total_ref))
        hat = centered * rstd
        scaled = grad * tile.load_columns(scale_ref)
        means = [part.sum(-1, keepdims=True) / plan.width for part in (scaled, scaled * hat)]
        d_total = rstd * (scaled - means[0] - hat * means[1])
        tile.store(grad_refs[0], d_total)
        d_x = tile.drop(d_total, seed_ref)
        if plan.drops:
            tile.store(grad_refs[1], d_x)
        d_x = jnp.where(tile.inside, d_x, 0.0)
        return tuple(total + part for total, part in zip(sums, (d_x, grad * hat, grad), strict=True))

    start = tuple(jnp.zeros((_ROWS, plan.columns), jnp.float32) for _ in range(3))
    sums = jax.lax.fori_loop(0, rounds, visit, start)
    columns = jnp.arange(plan.columns)
    for number, total in enumerate(sums):
        _store(sums_ref.at[number, program, columns], total.sum(0), columns < plan.width)


class _Tile:
    """Some rows of [N, D]: loads and stores leave out what lies outside of the array."""

    def __init__(self, plan: _Plan, tokens: int, number: Array) -> None:
        self._plan = plan
        self._rows = number * _ROWS + jnp.arange(_ROWS)
        self._columns = jnp.arange(plan.columns)
        self._wide = self._columns < plan.width
        self.inside = (self._rows < tokens)[:, None] & self._wide[None, :]

    def load(self, ref: Any) -> Array:
        """Return the tile of an array [N, D] in float32, with zeros outside."""
        return _load(self._at(ref), self.inside)

    def load_columns(self, ref: Any) -> Array:
        """Return a vector [D] in float32 as one row."""
        return _load(ref.at[self._columns], self._wide)[None, :]

    def store(self, ref: Any, value: Array) -> None:
        """Write the tile of an array [N, D]."""
        _store(self._at(ref), value.astype(ref.dtype), self.inside)

    def normalize(self, total: Array) -> tuple[Array, Array]:
        """Return the tile minus the mean of each row, 0 outside, and one over each row's deviation."""
        width = self._plan.width
        centered = jnp.where(self.inside, total - total.sum(-1, keepdims=True) / width, 0.0)
        variance = jnp.square(centered).sum(-1, keepdims=True) / width
        return centered, jax.lax.rsqrt(variance + self._plan.epsilon)

    def drop(self, x: Array, seed_ref: Any) -> Array:
        """Drop entries by their index in the whole array, and scale up the others."""
        if not self._plan.drops:
            return x
        rows = self._rows.astype(jnp.uint32) + seed_ref[4]
        index = (rows * jnp.uint32(self._plan.width))[:, None] + self._columns.astype(jnp.uint32)[None, :]
        keep = hash_index(index, seed_ref[0], seed_ref[1]) >= seed_ref[2]
        return jnp.where(keep, x * scale_of(seed_ref[3]), 0.0)

    def _at(self, ref: Any) -> Any:
        return ref.at[self._rows[:, None], self._columns[None, :]]


def _load(ref: Any, mask: Array) -> Array:
    from jax.experimental.pallas import triton

    return triton.load(ref, mask=mask, other=0.0).astype(jnp.float32)


def _store(ref: Any, value: Array, mask: Array) -> None:
    from jax.experimental.pallas import triton

    triton.store(ref, value, mask=mask)
