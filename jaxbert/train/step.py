"""The training step and the prediction step: pure functions of state and packed batch.

Gradient accumulation computes the gradient of a step on one slice of its rows after another. Slice i takes every row whose
index is i modulo the number of slices, so each row stays on its device. Memory then holds the activations of one slice, and
the result equals that of the whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxbert.errors import UserError
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import FunctionalModel, Params
from jaxbert.tasks.base import Sums, Task
from jaxbert.train.optimizer import Optimizer, Trainable, finite_steps

DeviceBatch = dict[str, Array]
Outputs = dict[str, Any]
Forward = Callable[[Params, DeviceBatch, Array], Outputs]
"""`(part, batch, key) -> outputs`, for any number of rows; `part` is the trainable part of the parameters."""
Loss = Callable[[Outputs, DeviceBatch], tuple[Array, Sums]]
"""`(outputs, batch) -> (loss, sums)`."""
State = dict[str, Any]
"""`step` (int32), `params` and `opt_state`; the optimizer state covers only the trainable part. With `train.ema` also `ema`,
the moving average of the parameters, a tree like them."""


@dataclass(frozen=True)
class Harder:
    """What a run's loss asks for besides the task's own."""

    r_drop: float = 0.0
    """The weight of the divergence between the answers under two dropout masks; 0: one mask."""
    fgm: float | None = None
    """The length by which the word vectors of each segment are pushed; None: they are not."""


def init_state(params: Params, optimizer: Optimizer, *, average: bool = False) -> State:
    """Return the state before the first step; `average`: whether a moving average of the parameters is kept."""
    opt_state = optimizer.tx.init(optimizer.trainable.select(params))
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": opt_state}
    return state | {"ema": params} if average else state


def make_train_step(
    model: FunctionalModel,
    task: Task,
    optimizer: Optimizer,
    call: ForwardOptions,
    slices: int = 1,
    harder: Harder = Harder(),
) -> Callable[[State, DeviceBatch, Array], tuple[State, Sums]]:
    """Return `(state, batch, base_key) -> (state, sums)`.

    The sums also hold the step's `grad_norm`, `learning_rate` and `bad` (whether loss or gradient were not finite). A bad
    step leaves parameters and optimizer state unchanged; `step` still counts it.

    The gradient is that of the summed loss divided by the number of real examples in the whole step, so neither packing,
    nor the number of devices, nor `slices` (gradient accumulation over the rows) changes it. Gradient, norm and clipping
    cover only the trainable part.

    Raises:
      UserError: when it is traced, if `harder` asks for what the task or the slices do not allow.
    """
    trainable, gradient_of = optimizer.trainable, whole_gradient
    if harder.fgm is not None:
        from jaxbert.train.harder import adversarial_gradient

        gradient_of = adversarial_gradient(whole_gradient, model.config.hidden_size, harder.fgm)

    def train_step(state: State, batch: DeviceBatch, base_key: Array) -> tuple[State, Sums]:
        totals = task.totals(batch)

        def forward(part: Params, batch: DeviceBatch, key: Array) -> Outputs:
            return model.apply(trainable.combine(state["params"], part), batch, key, call)

        def loss(outputs: Outputs, batch: DeviceBatch) -> tuple[Array, Sums]:
            sums = task.sums(outputs, batch, totals, train=True)
            return sums["loss"] / totals["examples"], sums

        used: tuple[Any, Any] = forward, loss
        if harder.r_drop:
            from jaxbert.train.harder import with_two_masks

            used = with_two_masks(forward, task, totals, harder.r_drop, call.drop_rates)
        key, part = jax.random.fold_in(base_key, state["step"]), trainable.select(state["params"])
        if slices == 1:
            grads, sums = gradient_of(*used, part, batch, key)
        elif "example_index" not in batch:
            grads, sums = sliced_gradient(*used, part, batch, key, slices, gradient_of)
        elif harder.fgm is None:
            grads, sums = sliced_example_gradient(*used, part, batch, key, slices)
        else:
            raise UserError("train.adversarial reads pooled windows at once: set train.accumulation_steps to 1")
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(sums["loss"])
        updates, opt_state = optimizer.tx.update(grads, state["opt_state"], part, finite=finite)
        new_part = jax.tree.map(lambda p, u: jnp.where(finite, p + u, p), part, updates)
        rate = jnp.asarray(optimizer.schedule(finite_steps(state["opt_state"])))
        sums |= {"grad_norm": grad_norm, "learning_rate": rate, "bad": ~finite}
        params = trainable.combine(state["params"], new_part)
        return {"step": state["step"] + 1, "params": params, "opt_state": opt_state}, sums

    return train_step


def with_average(
    train_step: Callable[[State, DeviceBatch, Array], tuple[State, Sums]], trainable: Trainable, decay: float | Array
) -> Callable[[State, DeviceBatch, Array], tuple[State, Sums]]:
    """Return the step that also moves the average of the parameters towards them.

    After a step that is not bad the average is `d * average + (1 - d) * parameters`, where d is the smaller one of `decay`
    and (1 + t) / (10 + t), and t the number of such steps before, so that the first parameters are soon forgotten.
    """

    def averaging_step(state: State, batch: DeviceBatch, base_key: Array) -> tuple[State, Sums]:
        after, sums = train_step(state, batch, base_key)
        before = finite_steps(state["opt_state"])
        share = 1 - jnp.minimum(decay, (1 + before) / (10 + before))

        def moved(average: Array, new: Array) -> Array:
            return jnp.where(sums["bad"], average, average + share * (new - average))

        part = jax.tree.map(moved, trainable.select(state["ema"]), trainable.select(after["params"]))
        return after | {"ema": trainable.combine(state["ema"], part)}, sums

    return averaging_step


def make_group_step(
    train_step: Callable[[State, DeviceBatch, Any], tuple[State, Sums]],
) -> Callable[[State, DeviceBatch, Any], tuple[State, Sums]]:
    """Return a function that takes one step per entry of the batch's leading axis, in order; its sums are stacked."""

    def group_step(state: State, batches: DeviceBatch, arguments: Any) -> tuple[State, Sums]:
        return jax.lax.scan(lambda state, batch: train_step(state, batch, arguments), state, batches)

    return group_step


def make_predict_step(
    model: FunctionalModel, task: Task, call: ForwardOptions
) -> Callable[[Params, DeviceBatch], Array]:
    """Return `(params, batch) -> predictions` [B, S, ...], without dropout."""

    def predict_step(params: Params, batch: DeviceBatch) -> Array:
        return task.predictions(model.apply(params, batch, None, call), batch)

    return predict_step


def whole_gradient(forward: Forward, loss: Loss, part: Params, batch: DeviceBatch, key: Array) -> tuple[Params, Sums]:
    """Return the gradient of a step's loss with respect to the trainable part, and the step's sums, for all rows at once."""
    return jax.grad(lambda part: loss(forward(part, batch, key), batch), has_aux=True)(part)


def sliced_gradient(
    forward: Forward,
    loss: Loss,
    part: Params,
    batch: DeviceBatch,
    key: Array,
    slices: int,
    gradient_of: Callable[..., tuple[Params, Sums]] = whole_gradient,
) -> tuple[Params, Sums]:
    """Return the result of `gradient_of`, slice by slice, for losses that need only an example's own row."""
    xs = _cut(batch, slices), jax.random.split(key, slices)

    def of_slice(piece: DeviceBatch, key: Array) -> tuple[Params, Sums]:
        return gradient_of(forward, loss, part, piece, key)

    return _add_up(of_slice, xs)


def sliced_example_gradient(
    forward: Forward, loss: Loss, part: Params, batch: DeviceBatch, key: Array, slices: int
) -> tuple[Params, Sums]:
    """Return the result of `whole_gradient`, slice by slice, for losses of examples whose rows may lie in different slices.

    First a forward pass computes the outputs of all slices and keeps nothing else (no vectors, `encoded` and `pooled`). The
    gradient of the loss with respect to the outputs then goes back through each slice, whose forward pass is computed
    again with the same dropout.
    """
    xs = _cut(batch, slices), jax.random.split(key, slices)

    def outputs_of(part: Params, piece: DeviceBatch, key: Array) -> Outputs:
        return _scores(forward(part, piece, key))

    outputs = _join(jax.lax.map(lambda x: outputs_of(part, *x), xs))
    towards_outputs, sums = jax.grad(loss, has_aux=True)(outputs, batch)

    def of_slice(towards: Outputs, piece: DeviceBatch, key: Array) -> Params:
        return jax.vjp(lambda part: outputs_of(part, piece, key), part)[1](towards)[0]

    return _add_up(of_slice, (_cut(towards_outputs, slices), *xs)), sums


def _scores(outputs: Outputs) -> Outputs:
    """Return outputs without vectors; also those of two forward passes by name."""
    kept = {name: value for name, value in outputs.items() if name not in ("encoded", "pooled")}
    return {name: _scores(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _cut(rows: Any, slices: int) -> Any:
    """Reshape leaves from [B, ...] to [slices, B / slices, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, slices, *x.shape[1:]).swapaxes(0, 1), rows)


def _join(pieces: Any) -> Any:
    """Undo `_cut`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), pieces)


def _add_up(of_slice: Callable[..., Any], xs: tuple[Any, ...]) -> Any:
    """Return the sum of the results of `of_slice`, computed for one slice after the other."""
    shapes = jax.eval_shape(of_slice, *jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda total, x: (jax.tree.map(jnp.add, total, of_slice(*x)), None), zeros, xs)[0]
