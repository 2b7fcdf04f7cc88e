"""The exact GELU has PyTorch's values, its gradient is the true one, and it keeps its input alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from jaxbert.models.activations import gelu

X = np.linspace(-8, 8, 401)


def test_values_and_gradient_against_float64():
    density = np.exp(-0.5 * X * X) / np.sqrt(2 * np.pi)
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(gelu(x), X * ndtr(X), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), ndtr(X) + X * density, atol=1e-6)


@pytest.mark.parametrize("x", [-3.0, -1.5, 0.25, 2.0])
def test_bfloat16_is_rounded_once(x):
    """Also where the value is small: the distribution function is not rounded before it is multiplied."""
    x = jnp.asarray(x, jnp.bfloat16)
    assert gelu(x) == gelu(x.astype(jnp.float32)).astype(jnp.bfloat16)
    expected = jax.grad(gelu)(x.astype(jnp.float32)).astype(jnp.bfloat16)
    assert jax.grad(gelu)(x) == expected


def test_only_the_input_is_kept():
    x = jnp.ones((4, 8), jnp.bfloat16)
    _, backward = jax.vjp(gelu, x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if getattr(leaf, "ndim", 0) == 2]
    assert [(leaf.shape, leaf.dtype) for leaf in kept] == [((4, 8), jnp.bfloat16)]
