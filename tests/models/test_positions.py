"""A head that reads some positions alone gets what the full layer gives there, and the last layer computes no more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.encoder import BertModule, ForwardOptions, take_positions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead


def classifier(layers):
    model = make_model(SequenceClassificationHead, small_config(num_hidden_layers=layers))
    return model, random_params(model)


def packed_rows():
    tokens = random_tokens(12)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 12, row_length=30), 12, seed=None)
    return {name: array for name, array in batch.items() if name != "example_ids"}


def everywhere(self, batch, positions_BP, key, call, head_mask_NH=None):
    """The plain way: all layers at all positions, then the vectors that are asked for."""
    encoded = self.encode(batch, key, call, head_mask_NH)
    return take_positions(encoded.hidden_BTD, positions_BP), encoded


def value_and_grads(model, params, batch, call, head_mask=None):
    real_BS1 = jnp.asarray(batch["example_mask"])[:, :, None]

    def loss(params):
        logits_BSC = model.apply(params, batch, None, call, head_mask)["logits"]
        return jnp.where(real_BS1, jnp.sin(logits_BSC), 0.0).sum(), logits_BSC

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), traverse_util.flatten_dict(grads, sep="/")


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("scan", [True, False])
def test_same_logits_and_gradients_as_the_full_layer(monkeypatch, layers, scan):
    model, params = classifier(layers)
    batch, call = packed_rows(), ForwardOptions(scan_layers=scan)
    logits, grads = value_and_grads(model, params, batch, call)
    monkeypatch.setattr(BertModule, "encode_positions", everywhere)
    expected, expected_grads = value_and_grads(model, params, batch, call)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    for name, grad in grads.items():
        scale = np.abs(expected_grads[name]).max()
        np.testing.assert_allclose(grad, expected_grads[name], rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def test_head_mask_reaches_the_last_layer(monkeypatch):
    model, params = classifier(2)
    batch = packed_rows()
    mask_NH = jnp.array([[1.0, 0.5], [0.0, 1.0]])
    logits, _ = value_and_grads(model, params, batch, ForwardOptions(), mask_NH)
    unmasked, _ = value_and_grads(model, params, batch, ForwardOptions())
    assert np.abs(logits - unmasked).max() > 1e-3
    monkeypatch.setattr(BertModule, "encode_positions", everywhere)
    np.testing.assert_allclose(
        logits, value_and_grads(model, params, batch, ForwardOptions(), mask_NH)[0], rtol=1e-5, atol=1e-6
    )


def test_the_last_layer_computes_these_positions_alone():
    """Of one layer, the feed-forward product [B, T, D] x [D, F] must be gone."""
    model, params = classifier(1)
    batch = packed_rows()
    rows, length = batch["input_ids"].shape
    slots, width = batch["cls_positions"].shape[1], model.config.intermediate_size
    assert slots != length

    def text(call):
        return jax.jit(lambda p: model.apply(p, batch, None, call)["logits"]).lower(params).as_text()

    assert f"tensor<{rows}x{length}x{width}xf32>" not in text(ForwardOptions())
    assert f"tensor<{rows}x{slots}x{width}xf32>" in text(ForwardOptions())
    assert f"tensor<{rows}x{length}x{width}xf32>" in text(ForwardOptions(output_hidden_states=True))
