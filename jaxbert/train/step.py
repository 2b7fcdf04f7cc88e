"""The training step and the evaluation step: pure functions of state and packed batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxbert.models.encoder import Call
from jaxbert.models.functional import Model, Params
from jaxbert.tasks.base import Sums, Task
from jaxbert.train.accumulate import DeviceBatch, Outputs, sliced_document_gradient, sliced_gradient, whole_gradient
from jaxbert.train.optimizer import good_steps
from jaxbert.train.trained import Trained

State = dict[str, Any]
"""`step` (int32), `params` and `opt_state`, which knows of the trained part alone."""


@dataclass(frozen=True)
class Descent:
    """How gradients change parameters, and which."""

    tx: optax.GradientTransformationExtraArgs
    """Keeps its whole state where `good` is false; see `optimizer.guarded`."""
    schedule: optax.Schedule
    trained: Trained


def init_state(params: Params, descent: Descent) -> State:
    """Return the state before the first step."""
    opt_state = descent.tx.init(descent.trained.take(params))
    return {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": opt_state}


def make_train_step(
    model: Model, task: Task, descent: Descent, call: Call, slices: int = 1
) -> Callable[[State, DeviceBatch, Array], tuple[State, Sums]]:
    """Return `(state, batch, base_key) -> (state, sums)`.

    The sums hold the step's `grad_norm` and `learning_rate` too, and in `bad` whether loss or gradient were not finite. A
    bad step leaves parameters and the optimizer's whole state as they were; `step` counts it.

    The gradient is that of the summed loss divided by the number of real examples of the whole step, so neither packing,
    nor the number of devices, nor `slices` (gradient accumulation over the rows) changes it. It is that of the trained part
    alone, and so are its norm and its clipping.
    """
    trained = descent.trained

    def train_step(state: State, batch: DeviceBatch, base_key: Array) -> tuple[State, Sums]:
        totals = task.totals(batch)

        def forward(part: Params, batch: DeviceBatch, key: Array) -> Outputs:
            return model.apply(trained.put(state["params"], part), batch, key, call)

        def loss(outputs: Outputs, batch: DeviceBatch) -> tuple[Array, Sums]:
            sums = task.sums(outputs, batch, totals, train=True)
            return sums["loss"] / totals["examples"], sums

        key = jax.random.fold_in(base_key, state["step"])
        part = trained.take(state["params"])
        if slices == 1:
            grads, sums = whole_gradient(forward, loss, part, batch, key)
        else:
            gradient = sliced_document_gradient if "document" in batch else sliced_gradient
            grads, sums = gradient(forward, loss, part, batch, key, slices)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(grad_norm) & jnp.isfinite(sums["loss"])
        updates, opt_state = descent.tx.update(grads, state["opt_state"], part, good=good)
        new_part = jax.tree.map(lambda p, u: jnp.where(good, p + u, p), part, updates)
        params = trained.put(state["params"], new_part)
        rate = jnp.asarray(descent.schedule(good_steps(state["opt_state"])))
        sums |= {"grad_norm": grad_norm, "learning_rate": rate, "bad": ~good}
        return {"step": state["step"] + 1, "params": params, "opt_state": opt_state}, sums

    return train_step


def make_group_step(
    train_step: Callable[[State, DeviceBatch, Array], tuple[State, Sums]],
) -> Callable[[State, DeviceBatch, Array], tuple[State, Sums]]:
    """Return a function that takes one step after another along the leading axis of its batch; so are its sums stacked."""

    def group_step(state: State, batches: DeviceBatch, base_key: Array) -> tuple[State, Sums]:
        return jax.lax.scan(lambda state, batch: train_step(state, batch, base_key), state, batches)

    return group_step


def make_predict_step(model: Model, task: Task, call: Call) -> Callable[[Params, DeviceBatch], Array]:
    """Return `(params, batch) -> predictions` [B, S, ...], without dropout."""

    def predict_step(params: Params, batch: DeviceBatch) -> Array:
        return task.predictions(model.apply(params, batch, None, call), batch)

    return predict_step
