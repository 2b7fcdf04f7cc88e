"""A tiny random classifier computes what PyTorch computes: logits, loss, every gradient, and all that is inside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import random_params, random_rows, tiny_model, unpacked_batch, write_tiny

from jaxbert import FlaxBertForSequenceClassification
from jaxbert.interop import names

torch = pytest.importorskip("torch")

LABELS = np.asarray([0, 2, 1, 2])


@pytest.fixture(params=["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"])
def folder(request, tmp_path):
    write_tiny(tmp_path, hidden_act=request.param, classifier_dropout=0.3)
    return tmp_path


@pytest.fixture
def torch_model(folder):
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()


def to_torch_rows(rows):
    return {name: torch.from_numpy(x).long() for name, x in rows.items()}


def test_logits_hidden_states_and_attentions(folder, torch_model):
    rows = random_rows()
    found = FlaxBertForSequenceClassification.from_pretrained(folder)(
        **rows, output_hidden_states=True, output_attentions=True
    )
    with torch.no_grad():
        expected = torch_model(**to_torch_rows(rows), output_hidden_states=True, output_attentions=True)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5, rtol=0)
    shown = rows["attention_mask"] == 1
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[shown], theirs.numpy()[shown], atol=1e-5, rtol=0)
    for ours, theirs in zip(found.attentions, expected.attentions, strict=True):
        by_token = np.moveaxis(np.asarray(ours), 1, 2)[shown]
        np.testing.assert_allclose(by_token, np.moveaxis(theirs.numpy(), 1, 2)[shown], atol=1e-5, rtol=0)


def test_loss_and_every_gradient(folder, torch_model):
    rows = random_rows()
    model = tiny_model(hidden_act=torch_model.config.hidden_act)

    def loss_fn(params):
        logits = model.apply(params, unpacked_batch(rows))["logits"][:, 0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS)).mean()

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(random_params(model))
    expected = torch_model(**to_torch_rows(rows), labels=torch.from_numpy(LABELS)).loss
    expected.backward()
    np.testing.assert_allclose(loss, expected.detach(), atol=1e-5, rtol=0)
    found = names.to_torch(grads)
    theirs = {name: parameter.grad.numpy() for name, parameter in torch_model.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        error, size = np.abs(found[name] - gradient).max(), np.abs(gradient).max()
        assert error < 1e-5, name
        if name.endswith("key.bias"):  # cancels in the softmax: PyTorch computes rounding, jaxbert nothing
            assert not found[name].any()
        else:
            assert error < 1e-3 * size, name
