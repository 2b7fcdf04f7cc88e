"""The parts of a model, each by itself: dense layers, the exact GELU, dropout, and the lookup of word embeddings.

Dense layers give what flax's give, and their kernels' gradients need no transposed copy of what came in. GELU has PyTorch's
values, its gradient is the true one, and it keeps its input alone. Dropout has the rate that was asked for, leaves the mean,
is decided by the key alone, and is absent without one. Lookup's gradient is the usual one, computed the other way round.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import make_config, make_program, random_tokens, small_config
from scipy.special import ndtr
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.models.layers import (
    Dense,
    KeyProjection,
    activated_product,
    add_bias,
    dropout,
    flat_dot_general,
    gelu,
    lookup,
    make_linear,
    product,
    recomputed_product,
    take_rows,
)

B, T, D, F = 6, 40, 64, 256
PLACES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


def loss_and_arguments(kind, flat):
    layer = make_linear(D, F, small_config(), jnp.float32, nnx.Rngs(0), kind)
    if not flat:
        layer.dot_general = jax.lax.dot_general
    graphdef, params = nnx.split(layer)
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=(B, T, n)), jnp.float32) for n in (D, F))
    return lambda params, x: (weights * jnp.tanh(nnx.merge(graphdef, params)(x))).sum(), (params, x)


@pytest.mark.parametrize("kind", [Dense, KeyProjection])
def test_dense_layers_and_their_gradients_are_those_of_flax(kind):
    results = []
    for one, flat in ((kind, True), (nnx.Linear if kind is Dense else kind, False)):
        loss, arguments = loss_and_arguments(one, flat)
        results.append(jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1)))(*arguments)))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def transposed_copies(flat):
    loss, arguments = loss_and_arguments(Dense, flat)
    text = jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text()
    return len(re.findall(rf"f32\[(?:{F},{B * T}|{D},{B * T}|{F},{B},{T})\]", text))


def test_gradients_of_kernels_need_no_transposed_activations():
    assert transposed_copies(flat=True) == 0
    assert transposed_copies(flat=False) > 0  # or else there is nothing to gain any more


def narrow_product(x, kernel):
    return product(flat_dot_general, x, kernel)


def test_kernels_gradients_are_float32_sums():
    """In bfloat16 too: each device's part would be rounded before the parts are summed, and the sum again."""
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=(4, 16, size)), jnp.bfloat16) for size in (8, 12))
    kernel = jnp.asarray(rng.normal(size=(8, 12)), jnp.float32)
    out, pull = jax.vjp(narrow_product, x, kernel)
    d_x, d_kernel = pull(weight)
    expected = np.einsum("btd,btf->df", *(np.asarray(a, np.float64) for a in (x, weight)))
    np.testing.assert_allclose(d_kernel, expected, rtol=1e-6, atol=1e-5)
    plain, plain_pull = jax.vjp(lambda x, kernel: x @ kernel.astype(x.dtype), x, kernel)
    np.testing.assert_array_equal(out.astype(jnp.float32), plain.astype(jnp.float32))
    np.testing.assert_array_equal(d_x.astype(jnp.float32), plain_pull(weight)[0].astype(jnp.float32))
    assert np.abs(plain_pull(weight)[1] - expected).max() > 1e-3


def test_a_recomputed_product_is_the_same():
    rng = np.random.default_rng(0)
    x, bias, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 16), (16,), (16, 8)))

    def run(multiply):
        return jax.vjp(lambda *args: multiply(gelu, flat_dot_general, *args), x, bias, kernel)

    (found, pull), (expected, expected_pull) = run(recomputed_product), run(activated_product)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for one, other in zip(pull(jnp.ones_like(found)), expected_pull(jnp.ones_like(found)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert [leaf.shape for leaf in jax.tree.leaves(pull)].count(x.shape) == 1  # what it activated, not the result


def test_gelu_and_its_gradient_against_float64():
    points = np.linspace(-8, 8, 401)
    density = np.exp(-0.5 * points * points) / np.sqrt(2 * np.pi)
    x = jnp.asarray(points, jnp.float32)
    np.testing.assert_allclose(gelu(x), points * ndtr(points), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), ndtr(points) + points * density, atol=1e-6)


@pytest.mark.parametrize("x", [-3.0, -1.5, 0.25, 2.0])
def test_gelu_in_bfloat16_is_rounded_once(x):
    """Also where the value is small: the distribution function is not rounded before it is multiplied."""
    x = jnp.asarray(x, jnp.bfloat16)
    assert gelu(x) == gelu(x.astype(jnp.float32)).astype(jnp.bfloat16)
    expected = jax.grad(gelu)(x.astype(jnp.float32)).astype(jnp.bfloat16)
    assert jax.grad(gelu)(x) == expected


def test_gelu_keeps_its_input_alone():
    x = jnp.ones((4, 8), jnp.bfloat16)
    _, backward = jax.vjp(gelu, x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if getattr(leaf, "ndim", 0) == 2]
    assert [(leaf.shape, leaf.dtype) for leaf in kept] == [((4, 8), jnp.bfloat16)]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_dropout_has_its_rate_and_keeps_the_mean(rate):
    """Over a million draws, within five standard deviations."""
    count = 1_000_000
    dropped = np.asarray(dropout(jnp.ones(count), rate, jax.random.key(0)))
    assert np.unique(dropped).size == 2
    share = (dropped == 0).mean()
    deviation = np.sqrt(rate * (1 - rate) / count)
    assert share == pytest.approx(rate, abs=5 * deviation + 1 / 131072)
    assert dropped.mean() == pytest.approx(1.0, abs=5 * deviation / (1 - rate))


def test_entries_are_dropped_independently():
    dropped = np.asarray(dropout(jnp.ones((1000, 1000)), 0.3, jax.random.key(1))) == 0
    for axis in (0, 1):
        kept_pairs = np.logical_and(dropped, np.roll(dropped, 1, axis)).mean()
        assert kept_pairs == pytest.approx(0.09, abs=0.002)


def test_keys_drop_independently():
    """Layers, steps and neighbouring seeds share no pattern, at no distance: agreement as chance has it."""
    count = 1 << 16
    seeds = [jax.random.key(s) for s in range(6)]
    keys = [*seeds, *jax.random.split(seeds[0], 6), *(jax.random.fold_in(seeds[1], step) for step in range(6))]
    masks = np.stack([np.asarray(dropout(jnp.ones(count), 0.5, key)) == 0 for key in keys]) * 2.0 - 1.0
    for distance in (0, 1, 2, 64, 128, 4096):
        correlation = masks @ np.roll(masks, distance, axis=1).T / count
        if distance == 0:
            np.fill_diagonal(correlation, 0.0)
        assert np.abs(correlation).max() < 6 / np.sqrt(count), distance


def test_the_key_decides_what_is_dropped():
    x = jnp.ones((50, 50))
    one, same, other = (dropout(x, 0.2, jax.random.key(k)) for k in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_without_a_key_or_a_rate_nothing_is_dropped():
    x = jax.random.normal(jax.random.key(0), (20, 20))
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_dropout_keeps_the_number_format():
    assert dropout(jnp.ones(8, jnp.bfloat16), 0.5, jax.random.key(0)).dtype == jnp.bfloat16


@pytest.fixture(scope="module")
def batch():
    tokens = random_tokens(12)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 12, row_length=30), 12, seed=None)
    return batch


def logits_fn(batch, **rates):
    model = make_model(SequenceClassificationHead, small_config(**rates))
    params = random_params(model)
    return jax.jit(lambda key: model.apply(params, batch, key)["logits"])


def test_a_model_without_a_key_has_no_dropout(batch):
    none = dict.fromkeys(PLACES, 0.0)
    with_rates = logits_fn(batch, **dict.fromkeys(PLACES, 0.5))(None)
    np.testing.assert_array_equal(with_rates, logits_fn(batch, **none)(None))
    np.testing.assert_array_equal(with_rates, logits_fn(batch, **none)(jax.random.key(0)))


@pytest.mark.parametrize("place", PLACES)
def test_each_rate_acts_in_its_place(batch, place):
    """Each rate alone changes the logits; one key gives them again, another key others."""
    apply = logits_fn(batch, **(dict.fromkeys(PLACES, 0.0) | {place: 0.3}))
    plain, one, same, other = (apply(None), *(apply(jax.random.key(k)) for k in (0, 0, 1)))
    mask = batch["example_mask"]
    np.testing.assert_array_equal(one, same)
    assert np.all(np.any(one != plain, -1)[mask])
    assert np.all(np.any(one != other, -1)[mask])


@pytest.fixture
def table():
    return jnp.asarray(np.random.default_rng(0).normal(size=(50, 8)), jnp.float32)


@pytest.mark.parametrize("words", [[[3, 3, 3], [0, 49, 3]], [[7]], [[0, 1], [2, 3]]])
def test_lookup_and_its_gradient_are_those_of_indexing(table, words):
    """Bit for bit: also where a word comes several times."""
    ids = jnp.asarray(words)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(*ids.shape, 8)), jnp.float32)
    found, expected = (
        jax.value_and_grad(lambda t, take=take: jnp.sum(weights * take(t)))(table)
        for take in (lambda t: lookup(t, ids, jnp.float32), lambda t: t[ids])
    )
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def take_from(table, ids, dtype):
    embed = nnx.Embed(*table.shape, dtype=dtype, rngs=nnx.Rngs(0))
    embed.embedding[...] = table
    return take_rows(embed, ids)


@pytest.mark.parametrize("take", [lookup, take_from])
def test_rows_of_a_word_are_added_in_the_format_of_the_table(table, take):
    """A thousand times 1.0 in bfloat16 would stop at 256."""
    ids = jnp.full(1000, 4)
    grad = jax.grad(lambda t: take(t, ids, jnp.bfloat16).astype(jnp.float32).sum())(table)
    assert take(table, ids, jnp.bfloat16).dtype == jnp.bfloat16
    assert grad[4, 0] == 1000


@pytest.mark.parametrize(("narrow", "expected"), [(False, 1001), (True, 1000)])
def test_the_gradient_of_a_bias_is_float32_unless_it_is_narrow(narrow, expected):
    """1,001 is no number of bfloat16."""
    x = jnp.zeros((1, 1001, 8), jnp.bfloat16)
    grad = jax.grad(lambda bias: add_bias(x, bias, narrow=narrow).astype(jnp.float32).sum())(jnp.zeros(8))
    assert (grad.dtype, float(grad[0])) == (jnp.float32, expected)


def test_lookup_leaves_a_models_gradient():
    model = make_model(SequenceClassificationHead, small_config(), jnp.float32)
    params, tokens = random_params(model), random_tokens(20)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 20, row_length=40), 20, seed=None)

    def grads(fuse: bool):
        loss = lambda p: (model.apply(p, batch, None, ForwardOptions(False, fuse_lookup=fuse))["logits"] ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    for found, expected in zip(jax.tree.leaves(grads(True)), jax.tree.leaves(grads(False)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("devices", "fused"), [(1, True), (2, False)])
def test_one_cpu_uses_lookup(devices, fused):
    assert make_program(make_config(), small_config(), 4, devices=devices).call.fuse_lookup == fused
