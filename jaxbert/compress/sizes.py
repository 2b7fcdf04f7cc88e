"""The sizes of a model that pruning changes, and the cut of arrays from one size to a smaller one.

Layers are one stack, so every layer keeps the same number of heads and columns, though not the same ones. A configuration
has no width of a head: it is the model's width divided by the number of heads. So H heads of width W become fewer heads that
are wider, with zeros where the removed ones were; queries are multiplied by the square root of the ratio of the widths, by
which attention divides. The zeros stay zeros in training: each is multiplied by another one before it is used. The result is
a plain model that computes the same, with the logits of fewer heads but products as large as before.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array
from transformers import BertConfig

from jaxbert.config import Pruning
from jaxbert.errors import UserError
from jaxbert.interop.names import Path, layer_axis
from jaxbert.models.functional import Params

COLUMNS_OUT = ("output", "dense", "kernel")
"""In a layer, the kernel [F, D] with a row for each column of the feed-forward block."""
HEADS_OUT = ("attention", "output", "dense", "kernel")
"""In a layer, the kernel [D, D] with W rows for each head."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that pruning changes, by their names in a configuration."""

    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int

    @classmethod
    def of(cls, config: BertConfig) -> Self:
        """Read the sizes of a model."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    def applied(self, config: BertConfig) -> BertConfig:
        """Return a copy of a configuration with these sizes."""
        changed = copy.deepcopy(config)
        for name, value in dataclasses.asdict(self).items():
            setattr(changed, name, value)
        return changed

    def towards(self, target: Sizes, changes: int, width: int) -> Sizes:
        """Return the sizes after the next of so many equal changes that end with `target`.

        The number of heads is rounded up to one that divides the model's `width`.
        """
        there = dataclasses.asdict(target)
        own = dataclasses.asdict(self)
        after = {name: size - round((size - there[name]) / changes) for name, size in own.items()}
        heads = after["num_attention_heads"]
        after["num_attention_heads"] = next(h for h in range(heads, own["num_attention_heads"] + 1) if width % h == 0)
        return Sizes(**after)


def target_sizes(pruning: Pruning, config: BertConfig) -> Sizes:
    """Return the sizes that `train.prune` asks for, of a model with this configuration.

    Raises:
      UserError: for more than the model has, or a number of heads that does not divide its width.
    """
    whole, width = Sizes.of(config), config.hidden_size
    heads = pruning.kept("heads", whole.num_attention_heads)
    fitting = [count for count in range(1, whole.num_attention_heads + 1) if width % count == 0]
    if pruning.heads is not None and pruning.heads < 1:
        heads = next(count for count in fitting if count >= heads)
    if heads not in fitting:
        raise UserError(
            f"train.prune: heads is {heads}, but it must divide the model's width of {width}: take one of "
            f"{', '.join(map(str, fitting))}"
        )
    return Sizes(
        num_hidden_layers=pruning.kept("layers", whole.num_hidden_layers),
        num_attention_heads=heads,
        intermediate_size=pruning.kept("intermediate", whole.intermediate_size),
    )


@dataclass(frozen=True, eq=False)
class Remnant:
    """What is left of a model: indices into its layers, and for each of these into its heads and columns, all rising."""

    layers: np.ndarray
    """[n]"""
    heads: np.ndarray
    """[n, H]"""
    columns: np.ndarray
    """[n, F]"""
    head_width: int
    """The width of a head before the cut."""

    def params(self, params: Params) -> Params:
        """Return the parameters that are left; traceable."""
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict({path: self.leaf(path, leaf, of="params") for path, leaf in flat.items()})

    def leaf(self, path: Path, leaf: Any, *, of: str = "state") -> Any:
        """Return what is left of a parameter or, with `of` "state", of an optimizer's statistics in its shape."""
        at = layer_axis(path)
        if at is None:
            return leaf
        leaf, part = leaf[self.layers], path[at:]
        if part[:2] == ("intermediate", "dense"):
            return self._columns(leaf, leaf.ndim - 1)
        if part == COLUMNS_OUT:
            return self._columns(leaf, 1)
        if part == HEADS_OUT:
            return self._heads(leaf, 1, 1.0)
        if part[:2] == ("attention", "self"):
            own_heads = leaf.shape[-1] // self.head_width
            wider = (own_heads / self.heads.shape[1]) ** 0.5 if part[2] == "query" and of == "params" else 1.0
            return self._heads(leaf, leaf.ndim - 1, wider)
        return leaf

    def _columns(self, leaf: Array, axis: int) -> Array:
        index = self.columns.reshape(len(self.layers), *[1] * (axis - 1), -1, *[1] * (leaf.ndim - 1 - axis))
        return jnp.take_along_axis(leaf, jnp.asarray(index), axis=axis)

    def _heads(self, leaf: Array, axis: int, factor: float) -> Array:
        """Keep the heads along an axis of H * W, and fill them with zeros up to their new width."""
        shape, count = leaf.shape, self.heads.shape[1]
        if shape[axis] == count * self.head_width:
            return leaf
        apart = leaf.reshape(*shape[:axis], -1, self.head_width, *shape[axis + 1 :])
        index = self.heads.reshape(len(self.layers), *[1] * (axis - 1), count, *[1] * (apart.ndim - 1 - axis))
        kept = jnp.take_along_axis(apart, jnp.asarray(index), axis=axis) * factor
        more = [(0, 0)] * kept.ndim
        more[axis + 1] = (0, shape[axis] // count - self.head_width)
        return jnp.pad(kept, more).reshape(shape)
