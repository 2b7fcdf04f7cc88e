"""A model as pure functions of a plain dictionary of arrays.

Outside `models/` nobody sees a module: `make_model` builds one abstractly and returns its parameters' shapes, their
initializer and `apply`. Parameters are nested dictionaries under Hugging Face's names, all layers in one stack with a
leading axis N.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jax import Array
from transformers import BertConfig

from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.families import family_of

Params = dict[str, Any]

_BASE = "base"
"""The name that every head has for its encoder."""


@dataclass(frozen=True)
class FunctionalModel:
    """The pure view of a head: shapes, and `apply`."""

    config: BertConfig
    head: type[nnx.Module]
    abstract_params: Params
    """`jax.ShapeDtypeStruct` leaves, float32."""
    apply: Callable[..., dict[str, Any]]
    """`(params, batch, key=None, call=ForwardOptions(), head_mask=None) -> outputs`; without a key there is no dropout."""


def make_model(head: type[nnx.Module], config: BertConfig, dtype: Any = jnp.float32) -> FunctionalModel:
    """Build the pure view of `head`; `dtype` is the format of the computation, parameters are float32."""
    family, layers = family_of(config), config.num_hidden_layers
    stack = (_BASE, *family.layers)
    abstract = nnx.eval_shape(lambda: head(config, dtype, nnx.Rngs(0)))  # type: ignore[call-arg]
    graphdef, state = nnx.split(abstract)
    treedef = jax.tree.structure(state)
    shapes = {
        path: jax.ShapeDtypeStruct((layers, *leaf.shape) if path[: len(stack)] == stack else leaf.shape, jnp.float32)
        for path, leaf in traverse_util.flatten_dict(nnx.to_pure_dict(state)).items()
    }
    tree = traverse_util.unflatten_dict(shapes)

    def apply(
        params: Params,
        batch: dict[str, Array],
        key: Array | None = None,
        call: ForwardOptions = ForwardOptions(),  # noqa: B008 (frozen)
        head_mask: Array | None = None,
    ) -> dict[str, Any]:
        own = {_BASE if name == family.prefix else name: part for name, part in params.items()}
        module = nnx.merge(graphdef, jax.tree.unflatten(treedef, jax.tree.leaves(own)))
        return module(batch, key, call, head_mask)

    return FunctionalModel(
        config, head, {family.prefix if name == _BASE else name: part for name, part in tree.items()}, apply
    )


def init_params(model: FunctionalModel, key: Array, shardings: Any = None) -> Params:
    """Draw new parameters in one compiled program: normal kernels and embeddings, zero biases, unit scales.

    Each tensor's key depends on its own name alone, so a fresh classifier is the same whatever else is loaded.

    Args:
      model: whose parameters.
      key: a key that lies on the devices of `shardings`.
      shardings: a tree like the parameters; each device draws its own part and no other. Left out, one device draws all.
    """
    flat = traverse_util.flatten_dict(model.abstract_params)
    shapes = tuple((path, leaf.shape, leaf.dtype.name) for path, leaf in flat.items())
    if shardings is None:
        return _draw_once(key, shapes, model.config.initializer_range)
    return jax.jit(_draw, static_argnums=(1, 2), out_shardings=shardings)(key, shapes, model.config.initializer_range)


def _draw(key: Array, shapes: tuple[tuple[tuple[str, ...], tuple[int, ...], str], ...], scale: float) -> Params:
    """Draw the tensors of these paths, shapes and formats; hashable arguments, so that equal models share a program."""

    def draw(path: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> Array:
        if path[-1] == "bias":
            return jnp.zeros(shape, dtype)
        if path[-1] == "scale":
            return jnp.ones(shape, dtype)
        tensor_key = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        return scale * jax.random.normal(tensor_key, shape, dtype)

    return traverse_util.unflatten_dict({path: draw(path, shape, dtype) for path, shape, dtype in shapes})


_draw_once = jax.jit(_draw, static_argnums=(1, 2))
