"""The trainable parameters and the scales of their learning rates, chosen by name, layer by layer.

Names are those of the sharding table, with the number of the layer, such as `bert/encoder/layer/3/output/dense/kernel`,
although one array holds all layers. The step and the optimizer see only the trainable part: a frozen parameter has no
gradient, no moments and no decay, and keeps its bits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxbert.config import OptimizerConfig
from jaxbert.errors import UserError
from jaxbert.interop.names import Path, layer_axis
from jaxbert.models.families import family_of_names
from jaxbert.models.functional import Params


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
