"""Training loops of former users: TrainState and optax under jit, pmap and NamedSharding, with PyTorch's gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.jax_utils import replicate, unreplicate
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny import random_params, tiny_config

from jaxbert import FlaxBertForSequenceClassification as Classifier
from jaxbert.interop import names
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model

ROWS, TOKENS, DEVICES, STEPS = 8, 10, 4, 8
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def config(**changes):
    return tiny_config(num_hidden_layers=1, **changes)


@pytest.fixture(scope="module")
def batch():
    """Half of the rows are padded on the left."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, TOKENS + 1, ROWS)
    shown = (np.arange(TOKENS) < lengths[:, None]).astype(np.int32)
    shown[::2] = shown[::2, ::-1]
    return {
        "input_ids": rng.integers(1, 120, (ROWS, TOKENS)).astype(np.int32),
        "attention_mask": shown,
        "token_type_ids": np.broadcast_to(np.arange(TOKENS) > 4, (ROWS, TOKENS)).astype(np.int32),
        "labels": rng.integers(0, 3, ROWS).astype(np.int32),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    head = make_model(Classifier.module_class.head, config())
    return save_folder(tmp_path_factory.mktemp("drawn"), random_params(head), config(**STILL))


@pytest.fixture(scope="module")
def model(folder):
    return Classifier.from_pretrained(folder)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@pytest.fixture(scope="module")
def expected(folder, batch):
    """PyTorch's loss, and its gradients by name."""
    torch = pytest.importorskip("torch")
    from transformers import BertForSequenceClassification

    theirs = BertForSequenceClassification.from_pretrained(folder).eval()
    loss = theirs(**{name: torch.tensor(x).long() for name, x in batch.items()}).loss
    loss.backward()
    return loss.item(), {name: x.grad.numpy() for name, x in theirs.named_parameters()}


def assert_pytorchs(loss, grads, expected):
    np.testing.assert_allclose(loss, expected[0], atol=1e-6)
    found = names.layers_to_torch(grads)
    assert found.keys() == expected[1].keys()
    for name, grad in expected[1].items():
        np.testing.assert_allclose(found[name], grad, atol=1e-6, rtol=0, err_msg=name)


def make_state(model):
    return TrainState.create(apply_fn=model.__call__, params=model.params, tx=optax.adamw(1e-3, weight_decay=0.01))


def make_step(mean=lambda x: x):
    """The step of the legacy programs: a state, a batch and a key go in; arguments of the model by name."""

    def step(state, batch, key):
        key, dropout_key = jax.random.split(key)
        batch = dict(batch)
        labels = batch.pop("labels")

        def loss_fn(params):
            logits = state.apply_fn(**batch, params=params, dropout_rng=dropout_key, train=True)[0]
            return cross_entropy(logits, labels)

        loss, grads = mean(jax.value_and_grad(loss_fn)(state.params))
        return state.apply_gradients(grads=grads), loss, grads, key

    return step


@pytest.fixture(scope="module")
def losses(model, batch):
    """Those of a loop in PyTorch's place: one device, positional arguments."""

    @jax.jit
    def step(params, opt_state, ids, mask, types, labels):
        def loss_fn(params):
            return cross_entropy(model(ids, mask, types, None, None, None, None, params, None, False)[0], labels)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, grads

    tx = optax.adamw(1e-3, weight_decay=0.01)
    params, opt_state, losses, first = model.params, tx.init(model.params), [], None
    for _ in range(STEPS):
        params, opt_state, loss, grads = step(params, opt_state, *batch.values())
        first = grads if first is None else first
        losses.append(float(loss))
    return losses, first


def test_jit_with_positional_arguments(losses, expected):
    assert_pytorchs(losses[0][0], losses[1], expected)
    assert losses[0][-1] < 0.8 * losses[0][0]


def run(step, state, batch, key):
    """Take the steps; return the losses, the first gradients and the last state."""
    losses, first = [], None
    for _ in range(STEPS):
        state, loss, grads, key = step(state, batch, key)
        first = grads if first is None else first
        losses.append(float(jnp.mean(loss)))
    return losses, first, state


def test_pmap_on_four_devices(model, batch, losses, expected):
    devices = jax.devices()[:DEVICES]
    parts = {name: x.reshape(DEVICES, -1, *x.shape[1:]) for name, x in batch.items()}
    step = jax.pmap(
        make_step(lambda x: jax.lax.pmean(x, "batch")), axis_name="batch", devices=devices, donate_argnums=(0,)
    )
    keys = jax.random.split(jax.random.PRNGKey(0), DEVICES)
    found, grads, state = run(step, replicate(make_state(model), devices), parts, keys)
    assert_pytorchs(found[0], unreplicate(grads), expected)
    np.testing.assert_allclose(found, losses[0], atol=1e-4)
    assert state.step.tolist() == [STEPS] * DEVICES
    kernels = np.asarray(state.params["classifier"]["kernel"])
    np.testing.assert_array_equal(kernels, np.broadcast_to(kernels[:1], kernels.shape))


def test_named_sharding(model, batch, losses, expected):
    """The batch is spread over four devices, and so are the word embeddings by their width."""
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    rows, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    width = NamedSharding(mesh, PartitionSpec(None, "data"))

    def place(path, _):
        return width if "word_embeddings" in jax.tree_util.keystr(path) else everywhere

    state = make_state(model)
    places = jax.tree.map_with_path(place, state)
    state, key = jax.device_put((state, jax.random.PRNGKey(0)), (places, everywhere))
    step = jax.jit(make_step(), in_shardings=(places, rows, everywhere), out_shardings=(places, None, None, everywhere))
    found, grads, state = run(step, state, jax.device_put(batch, rows), key)
    assert_pytorchs(found[0], grads, expected)
    np.testing.assert_allclose(found, losses[0], atol=1e-4)
    words = state.params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    assert words.sharding == width
