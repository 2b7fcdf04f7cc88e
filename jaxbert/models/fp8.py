"""Dense products in float8, an experiment: e4m3 for activations and weights, e5m2 for gradients.

Each tensor is scaled by its own largest absolute value of the moment, so a product depends a little on whatever else is in
the batch: packed and padded runs, and one example beside different others, agree within float8's rounding and no closer.
Operands stay float8 up to `dot_general`, a form that XLA can hand to cuBLASLt's float8 products on Hopper GPUs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2


def quantize(x: Array, dtype: Any) -> tuple[Array, Array]:
    """Return `x` in `dtype` and its scale, float32: their product is `x` with rounding."""
    x = x.astype(jnp.float32)
    largest, limit = jnp.abs(x).max(), float(jnp.finfo(dtype).max)
    scale = jnp.where(largest > 0, largest / limit, 1.0)
    return jnp.clip(x / scale, -limit, limit).astype(dtype), scale


def _multiply(a: tuple[Array, Array], b: tuple[Array, Array], a_axes: range, b_axes: range, dtype: Any) -> Array:
    """Contract axes of two quantized arrays."""
    contracted = (tuple(a_axes), tuple(b_axes))
    product = jax.lax.dot_general(a[0], b[0], (contracted, ((), ())), preferred_element_type=dtype)
    return (product * (a[1] * b[1])).astype(dtype)


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """Return `x @ kernel` for x [..., D] and kernel [D, F], computed in float8 forward and backward."""
    return _forward(x, kernel)[0]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple]:
    quantized = quantize(x, FORWARD), quantize(kernel, FORWARD)
    last = x.ndim - 1
    return _multiply(*quantized, range(last, last + 1), range(1), x.dtype), quantized


def _backward(quantized: tuple, grad: Array) -> tuple[Array, Array]:
    x, kernel = quantized
    g = quantize(grad, BACKWARD)
    last = grad.ndim - 1
    grad_x = _multiply(g, kernel, range(last, last + 1), range(1, 2), grad.dtype)
    return grad_x, _multiply(x, g, range(last), range(last), grad.dtype)


matmul.defvjp(_forward, _backward)


def _dot_general(x: Array, kernel: Array, dimension_numbers: Any, **_: Any) -> Array:
    """Stand in for `jax.lax.dot_general` where a dense layer calls it."""
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())), dimension_numbers
    return matmul(x, kernel)


def use_fp8(layer: nnx.Module) -> None:
    """Let all dense layers within `layer` multiply in float8."""
    for _, module in nnx.iter_modules(layer):
        if isinstance(module, nnx.Linear):
            module.dot_general = _dot_general
