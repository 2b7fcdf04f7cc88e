"""AdamW with decay by name, the learning-rate schedules and clipping."""

from __future__ import annotations

import optax
from flax import traverse_util

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


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Return clipping by global norm followed by AdamW."""
    adamw = optax.adamw(
        make_schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
