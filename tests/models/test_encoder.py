"""Scanned and unrolled layers compute the same; hidden states and attentions are what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import traverse_util
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import init_params, make_model
from jaxbert.models.heads import SequenceClassificationHead


@pytest.fixture(scope="module")
def model():
    return make_model(SequenceClassificationHead, small_config(num_hidden_layers=3))


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


@pytest.fixture(scope="module")
def batch():
    tokens = random_tokens(12)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 12, row_length=30), 12, seed=None)
    return batch


def test_scan_equals_unrolled(model, params, batch):
    """With dropout on: each layer draws from its own key."""
    key = jax.random.key(1)

    def run(scan):
        call = ForwardOptions(scan_layers=scan)

        def loss(params):
            logits = model.apply(params, batch, key, call)["logits"]
            return (logits**2).sum(), logits

        (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return logits, traverse_util.flatten_dict(grads, sep="/")

    (logits, grads), (expected, expected_grads) = run(True), run(False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    for name, grad in grads.items():
        scale = np.abs(expected_grads[name]).max()
        np.testing.assert_allclose(grad, expected_grads[name], rtol=1e-4, atol=1e-6 * (1 + scale), err_msg=name)


def test_scan_compiles_one_layer(model, params, batch):
    def text(scan):
        apply = jax.jit(lambda p: model.apply(p, batch, None, ForwardOptions(scan_layers=scan))["logits"])
        return apply.lower(params).as_text()

    assert "stablehlo.while" in text(True)
    assert "stablehlo.while" not in text(False)


@pytest.mark.parametrize("scan", [True, False])
def test_hidden_states_and_attentions(model, params, batch, scan):
    call = ForwardOptions(scan, output_hidden_states=True, output_attentions=True)
    encoded = jax.jit(lambda p: model.apply(p, batch, None, call)["encoded"])(params)
    rows, length = batch["input_ids"].shape
    assert encoded.hidden_states_NBTD.shape == (4, rows, length, 32)
    np.testing.assert_array_equal(encoded.hidden_states_NBTD[-1], encoded.hidden_BTD)
    assert encoded.attentions_NBHTT.shape == (3, rows, 2, length, length)
    np.testing.assert_allclose(encoded.attentions_NBHTT.sum(-1), 1.0, rtol=1e-5)
    strangers = batch["segment_ids"][:, :, None] != batch["segment_ids"][:, None, :]
    attentions_BTTNH = np.asarray(encoded.attentions_NBHTT).transpose(1, 3, 4, 0, 2)
    assert np.all(attentions_BTTNH[strangers] == 0.0)


def test_each_new_tensor_depends_on_its_own_name_alone(model):
    key = jax.random.key(0)
    whole = traverse_util.flatten_dict(init_params(model, key), sep="/")
    wider = make_model(SequenceClassificationHead, small_config(num_hidden_layers=3, vocab_size=99))
    other = traverse_util.flatten_dict(init_params(wider, key), sep="/")
    for name, tensor in whole.items():
        if "word_embeddings" not in name:
            np.testing.assert_array_equal(tensor, other[name], err_msg=name)
    kernels = [t for n, t in whole.items() if n.endswith(("query/kernel", "key/kernel", "value/kernel"))]
    assert not any(np.array_equal(a, b) for i, a in enumerate(kernels) for b in kernels[:i])
    assert np.std(whole["bert/embeddings/word_embeddings/embedding"]) == pytest.approx(0.02, rel=0.1)
