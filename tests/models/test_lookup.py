"""Word embeddings are looked up as always, and their gradient is the usual one, computed the other way round."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import make_config, make_program, random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.encoder import Call
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassification
from jaxbert.models.lookup import lookup

V, D = 50, 8


@pytest.fixture
def table():
    return jnp.asarray(np.random.default_rng(0).normal(size=(V, D)), jnp.float32)


@pytest.mark.parametrize("words", [[[3, 3, 3], [0, 49, 3]], [[7]], [[0, 1], [2, 3]]])
def test_values_and_gradient_are_those_of_indexing(table, words):
    """Bit for bit: also where a word comes several times."""
    ids = jnp.asarray(words)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(*ids.shape, D)), jnp.float32)
    found, expected = (
        jax.value_and_grad(lambda t, take=take: jnp.sum(weights * take(t)))(table)
        for take in (lambda t: lookup(t, ids, jnp.float32), lambda t: t[ids])
    )
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_rows_of_a_word_are_added_in_the_format_of_the_table(table):
    """A thousand times 1.0 in bfloat16 would stop at 256."""
    ids = jnp.full(1000, 4)
    grad = jax.grad(lambda t: lookup(t, ids, jnp.bfloat16).astype(jnp.float32).sum())(table)
    assert lookup(table, ids, jnp.bfloat16).dtype == jnp.bfloat16
    assert grad[4, 0] == 1000


def test_the_gradient_of_a_model_stays():
    model = make_model(SequenceClassification, small_config(), jnp.float32)
    params, tokens = random_params(model), random_tokens(20)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 20, row_length=40), 20, seed=None)

    def grads(fuse: bool):
        loss = lambda p: (model.apply(p, batch, None, Call(False, fuse_lookup=fuse))["logits"] ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    for found, expected in zip(jax.tree.leaves(grads(True)), jax.tree.leaves(grads(False)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("devices", "fused"), [(1, True), (2, False)])
def test_one_cpu_uses_it(devices, fused):
    assert make_program(make_config(), small_config(), 4, devices=devices).call.fuse_lookup == fused
