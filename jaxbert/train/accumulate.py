"""Gradient accumulation: the gradient of a step, worked out on one slice of its rows after another.

Slice i takes every row with index i modulo the number of slices, which leaves each row on its device. Memory then holds the
activations of one slice, and the result is that of the whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxbert.models.functional import Params
from jaxbert.tasks.base import Sums

DeviceBatch = dict[str, Array]
Outputs = dict[str, Any]
Forward = Callable[[Params, DeviceBatch, Array], Outputs]
"""`(part, batch, key) -> outputs`, for any number of rows."""
Loss = Callable[[Outputs, DeviceBatch], tuple[Array, Sums]]
"""`(outputs, batch) -> (loss, sums)`."""


def whole_gradient(forward: Forward, loss: Loss, part: Params, batch: DeviceBatch, key: Array) -> tuple[Params, Sums]:
    """Return the gradient of the loss of a step towards the trained part, and the step's sums, all rows at once."""

    def loss_fn(part: Params) -> tuple[Array, Sums]:
        return loss(forward(part, batch, key), batch)

    return jax.grad(loss_fn, has_aux=True)(part)


def sliced_gradient(
    forward: Forward, loss: Loss, part: Params, batch: DeviceBatch, key: Array, slices: int
) -> tuple[Params, Sums]:
    """Return what `whole_gradient` does, where each example's loss needs its own row alone: those of slices add up."""
    xs = _cut(batch, slices), jax.random.split(key, slices)

    def of_slice(piece: DeviceBatch, key: Array) -> tuple[Params, Sums]:
        return whole_gradient(forward, loss, part, piece, key)

    return _add_up(of_slice, xs)


def sliced_document_gradient(
    forward: Forward, loss: Loss, part: Params, batch: DeviceBatch, key: Array, slices: int
) -> tuple[Params, Sums]:
    """Return what `whole_gradient` does, where an example's loss needs several rows, which may lie in different slices.

    The outputs of all slices come first, by a forward pass that keeps nothing else (not the hidden states, `encoded`). The
    gradient of the loss towards them is then taken back through each slice, whose forward pass is computed again with the
    same dropout.
    """
    xs = _cut(batch, slices), jax.random.split(key, slices)

    def outputs_of(part: Params, piece: DeviceBatch, key: Array) -> Outputs:
        return {name: value for name, value in forward(part, piece, key).items() if name != "encoded"}

    outputs = _join(jax.lax.map(lambda x: outputs_of(part, *x), xs))
    towards_outputs, sums = jax.grad(loss, has_aux=True)(outputs, batch)

    def of_slice(towards: Outputs, piece: DeviceBatch, key: Array) -> Params:
        return jax.vjp(lambda part: outputs_of(part, piece, key), part)[1](towards)[0]

    return _add_up(of_slice, (_cut(towards_outputs, slices), *xs)), sums


def _cut(rows: Any, slices: int) -> Any:
    """Turn leaves [B, ...] into [slices, B / slices, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, slices, *x.shape[1:]).swapaxes(0, 1), rows)


def _join(pieces: Any) -> Any:
    """Undo `_cut`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), pieces)


def _add_up(of_slice: Callable[..., Any], xs: tuple[Any, ...]) -> Any:
    """Return the sum of what `of_slice` gives for each slice, computed one after the other."""
    shapes = jax.eval_shape(of_slice, *jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda total, x: (jax.tree.map(jnp.add, total, of_slice(*x)), None), zeros, xs)[0]
