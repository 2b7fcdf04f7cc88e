"""Dense layers give what flax's give, and their kernels' gradients need no transposed copy of what came in."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import small_config

from jaxbert.models.dense import KeyProjection, make_linear

B, T, D, F = 6, 40, 64, 256


def loss_and_arguments(kind, flat):
    layer = make_linear(D, F, small_config(), jnp.float32, nnx.Rngs(0), kind)
    if not flat:
        layer.dot_general = jax.lax.dot_general
    graphdef, params = nnx.split(layer)
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=(B, T, n)), jnp.float32) for n in (D, F))
    return lambda params, x: (weights * jnp.tanh(nnx.merge(graphdef, params)(x))).sum(), (params, x)


@pytest.mark.parametrize("kind", [nnx.Linear, KeyProjection])
def test_values_and_gradients_are_those_of_flax(kind):
    results = []
    for flat in (True, False):
        loss, arguments = loss_and_arguments(kind, flat)
        results.append(jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1)))(*arguments)))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def transposed_copies(flat):
    loss, arguments = loss_and_arguments(nnx.Linear, flat)
    text = jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text()
    return len(re.findall(rf"f32\[(?:{F},{B * T}|{D},{B * T}|{F},{B},{T})\]", text))


def test_gradients_of_kernels_need_no_transposed_activations():
    assert transposed_copies(flat=True) == 0
    assert transposed_copies(flat=False) > 0  # or else there is nothing to gain any more
