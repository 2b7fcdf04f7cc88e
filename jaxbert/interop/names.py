"""Convert between our parameter tree, PyTorch's tensor names and the legacy per-layer Flax tree by mechanical rules.

These are three forms of the same numbers, each a bijection with the others:

- stacked, our own: nested dictionaries, all layers in one array with a leading axis N under `.../encoder/layer`.
- per-layer, of the legacy Flax classes: the same names with `.../encoder/layer/0`, `/1`, ... in between.
- PyTorch: flat, dotted, per-layer; a `kernel` is a `weight` transposed, `scale` and `embedding` are a `weight`.

The decoder of masked words is tied to the word embeddings: files hold these weights once, twice or under either name, and
PyTorch's modules have each tensor of the pair under two names. The model's family names the parts of a model. `read` reads
files, and `load` decides whether a checkpoint fits a model.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.interop.formats import Tensors
from jaxbert.models.families import FAMILIES, family_of
from jaxbert.models.families.base import Family

Tree = dict[str, Any]
Path = tuple[str, ...]

_WEIGHTS = ("kernel", "scale", "embedding")


def layer_axis(path: Path) -> int | None:
    """Return the position of the layer's index in `path`, or None for a tensor outside the layers."""
    for family in FAMILIES.values():
        depth = len(family.layers)
        for i in range(len(path) - depth + 1):
            if path[i : i + depth] == family.layers:
                return i + depth
    return None


def torch_name(path: Path) -> str:
    """Return the PyTorch name of a tensor of the per-layer tree."""
    leaf = "weight" if path[-1] in _WEIGHTS else path[-1]
    return ".".join((*path[:-1], leaf))


def flax_path(name: str) -> Path:
    """Return the path in the per-layer tree of a PyTorch tensor; the inverse of `torch_name`."""
    *parents, leaf = name.split(".")
    if leaf == "weight" and parents:
        if any(parents[-1] in family.norms for family in FAMILIES.values()):
            leaf = "scale"
        elif parents[-1].endswith(tuple(family.tables for family in FAMILIES.values())):
            leaf = "embedding"
        else:
            leaf = "kernel"
    return (*parents, leaf)


def unstack_layers(params: Mapping[str, Any]) -> Tree:
    """Turn the stacked tree into the per-layer one; NumPy leaves become views, JAX leaves slices (traceable)."""
    flat: dict[Path, Any] = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        at = layer_axis(path)
        if at is None:
            flat[path] = leaf
            continue
        for i in range(leaf.shape[0]):
            flat[(*path[:at], str(i), *path[at:])] = (
                jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf[i]
            )
    return traverse_util.unflatten_dict(flat)


def stack_layers(tree: Mapping[str, Any]) -> Tree:
    """Turn the per-layer tree into the stacked one; the inverse of `unstack_layers` (traceable).

    Raises:
      ValueError: if the layers are not numbered 0 to N-1 or do not hold the same tensors.
    """
    flat: dict[Path, Any] = {}
    stacks: dict[Path, dict[str, Any]] = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        at = layer_axis(path)
        if at is None:
            flat[path] = leaf
        else:
            stacks.setdefault(path[:at] + path[at + 1 :], {})[path[at]] = leaf
    layers = {index for stack in stacks.values() for index in stack}
    for path, stack in stacks.items():
        if stack.keys() != {str(i) for i in range(len(layers))}:
            raise ValueError(f"the layers of {'/'.join(path)} are {sorted(stack)}, not 0 to {len(layers) - 1}")
        ordered = [stack[str(i)] for i in range(len(layers))]
        host = all(isinstance(leaf, np.ndarray) for leaf in ordered)
        flat[path] = np.stack(ordered) if host else jnp.stack(ordered)
    return traverse_util.unflatten_dict(flat)


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turn the stacked tree into PyTorch's flat dictionary on the host."""
    return layers_to_torch(unstack_layers(jax.device_get(params)))


def layers_to_torch(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turn the per-layer tree, or a part of it, into PyTorch's flat dictionary on the host."""
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(jax.device_get(tree)).items()}
    return {torch_name(path): leaf.T if path[-1] == "kernel" else leaf for path, leaf in flat.items()}


def from_torch(tensors: Mapping[str, np.ndarray]) -> Tree:
    """Turn PyTorch's flat dictionary into the stacked tree; the inverse of `to_torch`."""
    return stack_layers(layers_from_torch(tensors))


def layers_from_torch(tensors: Mapping[str, np.ndarray]) -> Tree:
    """Turn PyTorch's flat dictionary into the per-layer tree; the inverse of `layers_to_torch`."""
    flat = {}
    for name, tensor in tensors.items():
        path = flax_path(name)
        flat[path] = tensor.T if path[-1] == "kernel" else tensor
    return traverse_util.unflatten_dict(flat)


def join_tied(tensors: Tensors, expected: Container[str], config: BertConfig, source: str) -> Tensors:
    """Return the tensors with one copy of tied weights, under the name that a model with these tensors uses.

    Raises:
      UserError: if the configuration ties two tables that differ.
    """
    family, tensors = family_of(config), dict(tensors)
    words, decoder = f"{family.prefix}.{family.word_embeddings}", f"{family.word_scores}.decoder.weight"
    bias, decoder_bias = f"{family.word_scores}.bias", f"{family.word_scores}.decoder.bias"
    tied = getattr(config, "tie_word_embeddings", True)
    if tied and decoder in tensors:
        tensors.setdefault(words, tensors[decoder])
    if bias not in expected:
        return tensors
    if decoder_bias in tensors:  # if both exist and differ, PyTorch adds this one
        tensors[bias] = tensors.pop(decoder_bias)
    if tied and decoder in tensors and not np.array_equal(tensors.pop(decoder), tensors[words]):
        raise UserError(
            f"{source} holds {decoder} and other word embeddings, but its configuration ties the two: "
            "set tie_word_embeddings to false in config.json"
        )
    return tensors


def add_untied_copies(tensors: Tensors, family: Family) -> Tensors:
    """Add the bias of an untied decoder under the second name that PyTorch reads."""
    scores = family.word_scores
    untied = f"{scores}.decoder.weight" in tensors
    return tensors | {f"{scores}.decoder.bias": tensors[f"{scores}.bias"]} if untied else tensors
