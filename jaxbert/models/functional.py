"""A model as pure functions of a plain dictionary of arrays.

Code outside `models/` does not use modules: `make_model` builds one abstractly and returns its parameters' shapes and
`apply`; `init_params` draws its parameters. Parameters are nested dictionaries under Hugging Face's names, with all layers
in one stack with a leading axis N.
"""

from __future__ import annotations

import dataclasses
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
from jaxbert.models.layers import DropRates

Params = dict[str, Any]

_BASE = "base"
"""The attribute of every head that holds its encoder."""


@dataclass(frozen=True)
class FunctionalModel:
    """The pure view of a head: its parameters' shapes, and `apply`."""

    config: BertConfig
    head: type[nnx.Module]
    abstract_params: Params
    """`jax.ShapeDtypeStruct` leaves, float32."""
    apply: Callable[..., dict[str, Any]]
    """`(params, batch, key=None, call=ForwardOptions(), head_mask=None) -> outputs`; without a key there is no dropout."""


def make_model(head: type[nnx.Module], config: BertConfig, dtype: Any = jnp.float32) -> FunctionalModel:
    """Build the pure view of `head`; `dtype` is the dtype of the computation, parameters are float32."""
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
        if key is not None and call.drop_rates is None:
            call = dataclasses.replace(call, drop_rates=DropRates.of(config))
        own = {_BASE if name == family.prefix else name: part for name, part in params.items()}
        module = nnx.merge(graphdef, jax.tree.unflatten(treedef, jax.tree.leaves(own)))
        return module(batch, key, call, head_mask)

    return FunctionalModel(
        config, head, {family.prefix if name == _BASE else name: part for name, part in tree.items()}, apply
    )


def init_params(model: FunctionalModel, key: Array, shardings: Any = None) -> Params:
    """Draw new parameters in one compiled program: normal kernels and embeddings, zero biases, unit scales.

    Each tensor's key depends only on its own name, so a new classifier is the same whatever else is loaded.

    Args:
      model: the model of the parameters.
      key: a key on the devices of `shardings`.
      shardings: a tree like the parameters; each device draws only its own part. By default one device draws all.
    """
    flat = traverse_util.flatten_dict(model.abstract_params)
    shapes = tuple((path, leaf.shape, leaf.dtype.name) for path, leaf in flat.items())
    if shardings is None:
        return _draw_once(key, shapes, model.config.initializer_range)
    return jax.jit(_draw, static_argnums=(1, 2), out_shardings=shardings)(key, shapes, model.config.initializer_range)


def _draw(key: Array, shapes: tuple[tuple[tuple[str, ...], tuple[int, ...], str], ...], scale: float) -> Params:
    """Draw the tensors of these paths, shapes and dtypes; arguments are hashable, so that equal models share a program."""

    def draw(path: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> Array:
        if path[-1] == "bias":
            return jnp.zeros(shape, dtype)
        if path[-1] == "scale":
            return jnp.ones(shape, dtype)
        tensor_key = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        return scale * jax.random.normal(tensor_key, shape, dtype)

    return traverse_util.unflatten_dict({path: draw(path, shape, dtype) for path, shape, dtype in shapes})


_draw_once = jax.jit(_draw, static_argnums=(1, 2))
