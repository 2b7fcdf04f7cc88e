"""bfloat16 computes the same within its precision, and leaves parameters and gradients in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import random_tokens, small_config

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.interop.load import load_params
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import init_params, make_model
from jaxbert.models.heads import SequenceClassificationHead

EPSILON = 2.0**-8
"""Half the distance of neighbouring bfloat16 numbers around 1."""


def both(config, batch, params=None):
    """Return logits and gradients in each format."""
    results = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = make_model(SequenceClassificationHead, config, dtype)
        start = init_params(model, jax.random.key(0)) if params is None else params

        def loss(p, apply=model.apply):
            logits = apply(p, batch, None, ForwardOptions(scan_layers=True))["logits"].astype(jnp.float32)
            return (logits * batch["example_mask"][:, :, None]).sum(), logits

        (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(start)
        results.append((np.asarray(logits)[batch["example_mask"]], grads))
    return results


def whole(grads) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(grads)])


def assert_within_bound(config, batch, params=None):
    """Logits within 8 roundings of a number as large as the largest; gradients within 5% of the whole vector's norm."""
    (logits, grads), (half_logits, half_grads) = both(config, batch, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(half_grads)} == {jnp.dtype("float32")}
    error = np.abs(half_logits - logits).max()
    assert 0 < error < 8 * EPSILON * max(np.abs(logits).max(), 1.0)
    assert np.linalg.norm(whole(half_grads) - whole(grads)) < 0.05 * np.linalg.norm(whole(grads))


def one_batch(tokens):
    count = len(tokens)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, count, row_length=64), count, seed=None)
    return batch


def test_bfloat16_against_float32():
    assert_within_bound(small_config(initializer_range=0.1), one_batch(random_tokens(24)))


@pytest.mark.long
@pytest.mark.real
@pytest.mark.slow
def test_bfloat16_against_float32_with_pretrained_weights(minilm):
    from jaxbert.interop.bert_config import read_config

    config = read_config(minilm)
    model = make_model(SequenceClassificationHead, config)
    params, _ = load_params(minilm, model, key=jax.random.key(0))
    assert_within_bound(config, one_batch(random_tokens(16, vocab=config.vocab_size)), params)
