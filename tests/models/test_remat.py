"""Recomputing activations saves memory, and changes neither gradients nor dropout's masks."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import traverse_util
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.config import MeshConfig, ModelConfig
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.train.programs import layer_call
from jaxbert.train.sharding import make_mesh

SCANS = pytest.mark.parametrize("scan", [True, False], ids=["scan", "unrolled"])
RATE = 0.1
LAYERS = 4


@pytest.fixture(scope="module")
def model():
    changes = {"hidden_dropout_prob": RATE, "attention_probs_dropout_prob": RATE}
    return make_model(SequenceClassificationHead, small_config(num_hidden_layers=LAYERS, **changes))


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


@pytest.fixture(scope="module")
def loss(model):
    """A function of parameters and `ForwardOptions`, with dropout on."""
    tokens = random_tokens(100)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 100, row_length=40), 100, seed=None)
    key = jax.random.key(1)
    return lambda params, call: (model.apply(params, batch, key, call)["logits"] ** 2).sum()


@pytest.fixture(scope="module")
def compiled(loss, params):
    """`(scan, remat) -> the compiled gradient`."""
    return functools.cache(
        lambda scan, remat: (
            jax.jit(jax.grad(lambda p: loss(p, ForwardOptions(scan, remat)))).lower(params).compile(quick.newest())
        )
    )


@SCANS
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_the_gradient_stays(compiled, params, scan, remat):
    found, expected = (traverse_util.flatten_dict(compiled(scan, r)(params), sep="/") for r in (remat, "none"))
    for name, grad in expected.items():
        largest = np.abs(grad).max()
        assert largest > 0 or name.endswith("key/bias"), name
        np.testing.assert_allclose(found[name], grad, rtol=0, atol=1e-6 * largest, err_msg=name)


@SCANS
def test_less_is_kept_for_the_backward_pass(loss, params, scan):
    def kept(remat) -> int:
        """Bytes that the forward pass hands to the backward pass."""
        backward = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(p, ForwardOptions(scan, remat)), p)[1], params)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    none, dots, full = (kept(remat) for remat in ("none", "dots", "full"))
    assert full < 0.7 * dots < 0.7 * 0.7 * none


def test_products_in_bfloat16_are_kept_too(model, params):
    """Their gradients have a rule of their own, into which the policy of a checkpoint does not look."""
    narrow = make_model(SequenceClassificationHead, model.config, jnp.bfloat16)
    tokens = random_tokens(20)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 20, row_length=40), 20, seed=None)

    def kept(remat) -> int:
        def loss(p):
            return narrow.apply(p, batch, None, ForwardOptions(True, remat))["logits"].astype(jnp.float32).sum()

        backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    none, dots, full = (kept(remat) for remat in ("none", "dots", "full"))
    assert full < 0.9 * dots < 0.9 * 0.9 * none


def test_the_compiled_loop_needs_less_memory(compiled):
    """What XLA makes of it: recomputation that it merges with the forward pass again would save nothing."""
    none, dots, full = (
        compiled(True, remat).memory_analysis().temp_size_in_bytes for remat in ("none", "dots", "full")
    )
    assert full < 0.9 * dots < 0.9 * 0.9 * none


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_unrolled_layers_compute_their_activations_again(compiled, remat):
    """XLA must not merge both computations: softmax's exponentials of each layer but the last are there twice."""
    again, once = (compiled(False, r).as_text().count(" exponential(") for r in (remat, "none"))
    assert again >= once + LAYERS - 1


@pytest.mark.parametrize(("remat", "scan"), [("none", False), ("dots", True), ("full", True)])
def test_the_configuration_reaches_the_layers(remat, scan):
    """On CPU, where layers are unrolled when nothing is said."""
    mesh = make_mesh(MeshConfig())
    call = layer_call(ModelConfig(remat=remat), mesh)
    assert (call.scan_layers, call.remat) == (scan, remat)
    call = layer_call(ModelConfig(remat=remat, scan_layers=False), mesh)
    assert (call.scan_layers, call.remat) == (False, remat)
