"""Optimizers with weight decay by name, learning-rate schedules, clipping; the trainable parameters and their rates' scales.

No optimizer changes its state in a step that is not `finite`. The encoder's layers are one stack with a leading axis. An
optimizer that computes over a whole tensor treats each layer separately, as optax does with layers that are not stacked.

Trainable parameters are chosen by name, layer by layer. Names are those of the sharding table, with the number of the layer,
such as `bert/encoder/layer/3/output/dense/kernel`, although one array holds all layers. The step and the optimizer see only
the trainable part: a frozen parameter has no gradient, no moments and no decay, and keeps its bits.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax import Array

from jaxbert.config import OptimizerConfig
from jaxbert.errors import UserError
from jaxbert.interop.names import Path, layer_axis
from jaxbert.models.families import family_of_names
from jaxbert.models.functional import Params

_FACTORED = optax.FactoredState(count=None, v_row=0, v_col=0, v=0)
"""The axis of the layers in each part of the state; all layers share the counter."""
_MUON_RMS = 0.2
"""Root mean square of Muon's updates before the learning rate: that of AdamW, so that one rate suits both (Liu et al., 2025,
arXiv 2502.16982)."""


@dataclass(frozen=True)
class Optimizer:
    """The gradient transformation and the part of the parameters that it trains."""

    tx: optax.GradientTransformationExtraArgs
    """The transformation; it keeps its state unchanged if `finite` is false (see `guarded`)."""
    schedule: optax.Schedule
    trainable: Trainable


class Rates(NamedTuple):
    """The settings of an optimizer that are arguments of the step, so that runs that differ in them share one program.

    They are numbers, or arrays: int32 for steps, else float32. What is None is left out of the program.
    """

    warmup: int | Array
    """The steps in which the learning rate rises."""
    rest: int | Array
    """The steps after the warmup, at least 1."""
    learning_rate: float | Array
    weight_decay: float | Array
    clip_norm: float | Array | None
    layers: np.ndarray | Array | None
    """The factors of the learning rate, [N + 2]: of the head, of each of N layers from the last on, of the embeddings."""

    @classmethod
    def of(cls, config: OptimizerConfig, total_steps: int, number_of_layers: int = 0) -> Rates:
        """Read the rates of a run with this many steps."""
        warmup, decay = round(config.warmup_ratio * total_steps), config.layer_decay
        powers = None if decay is None else [decay**power for power in range(number_of_layers + 2)]
        layers = None if powers is None else np.array(powers, np.float32)
        rates = config.learning_rate, config.weight_decay, config.clip_norm
        return cls(warmup, max(total_steps - warmup, 1), *rates, layers)


def make_schedule(config: OptimizerConfig, rates: int | Rates) -> optax.Schedule:
    """Return step -> learning rate: a linear warmup, then the schedule down to 0 at the last step.

    optax wants lengths that are numbers. Here they may be arrays: its schedules have length 1, and steps are divided.

    Args:
      config: the settings.
      rates: the rates, or the number of all steps if the rates are those of `config`.
    """
    span = rates if isinstance(rates, Rates) else Rates.of(config, rates)
    peak: Any = span.learning_rate
    rising = optax.linear_schedule(0.0, peak, 1)
    falling = {
        "linear": optax.linear_schedule(peak, 0.0, 1),
        "cosine": optax.cosine_decay_schedule(peak, 1),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    return optax.join_schedules(
        [lambda step: rising(step / jnp.maximum(span.warmup, 1)), lambda step: falling(step / span.rest)], [span.warmup]
    )


def decay_mask(params: Params) -> Params:
    """Return whether each parameter decays: kernels and embeddings do; biases and LayerNorm do not."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] in ("kernel", "embedding") for path in flat})


def make_optimizer(
    config: OptimizerConfig, rates: int | Rates, scales: Params | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return clipping by global norm followed by the optimizer; the whole update is multiplied by `scales`.

    The state of AdamW is that of `optax.adamw`. A step that is not `finite` leaves the state unchanged.

    Args:
      config: the settings.
      rates: the rates, or the number of all steps if the rates are those of `config`.
      scales: a tree like the trained parameters.
    """
    rates = rates if isinstance(rates, Rates) else Rates.of(config, rates)
    optimizer = optax.chain(
        _direction(config.name, config.own),
        optax.add_decayed_weights(rates.weight_decay, decay_mask),
        *([by_layer(optax.scale_by_trust_ratio())] if config.name == "lamb" else []),
        guarded(optax.scale_by_learning_rate(make_schedule(config, rates))),
    )
    clip = [] if rates.clip_norm is None else [clip_by_global_norm(rates.clip_norm)]
    multiply = [] if scales is None else [multiply_by(scales)]
    return optax.chain(*clip, optimizer, *multiply) if clip or multiply else optimizer


def _direction(name: str, own: dict[str, Any]) -> optax.GradientTransformation:
    """Return an optimizer without weight decay and learning rate."""
    if name == "lion":
        return guarded(optax.scale_by_lion(own["b1"], own["b2"]))
    if name == "sgd":
        return guarded(optax.trace(own["momentum"], own["nesterov"])) if own["momentum"] else optax.identity()
    if name == "muon":
        return guarded(scale_by_muon(own))
    if name == "adafactor":
        relative = [by_layer(optax.scale_by_param_block_rms())] if own["parameter_scale"] else []
        return optax.chain(
            guarded(scale_by_factored_rms(own["eps"])), by_layer(optax.clip_by_block_rms(1.0)), *relative
        )
    return scale_by_adam(own["b1"], own["b2"], own["eps"])


def guarded(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return `tx` with an `update` that also takes `finite`; if that is false, the state stays the same, bit for bit.

    The updates of a step that is not `finite` may have any values.
    """
    inner = optax.with_extra_args_support(tx)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        finite: Array | bool = True,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, new = inner.update(updates, state, params, **extra)
        return updates, jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def finite_steps(opt_state: optax.OptState) -> Array:
    """Return the number of finite steps that the schedule has counted."""
    kind = optax.ScaleByScheduleState
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kind))
    return next(jnp.asarray(part.count) for part in parts if isinstance(part, kind))


def _is_stacked(path: tuple[Any, ...]) -> bool:
    return layer_axis(tuple(part.key for part in path)) is not None


def by_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return `tx`, which has no state, applied to each tensor separately and to each layer of a stack separately."""

    def alone(update: Array, param: Array) -> Array:
        return tx.update(update, optax.EmptyState(), param)[0]

    def update(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> tuple:
        def of(path: tuple[Any, ...], update: Array, param: Array) -> Array:
            return (jax.vmap(alone) if _is_stacked(path) else alone)(update, param)

        return jax.tree.map_with_path(of, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_factored_rms(eps: float) -> optax.GradientTransformation:
    """Return optax's Adafactor scaling: a matrix of 128 x 128 or more has only row and column statistics.

    The axis of the layers does not make a matrix: each layer has its own statistics, and a stack of vectors is no matrix.
    """
    inner = optax.scale_by_factored_rms(epsilon=eps)

    def mapped(fn: Callable, path: tuple[Any, ...], in_axes: Any, out_axes: Any) -> Callable:
        return jax.vmap(fn, in_axes, out_axes) if _is_stacked(path) else fn

    def gather(count: Any, structure: Any, states: list[optax.FactoredState]) -> optax.FactoredState:
        columns = zip(*((state.v_row, state.v_col, state.v) for state in states), strict=True)
        return optax.FactoredState(count, *(jax.tree.unflatten(structure, column) for column in columns))

    def init(params: optax.Params) -> optax.FactoredState:
        leaves, structure = jax.tree.flatten_with_path(params)
        states = [mapped(inner.init, path, 0, _FACTORED)(leaf) for path, leaf in leaves]
        return gather(jnp.zeros((), jnp.int32), structure, states)

    def update(updates: optax.Updates, state: optax.FactoredState, params: optax.Params | None = None) -> tuple:
        leaves, structure = jax.tree.flatten_with_path(updates)
        kept = zip(*map(jax.tree.leaves, (state.v_row, state.v_col, state.v, params)), strict=True)
        results = [
            mapped(inner.update, path, (0, _FACTORED, 0), (0, _FACTORED))(
                leaf, optax.FactoredState(state.count, row, column, whole), param
            )
            for (path, leaf), (row, column, whole, param) in zip(leaves, kept, strict=True)
        ]
        scaled = jax.tree.unflatten(structure, [scaled for scaled, _ in results])
        return scaled, gather(optax.safe_increment(state.count), structure, [new for _, new in results])

    return optax.GradientTransformation(init, update)


def scale_by_muon(own: dict[str, Any]) -> optax.GradientTransformation:
    """Return Muon for each layer's kernels and Adam for all other parameters, like `optax.contrib.muon`, without a rate."""

    def dimensions(kernels: optax.Params) -> Any:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(1, 2), kernels)

    def to_rms(updates: optax.Updates, _: optax.Params | None = None) -> optax.Updates:
        return jax.tree.map(lambda u: _MUON_RMS * math.sqrt(max(u.shape[1:])) * u, updates)

    def kinds(params: optax.Params) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: "muon" if _is_stacked(path) and path[-1].key == "kernel" else "adam", params
        )

    muon = optax.contrib.scale_by_muon(
        beta=own["momentum"], eps=own["eps"], nesterov=own["nesterov"], weight_dimension_numbers=dimensions
    )
    adam = optax.scale_by_adam(own["b1"], own["b2"], own["eps"], nesterov=own["nesterov"])
    return optax.partition({"muon": optax.chain(muon, optax.stateless(to_rms)), "adam": adam}, kinds)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Return optax's Adam without its learning rate, guarded against steps that are not finite.

    If the choice came after the update, old and new moments would both be in memory: XLA on CPU copies the old ones first
    and computes the new ones again where it computes the parameters (7% of a MiniLM step).
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        *,
        finite: Array | bool = True,
        **_: Any,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu = jax.tree.map(lambda m, g: jnp.where(finite, b1 * m + (1 - b1) * g, m), state.mu, updates)
        nu = jax.tree.map(lambda v, g: jnp.where(finite, b2 * v + (1 - b2) * g * g, v), state.nu, updates)
        count = optax.safe_increment(state.count)
        mu_scale, nu_scale = bias_correction(b1, count), bias_correction(b2, count)
        scaled = jax.tree.map(lambda m, v: mu_scale * m / (jnp.sqrt(nu_scale * v) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(jnp.where(finite, count, state.count), mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def bias_correction(decay: float, count: Array) -> Array | float:
    """Return 1 / (1 - decay^count); in float32 the difference would keep only four digits in the first steps."""
    return -1 / jnp.expm1(count * math.log(decay)) if decay else 1.0


def multiply_by(scales: Params) -> optax.GradientTransformation:
    """Multiply each update, decay included, by its scale, like the learning rate of a parameter group in PyTorch."""

    def update(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> tuple:
        return jax.tree.map(lambda u, scale: u * scale, updates, scales), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def clip_by_global_norm(max_norm: float | Array) -> optax.GradientTransformation:
    """Scale all gradients down so that their global norm is at most `max_norm`.

    It does the same as optax's, but multiplies by one factor: XLA does not fuse a division of every entry into AdamW's
    three uses of the gradient, which costs one more pass over all parameters (6% of a MiniLM step on CPU).
    """

    def update(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> tuple:
        factor = jnp.minimum(1.0, max_norm / optax.tree.norm(updates))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


@dataclass(frozen=True)
class Backward:
    """The share of a complete backward pass that a step needs."""

    layers: float = 1.0
    """The share of the layers that a gradient passes through."""
    kernels: float = 1.0
    """The share of the layers' kernels that have a gradient of their own."""


@dataclass(frozen=True)
class Trainable:
    """The trainable part of a tree of parameters.

    As a tree of its own it holds the trainable leaves; of a stacked leaf it holds the trained layers.
    """

    abstract_params: Params
    layers: Mapping[Path, tuple[int, ...] | None]
    """The trained layers of each trainable leaf; None for the whole leaf. All other leaves are frozen."""

    @property
    def everything(self) -> bool:
        """Whether no parameter is frozen."""
        whole = len(self.layers) == len(traverse_util.flatten_dict(self.abstract_params))
        return whole and all(rows is None for rows in self.layers.values())

    def select(self, params: Params) -> Params:
        """Return the trainable part of `params`."""
        if self.everything:
            return params
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict(
            {path: flat[path] if rows is None else flat[path][_index(rows)] for path, rows in self.layers.items()}
        )

    def combine(self, params: Params, part: Params) -> Params:
        """Return `params` with their trainable part replaced by `part`."""
        if self.everything:
            return part
        flat = traverse_util.flatten_dict(params)
        for path, leaf in traverse_util.flatten_dict(part).items():
            rows = self.layers[path]
            flat[path] = leaf if rows is None else flat[path].at[_index(rows)].set(leaf)
        return traverse_util.unflatten_dict(flat)

    @property
    def embeddings(self) -> Path:
        """The path of the embeddings."""
        family = family_of_names(self.abstract_params)
        return family.prefix, family.embeddings

    @property
    def frozen_layers(self) -> int:
        """The number of lowest layers without a trained parameter, if other layers of the stack have one."""
        stacked = [rows for path, rows in self.layers.items() if layer_axis(path) is not None]
        return min((0 if rows is None else rows[0] for rows in stacked), default=0)

    def count(self, belongs: Callable[[Path], bool] = lambda path: True) -> int:
        """Return the number of trained values in the leaves that `belongs` selects."""
        part = traverse_util.flatten_dict(jax.eval_shape(self.select, self.abstract_params))
        return sum(leaf.size for path, leaf in part.items() if belongs(path))

    @property
    def backward(self) -> Backward:
        """The share of the backward pass through the layers that is needed."""
        if self.everything:
            return Backward()

        def is_kernel(path: Path) -> bool:
            return layer_axis(path) is not None and path[-1] == "kernel"

        flat = traverse_util.flatten_dict(self.abstract_params)
        kernels = {path: leaf for path, leaf in flat.items() if is_kernel(path)}
        number = next(leaf.shape[0] for leaf in kernels.values())
        trained = self.count(is_kernel) / sum(leaf.size for leaf in kernels.values())
        if any(path[:2] == self.embeddings for path in self.layers):
            return Backward(1.0, trained)
        stacked = any(layer_axis(path) is not None for path in self.layers)
        return Backward((number - self.frozen_layers) / number if stacked else 0.0, trained)


def _index(rows: tuple[int, ...]) -> Any:
    """Return a slice if the rows are consecutive, else the rows."""
    return slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else np.array(rows)


def _named(path: Path, leaf: Any) -> Iterator[tuple[str, int | None]]:
    """Yield the name of a leaf; of a stacked leaf, the name and number of each layer."""
    at = layer_axis(path)
    if at is None:
        yield "/".join(path), None
        return
    for layer in range(leaf.shape[0]):
        yield "/".join((*path[:at], str(layer), *path[at:])), layer


def choose_trainable(config: OptimizerConfig, abstract_params: Params) -> Trainable:
    """Choose the trainable parameters by `freeze` and `train_only`.

    Raises:
      UserError: for an expression that matches no parameter, or if no parameter is left.
    """
    patterns = [*(config.freeze or ()), *([_below_head(abstract_params)] if config.train_only == "head" else ())]
    flat = traverse_util.flatten_dict(abstract_params)
    names = [name for path, leaf in flat.items() for name, _ in _named(path, leaf)]
    for pattern in config.freeze or ():
        if not any(re.search(pattern, name) for name in names):
            raise UserError(
                f"optimizer.freeze: {pattern!r} matches no parameter; the nearest is {_nearest(pattern, names)}"
            )
    layers: dict[Path, tuple[int, ...] | None] = {}
    for path, leaf in flat.items():
        kept = [layer for name, layer in _named(path, leaf) if not any(re.search(p, name) for p in patterns)]
        if kept:
            rows = tuple(layer for layer in kept if layer is not None)
            layers[path] = rows if rows and len(rows) < leaf.shape[0] else None
    if not layers:
        those = "optimizer.freeze and optimizer.train_only leave" if config.train_only else "optimizer.freeze leaves"
        raise UserError(f"{those} nothing to train: name fewer parameters")
    return Trainable(abstract_params, layers)


def _below_head(abstract_params: Params) -> str:
    """Return a pattern for all but the head. The pooler counts as head: a checkpoint may lack it and only tasks use it."""
    family = family_of_names(abstract_params)
    return f"^{family.prefix}/({'|'.join(family.below_heads)})/"


def _nearest(pattern: str, names: list[str]) -> str:
    """Return the name, or the beginning of a name up to a slash, that is most similar to an expression."""
    parts = (name.split("/") for name in names)
    known = {"/".join(words[:end]) for words in parts for end in range(1, len(words) + 1)}
    return difflib.get_close_matches(pattern.strip("^$/"), sorted(known), n=1, cutoff=0.0)[0]


def layer_lr_scales(factors: Any, trainable: Trainable) -> Params:
    """Return the learning-rate scale of each trained leaf, in a shape that broadcasts against it.

    Args:
      factors: the factors [N + 2] of the head, of each of N layers from the last one on, and of the embeddings; with
        `layer_decay` D they are 1, D, ..., D**(N + 1), as in BEiT.
      trainable: the trained leaves.
    """
    flat = traverse_util.flatten_dict(trainable.abstract_params)
    number = len(factors) - 2

    def scale(path: Path, rows: tuple[int, ...] | None) -> Any:
        if layer_axis(path) is not None:
            places = number - np.array(range(number) if rows is None else rows)
            return factors[places].reshape(-1, *[1] * (len(flat[path].shape) - 1))
        return factors[number + 1] if path[:2] == trainable.embeddings else factors[0]

    return traverse_util.unflatten_dict({path: scale(path, rows) for path, rows in trainable.layers.items()})
