"""Dropout: the rate that was asked for, the mean unchanged, decided by the key alone, and absent without one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.dropout import dropout
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassification


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_rate_and_mean(rate):
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


def test_the_key_decides():
    x = jnp.ones((50, 50))
    one, same, other = (dropout(x, 0.2, jax.random.key(k)) for k in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_without_a_key_or_a_rate_nothing_happens():
    x = jax.random.normal(jax.random.key(0), (20, 20))
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_the_number_format_is_kept():
    assert dropout(jnp.ones(8, jnp.bfloat16), 0.5, jax.random.key(0)).dtype == jnp.bfloat16


PLACES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


@pytest.fixture(scope="module")
def batch():
    tokens = random_tokens(12)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 12, row_length=30), 12, seed=None)
    return batch


def logits_fn(batch, **rates):
    model = make_model(SequenceClassification, small_config(**rates))
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
