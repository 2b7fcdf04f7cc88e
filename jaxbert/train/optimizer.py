"""AdamW with decay by name, the learning-rate schedules, shares of them, and clipping."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax import Array

from jaxbert.config import OptimizerConfig
from jaxbert.models.functional import Params


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Return step -> learning rate: a linear warm-up, then the schedule down to 0 at `total_steps`."""
    warmup = round(config.warmup_ratio * total_steps)
    rest = max(total_steps - warmup, 1)
    peak = config.learning_rate
    after = {
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[config.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def decay_mask(params: Params) -> Params:
    """Say which parameters decay: kernels and embeddings; biases and LayerNorm do not."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] in ("kernel", "embedding") for path in flat})


def make_optimizer(
    config: OptimizerConfig, total_steps: int, shares: Params | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return clipping by global norm followed by AdamW, whose whole update is multiplied by `shares`.

    Its state is that of `optax.adamw`, and a step that is not `good` leaves the moments as they are.
    """
    adamw = optax.chain(
        scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(make_schedule(config, total_steps)),
    )
    clip = [] if config.clip_norm is None else [clip_by_global_norm(config.clip_norm)]
    multiply = [] if shares is None else [multiply_by(shares)]
    return optax.chain(*clip, adamw, *multiply) if clip or multiply else adamw


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Return Adam without its learning rate: optax's, whose `update` also takes `good`, without which the moments stay.

    Chosen after the update, old and new moments would both be in memory: XLA on CPU copies the old ones first, and works
    out the new ones once more where it computes the parameters (7% of a MiniLM step).
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        *,
        good: Array | bool = True,
        **_: Any,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu = jax.tree.map(lambda m, g: jnp.where(good, b1 * m + (1 - b1) * g, m), state.mu, updates)
        nu = jax.tree.map(lambda v, g: jnp.where(good, b2 * v + (1 - b2) * g * g, v), state.nu, updates)
        count = optax.safe_increment(state.count)
        mu_scale, nu_scale = bias_correction(b1, count), bias_correction(b2, count)
        scaled = jax.tree.map(lambda m, v: mu_scale * m / (jnp.sqrt(nu_scale * v) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def bias_correction(decay: float, count: Array) -> Array | float:
    """Return 1 / (1 - decay^count), whose difference float32 would round to four digits in the first steps."""
    return -1 / jnp.expm1(count * math.log(decay)) if decay else 1.0


def multiply_by(shares: Params) -> optax.GradientTransformation:
    """Multiply each update by its share, decay included: a learning rate of its own, as of a parameter group in PyTorch."""

    def update(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> tuple:
        return jax.tree.map(lambda u, share: u * share, updates, shares), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale all gradients down so that their global norm is at most `max_norm`.

    What optax's does, but by multiplying with one factor: a division of every entry is not fused into AdamW's three
    uses of the gradient, and costs a pass over all parameters (6% of a MiniLM step on CPU).
    """

    def update(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> tuple:
        factor = jnp.minimum(1.0, max_norm / optax.tree.norm(updates))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)
