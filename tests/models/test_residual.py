"""The kernels at the end of a half layer compute what plain operations do, in a whole model and on several devices too."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import cube, random_arrays
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.select import Attention
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.models.layers import dropout
from jaxbert.models.residual import NormParams, ResidualNorm
from jaxbert.train.sharding import ROWS, batch_spread

KEY = jax.random.key(3)
KERNELS = ResidualNorm(interpret=True)


def inputs(shape, dtype=jnp.float32):
    """Draw a product, its residual, the weights of the two results, and the parameters."""
    arrays = random_arrays(shape, 4, dtype)
    return arrays, NormParams(*random_arrays(shape[-1:], 3, seed=2))


def results_and_gradients(norm, arrays, params, rate):
    x, residual, *weights = arrays

    def compute(x, residual, params):
        return norm(x, residual, params, epsilon=1e-6, rate=rate, key=KEY)

    results, pull = jax.vjp(compute, x, residual, params)
    return results, pull(tuple(weights))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(3, 7, 24), (2, 4, 32), (1, 1, 5)], ids=["wider tiles", "whole tiles", "one token"])
def test_values_and_gradients(shape, rate):
    arrays, params = inputs(shape)
    found, expected = (results_and_gradients(norm, arrays, params, rate) for norm in (KERNELS, ResidualNorm()))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=5e-6 * max(1, np.abs(other).max()))


def test_the_gradient_of_each_result_counts():
    arrays, params = inputs((2, 3, 16))
    only_first = [*arrays[:3], jnp.zeros_like(arrays[3])]
    (_, both), (_, first) = (results_and_gradients(KERNELS, given, params, 0.0) for given in (arrays, only_first))
    assert np.abs(both[0] - first[0]).max() > 0.1


def test_more_tiles_than_programs(monkeypatch):
    """Then each program computes several tiles, and some of them lie behind the last token."""
    monkeypatch.setattr("jaxbert.models.residual._PROGRAMS", 3)
    arrays, params = inputs((3, 9, 8))
    found, expected = (results_and_gradients(norm, arrays, params, 0.3) for norm in (KERNELS, ResidualNorm()))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("norm", [KERNELS, ResidualNorm()], ids=["kernels", "xla"])
def test_half_precision_is_rounded_a_few_times_alone(norm):
    arrays, params = inputs((4, 8, 64), jnp.bfloat16)
    wide = [array.astype(jnp.float32) for array in arrays]
    found = results_and_gradients(norm, arrays, params, 0.3)
    expected = results_and_gradients(ResidualNorm(), wide, params, 0.3)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = np.abs(one.astype(jnp.float32) - other).max()
        assert error <= 2**-6 * np.abs(other).max()
    assert found[0][0].dtype == jnp.bfloat16
    assert found[1][2].scale.dtype == jnp.float32


def test_half_precision_keeps_no_float32_copies():
    (x, residual, *_), params = inputs((4, 8, 64), jnp.bfloat16)
    _, pull = jax.vjp(lambda *args: ResidualNorm()(*args, params, epsilon=1e-6, rate=0.0, key=None), x, residual)
    assert not [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == x.shape and leaf.dtype == jnp.float32]


def test_the_same_entries_are_dropped_as_by_dropout():
    """An entry that is dropped has a gradient of exactly zero."""
    x, zeros = jnp.ones((2, 5, 24)), jnp.zeros(24)
    params = NormParams(zeros, jnp.ones(24), zeros)
    grad = jax.grad(lambda x: (KERNELS(x, x * 0, params, epsilon=1e-6, rate=0.4, key=KEY)[0] ** 3).sum())(x)
    np.testing.assert_array_equal(np.asarray(grad) == 0, np.asarray(dropout(x, 0.4, KEY)) == 0)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_eight_devices_give_the_same(rate):
    mesh = cube()
    arrays, params = inputs((8, 6, 24))
    spread = ResidualNorm(spread=batch_spread(mesh), interpret=True)
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec(ROWS)), NamedSharding(mesh, PartitionSpec())
    compute = jax.jit(
        results_and_gradients, static_argnums=(0, 3), in_shardings=([by_rows] * 4, NormParams(*[everywhere] * 3))
    )
    found, expected = compute(spread, arrays, params, rate), results_and_gradients(ResidualNorm(), arrays, params, rate)
    assert found[0][0].sharding.is_equivalent_to(by_rows, 3)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=5e-6 * max(1, np.abs(other).max()))


def test_devices_exchange_parameters_gradients_alone():
    """Hidden states stay where they are, also where an axis of the mesh holds copies of them."""
    mesh = cube()
    arrays, params = inputs((8, 6, 24))
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec(ROWS)), NamedSharding(mesh, PartitionSpec())
    norm = ResidualNorm(spread=batch_spread(mesh), interpret=True)

    def gradients(arrays, params):
        return results_and_gradients(norm, arrays, params, 0.3)

    shardings = ([by_rows] * 4, NormParams(*[everywhere] * 3))
    text = jax.jit(gradients, in_shardings=shardings).lower(arrays, params).compile().as_text()
    exchanged = re.findall(r"= \(?(\w+\[[\d,]*\]).* (?:all-reduce|all-gather|all-to-all|collective-permute)\(", text)
    assert exchanged
    assert not [shape for shape in exchanged if "6,24" in shape]


def test_kernels_run_on_gpus_alone():
    assert ResidualNorm(Hardware("gpu", (8, 0))).uses_kernel(768)
    assert not ResidualNorm(Hardware("gpu", (8, 0))).uses_kernel(4096)
    assert not ResidualNorm(Hardware("gpu", (7, 5))).uses_kernel(768)
    assert not ResidualNorm(Hardware("tpu")).uses_kernel(768)
    assert not ResidualNorm().uses_kernel(768)


GPU_LIKE = ForwardOptions(
    scan_layers=False, attention=Attention("pallas", interpret=True), residual_norm=KERNELS, recompute_activation=True
)
"""What a GPU runs: all kernels, one product for keys, values and queries, and activations that are computed again."""


@pytest.fixture(scope="module")
def model():
    return make_model(SequenceClassificationHead, small_config(num_hidden_layers=2))


@pytest.fixture(scope="module")
def packed():
    tokens = random_tokens(12)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 12, row_length=30), 12, seed=None)
    return batch


@pytest.mark.parametrize("scan", [False, True])
def test_a_model_on_a_gpu_is_the_model_elsewhere(model, packed, scan):
    """With dropout: every layer drops the same entries."""
    params = random_params(model)

    def run(call):
        def loss(params):
            logits = model.apply(params, packed, KEY, call)["logits"]
            return (logits**2).sum(), logits

        (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return logits, traverse_util.flatten_dict(grads, sep="/")

    (logits, grads), (expected, expected_grads) = (
        run(dataclasses.replace(GPU_LIKE, scan_layers=scan)),
        run(ForwardOptions()),
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-6)
    for name, grad in grads.items():
        scale = np.abs(expected_grads[name]).max()
        np.testing.assert_allclose(grad, expected_grads[name], rtol=1e-4, atol=2e-6 * (1 + scale), err_msg=name)
    assert np.abs(grads["bert/encoder/layer/attention/self/key/bias"]).max() == 0


def test_no_example_feels_its_neighbours(model, packed):
    """Other tokens in one example change no bit of the others."""
    params = random_params(model)
    changed = {**packed, "input_ids": np.where(packed["segment_ids"] == 1, 5, packed["input_ids"])}
    compute = jax.jit(lambda batch: model.apply(params, batch, None, GPU_LIKE)["logits"])
    before, after = np.asarray(compute(packed)), np.asarray(compute(changed))
    assert (before[:, 0] != after[:, 0]).any()
    others = packed["example_mask"] & (np.arange(before.shape[1]) > 0)
    np.testing.assert_array_equal(before[others], after[others])
