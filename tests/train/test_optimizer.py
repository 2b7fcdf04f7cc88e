"""AdamW as configured: schedules at exact steps, decay by name, clipping."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from runs import small_config
from tiny import random_params

from jaxbert.config import OptimizerConfig
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.train.optimizer import Rates, bias_correction, decay_mask, make_optimizer, make_schedule

VARIED = "warmup", "rest", "learning_rate"
BASE = OptimizerConfig(learning_rate=0.1, warmup_ratio=0.2)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", {0: 0.0, 1: 0.05, 2: 0.1, 6: 0.05, 9: 0.0125, 10: 0.0}),
        ("cosine", {0: 0.0, 1: 0.05, 2: 0.1, 4: 0.1 * (1 + 0.5**0.5) / 2, 6: 0.05, 10: 0.0}),
        ("constant", {0: 0.0, 1: 0.05, 2: 0.1, 6: 0.1, 10: 0.1}),
    ],
)
def test_rates_at_steps(schedule, rates):
    """The length and the rate may be arguments of a compiled program."""
    config = dataclasses.replace(BASE, schedule=schedule)
    other, own = dataclasses.replace(config, learning_rate=9.0), Rates.of(config, 10)
    traced = jax.jit(
        lambda step, *rates: make_schedule(other, own._replace(**dict(zip(VARIED, rates, strict=True))))(step)
    )
    for step, rate in rates.items():
        assert float(make_schedule(config, 10)(step)) == pytest.approx(rate, abs=1e-8), step
        assert float(traced(step, 2, 8, 0.1)) == pytest.approx(rate, abs=1e-8), step


@pytest.mark.parametrize("total_steps", [1, 2, 3, 10])
def test_without_warmup_the_first_step_has_the_peak(total_steps):
    rate_at = make_schedule(dataclasses.replace(BASE, warmup_ratio=0.0), total_steps)
    assert float(rate_at(0)) == pytest.approx(0.1)
    assert all(rate_at(step) > 0 for step in range(total_steps))


@pytest.fixture(scope="module")
def params():
    return random_params(make_model(SequenceClassificationHead, small_config()))


def test_biases_and_layer_norms_do_not_decay(params):
    for name, decays in traverse_util.flatten_dict(decay_mask(params), sep="/").items():
        spared = name.endswith("bias") or "LayerNorm" in name
        assert decays is not spared, name


def test_decay_shrinks_what_decays_and_nothing_else(params):
    """With no gradient, AdamW multiplies by 1 - rate * decay."""
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_ratio=0.0, schedule="constant")
    tx = make_optimizer(config, 10)
    params = {"embeddings": params["bert"]["embeddings"], "classifier": params["classifier"]}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    after = traverse_util.flatten_dict(optax.apply_updates(params, updates), sep="/")
    for name, before in traverse_util.flatten_dict(params, sep="/").items():
        spared = name.endswith("bias") or "LayerNorm" in name
        np.testing.assert_allclose(after[name], before * (1.0 if spared else 0.95), rtol=1e-6, err_msg=name)


def test_updates_are_those_of_torch():
    torch = pytest.importorskip("torch")
    config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.0, schedule="constant", clip_norm=0.5)
    tx = make_optimizer(config, 10)
    rng = np.random.default_rng(0)
    ours = {"a": {"kernel": rng.normal(size=(4, 5)).astype(np.float32), "bias": rng.normal(size=5).astype(np.float32)}}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in ours["a"].items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": 0.1},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    state = tx.init(ours)
    for _ in range(5):
        grads = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in ours["a"].items()}
        updates, state = tx.update({"a": grads}, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, grad in grads.items():
            theirs[name].grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        optimizer.step()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours["a"][name], value.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 10, 100_000])
def test_biases_are_corrected_to_the_last_digits(count):
    for decay in (0.9, 0.999):
        assert float(bias_correction(decay, jnp.int32(count))) == pytest.approx(1 / (1 - decay**count), rel=3e-7)
    assert bias_correction(0.0, jnp.int32(count)) == 1.0


def updated(clip_norm, scale):
    """Return a step of pure descent: without momenta Adam's update has the sign of the gradient alone."""
    tx = make_optimizer(dataclasses.replace(BASE, clip_norm=clip_norm, warmup_ratio=0.0, eps=1.0, b1=0.0, b2=0.0), 10)
    params = {"x": {"bias": jnp.zeros(4)}}
    grads = {"x": {"bias": scale * jnp.array([1.0, -1.0, 1.0, 1.0])}}
    return tx.update(grads, tx.init(params), params)[0]["x"]["bias"]


def test_clipping_is_by_the_global_norm():
    np.testing.assert_allclose(updated(1.0, 100.0), updated(None, 0.5), rtol=1e-5)
    np.testing.assert_allclose(updated(1.0, 0.4), updated(None, 0.4), rtol=1e-6)
    assert np.abs(updated(None, 100.0)).max() > 2 * np.abs(updated(1.0, 100.0)).max()


def test_updates_and_state_are_those_of_optax():
    """So that a checkpoint of one goes on with the other. Optax rounds 1 - b2^t to four or five digits."""
    config = dataclasses.replace(BASE, clip_norm=None, weight_decay=0.1, warmup_ratio=0.0)
    rates = config.own | {"weight_decay": 0.1, "mask": decay_mask}
    ours, theirs = (
        make_optimizer(config, 10),
        optax.adamw(make_schedule(config, 10), **rates),
    )
    rng = np.random.default_rng(0)
    params = {"x": {"kernel": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32), "bias": jnp.ones(5)}}
    states = [ours.init(params), theirs.init(params)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for _ in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        results = [tx.update(grads, state, params) for tx, state in zip((ours, theirs), states, strict=True)]
        states = [state for _, state in results]
        for found, expected in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(found, expected, rtol=5e-5)
        params = optax.apply_updates(params, results[0][0])


def copies_of_moments(step):
    """Count the copies of whole moments in a compiled step `(good, params, state, grads)` whose old state is donated."""
    params = {"x": {"kernel": jax.ShapeDtypeStruct((384, 640), jnp.float32)}}
    state = jax.eval_shape(make_optimizer(BASE, 10).init, params)

    def update(params, state, grads):
        return step(jnp.isfinite(optax.tree.norm(grads)), params, state, grads)

    text = jax.jit(update, donate_argnums=(0, 1)).lower(params, state, params).compile().as_text()
    return len(re.findall(r"f32\[384,640\]\S* copy\(", text))


def test_moments_are_not_copied():
    tx = make_optimizer(BASE, 10)

    def choose(good, new, old):
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)

    def told(good, params, state, grads):
        updates, new_state = tx.update(grads, state, params, finite=good)
        return choose(good, optax.apply_updates(params, updates), params), new_state

    def chosen_afterwards(good, params, state, grads):
        updates, new_state = tx.update(grads, state, params)
        return choose(good, (optax.apply_updates(params, updates), new_state), (params, state))

    assert copies_of_moments(told) == 0
    assert copies_of_moments(chosen_afterwards) > 0  # or else there is nothing to gain any more
