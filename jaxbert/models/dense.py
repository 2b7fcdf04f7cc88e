"""Dense layers with BERT's initializer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from transformers import BertConfig


def flat_dot_general(x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **_: Any) -> Array:
    """Multiply x [..., D] by a kernel [D, F] as one matrix of all tokens; stands in for `jax.lax.dot_general`.

    The values are the same. The gradient of the kernel is then a product of two matrices too, for which XLA on CPU needs no
    transposed copy of the activations.
    """
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())), dimension_numbers
    flat = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), precision=precision)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class KeyProjection(nnx.Linear):
    """The dense layer of the keys, whose bias is not trained.

    It adds the same to all logits of a query, and softmax ignores that: its true gradient is exactly zero. What a
    computed gradient holds instead is rounding, which Adam would scale up to whole steps, different ones for each
    packing, sharding and device.
    """

    def __call__(self, inputs: Array) -> Array:  # type: ignore[override]
        assert self.bias is not None
        inputs, kernel, bias = (jnp.asarray(x, self.dtype) for x in (inputs, self.kernel[...], self.bias[...]))
        product = self.dot_general(inputs, kernel, (((inputs.ndim - 1,), (0,)), ((), ())), precision=self.precision)
        return product + jax.lax.stop_gradient(bias)[None, None]


def make_linear(
    d_in: int, d_out: int, config: BertConfig, dtype: Any, rngs: nnx.Rngs, kind: type[nnx.Linear] = nnx.Linear
) -> nnx.Linear:
    """Make a dense layer with BERT's initializer."""
    init = nnx.initializers.normal(config.initializer_range)
    return kind(d_in, d_out, dtype=dtype, kernel_init=init, dot_general=flat_dot_general, rngs=rngs)
