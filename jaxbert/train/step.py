"""The training step and the evaluation step: pure functions of state and packed batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxbert.models.encoder import Call
from jaxbert.models.functional import Model, Params
from jaxbert.tasks.base import Sums, Task

State = dict[str, Any]
"""`step` (int32), `params` and `opt_state`."""
DeviceBatch = dict[str, Array]


def init_state(params: Params, tx: optax.GradientTransformation) -> State:
    """Return the state before the first step."""
    return {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": tx.init(params)}


def make_train_step(
    model: Model, task: Task, tx: optax.GradientTransformation, schedule: optax.Schedule, call: Call, slices: int = 1
) -> Callable[[State, DeviceBatch, Array], tuple[State, Sums]]:
    """Return `(state, batch, base_key) -> (state, sums)`.

    The sums hold the step's `grad_norm` and `learning_rate` too, and in `bad` whether loss or gradient were not finite. A
    bad step leaves parameters, moments and the optimizer's count as they were; `step` counts it.

    The gradient is that of the summed loss divided by the number of real examples of the whole step, so neither packing,
    nor the number of devices, nor `slices` (gradient accumulation over the rows) changes it.
    """

    def loss_fn(params: Params, batch: DeviceBatch, key: Array, totals: Sums) -> tuple[Array, Sums]:
        sums = task.sums(model.apply(params, batch, key, call), batch, totals, train=True)
        return sums["loss"] / totals["examples"], sums

    grad_fn = jax.grad(loss_fn, has_aux=True)

    def train_step(state: State, batch: DeviceBatch, base_key: Array) -> tuple[State, Sums]:
        key = jax.random.fold_in(base_key, state["step"])
        totals = task.totals(batch)
        if slices == 1:
            grads, sums = grad_fn(state["params"], batch, key, totals)
        else:
            grads, sums = _accumulate(grad_fn, state["params"], batch, key, totals, slices)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(grad_norm) & jnp.isfinite(sums["loss"])
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), (params, opt_state), (state["params"], state["opt_state"])
        )
        count = optax.tree.get_all_with_path(state["opt_state"], "count")[0][1]
        sums |= {"grad_norm": grad_norm, "learning_rate": jnp.asarray(schedule(count)), "bad": ~good}
        return {"step": state["step"] + 1, "params": params, "opt_state": opt_state}, sums

    return train_step


def make_group_step(
    train_step: Callable[[State, DeviceBatch, Array], tuple[State, Sums]],
) -> Callable[[State, DeviceBatch, Array], tuple[State, Sums]]:
    """Return a function that takes one step after another along the leading axis of its batch; so are its sums stacked."""

    def group_step(state: State, batches: DeviceBatch, base_key: Array) -> tuple[State, Sums]:
        return jax.lax.scan(lambda state, batch: train_step(state, batch, base_key), state, batches)

    return group_step


def _accumulate(
    grad_fn: Callable, params: Params, batch: DeviceBatch, key: Array, totals: Sums, slices: int
) -> tuple[Params, Sums]:
    """Add up gradients and sums over slices of the rows, one at a time.

    Slice i takes every row with index i modulo `slices`, which leaves each row on its device.
    """
    sliced = jax.tree.map(lambda x: x.reshape(-1, slices, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, slices)

    def add_slice(total: tuple[Params, Sums], xs: tuple[DeviceBatch, Array]) -> tuple[tuple[Params, Sums], None]:
        part = grad_fn(params, xs[0], xs[1], totals)
        return jax.tree.map(jnp.add, total, part), None

    first = jax.tree.map(lambda x: x[0], sliced)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, first, keys[0], totals))
    return jax.lax.scan(add_slice, zeros, (sliced, keys))[0]


def make_predict_step(model: Model, task: Task, call: Call) -> Callable[[Params, DeviceBatch], Array]:
    """Return `(params, batch) -> predictions` [B, S, ...], without dropout."""

    def predict_step(params: Params, batch: DeviceBatch) -> Array:
        return task.predictions(model.apply(params, batch, None, call), batch)

    return predict_step
