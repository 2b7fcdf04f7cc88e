"""Packed rows give what padded rows give, and no example feels its neighbours."""

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
from jaxbert.data.packing import choose_layout, padded_layout
from jaxbert.models.attention.select import Attention
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead

COUNT = 24
CALLS = pytest.mark.parametrize(
    "call",
    [
        ForwardOptions(scan_layers=True),
        ForwardOptions(scan_layers=False),
        ForwardOptions(attention=Attention("pallas", interpret=True)),
    ],
    ids=["scan", "unrolled", "pallas"],
)


@pytest.fixture(scope="module")
def model():
    return make_model(SequenceClassificationHead, small_config())


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


@pytest.fixture(scope="module")
def tokens():
    return random_tokens(COUNT)


def only_batch(tokens, layout):
    (batch,) = batches(Examples(tokens), layout, COUNT, seed=None)
    return batch


@pytest.fixture(scope="module")
def packed(tokens):
    batch = only_batch(tokens, choose_layout(tokens.lengths, COUNT, row_length=40))
    assert batch["example_mask"].sum(1).max() >= 3
    return batch


@pytest.fixture(scope="module")
def padded(tokens):
    return only_batch(tokens, padded_layout(tokens.lengths, COUNT, None, 1))


def logits_by_example(apply, params, batch, call):
    logits = np.asarray(jax.jit(lambda p, b: apply(p, b, None, call)["logits"])(params, batch))
    result = np.empty((COUNT, logits.shape[-1]), np.float32)
    result[batch["example_ids"][batch["example_mask"]]] = logits[batch["example_mask"]]
    return result


@CALLS
def test_packed_and_padded_logits_agree(model, params, packed, padded, call):
    one, other = (logits_by_example(model.apply, params, batch, call) for batch in (packed, padded))
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@CALLS
def test_packed_and_padded_gradients_agree(model, params, packed, padded, call):
    targets = np.random.default_rng(0).normal(size=(COUNT, 2)).astype(np.float32)

    def loss(params, batch):
        logits = model.apply(params, batch, None, call)["logits"]
        wanted = jnp.asarray(targets)[batch["example_ids"]]
        return jnp.where(batch["example_mask"][:, :, None], logits * wanted, 0.0).sum()

    one, other = (jax.jit(jax.grad(loss))(params, batch) for batch in (packed, padded))
    for name, grad in traverse_util.flatten_dict(one, sep="/").items():
        expected = traverse_util.flatten_dict(other, sep="/")[name]
        np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def encoder_input(model, params, batch):
    """Return the word embeddings of a batch, and the logits as a function of them: each token has a row of its own."""
    table = params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    own_ids = np.arange(batch["input_ids"].size, dtype=np.int32).reshape(batch["input_ids"].shape)

    def logits_fn(vectors, call):
        embeddings = {**params["bert"]["embeddings"], "word_embeddings": {"embedding": vectors}}
        changed = {**params, "bert": {**params["bert"], "embeddings": embeddings}}
        return model.apply(changed, {**batch, "input_ids": own_ids}, None, call)["logits"]

    return table[batch["input_ids"].ravel()], logits_fn


@CALLS
def test_no_example_feels_its_neighbours(model, params, packed, call):
    """The gradient with respect to every other token is exactly zero, padding included, and not so for the own ones."""
    vectors, logits_fn = encoder_input(model, params, packed)

    @jax.jit
    def grad_of(vectors, row, slot):
        return jax.grad(lambda v: (logits_fn(v, call)[row, slot] * jnp.array([1.0, -2.0])).sum())(vectors)

    for row, slot in np.argwhere(packed["example_mask"]):
        grad = np.asarray(grad_of(vectors, row, slot)).reshape(*packed["input_ids"].shape, -1)
        mine = np.zeros(packed["input_ids"].shape, bool)
        mine[row] = packed["segment_ids"][row] == slot + 1
        assert np.all(grad[~mine] == 0.0)
        assert np.all(np.abs(grad[mine]).max(-1) > 0.0)


def test_the_content_of_padding_and_neighbours_changes_no_bit(model, params, packed):
    """Logits of one slot, with every other token of the row drawn anew."""
    apply = jax.jit(lambda batch: model.apply(params, batch)["logits"])
    before = np.asarray(apply(packed))
    for row, slot in np.argwhere(packed["example_mask"])[:6]:
        others = packed["segment_ids"] != slot + 1
        noise = np.random.default_rng(0).integers(0, 40, others.shape, dtype=np.int32)
        after = apply({**packed, "input_ids": np.where(others, noise, packed["input_ids"])})
        np.testing.assert_array_equal(after[row, slot], before[row, slot])


def test_empty_rows_are_finite(model, params, packed):
    """A step that is rounded up to a compiled shape has rows without any example."""
    empty = {name: np.zeros_like(array) for name, array in packed.items()}

    def loss(params):
        return model.apply(params, empty)["logits"].sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
