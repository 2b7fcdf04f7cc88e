"""A layer that takes the mean of a segment's vectors, made of an ordinary encoder layer, so that every program reads it.

Its queries and keys are zero: a token then attends to all tokens of its own segment alike, and to no padding. Values and
output are the identity, the output `_AMPLIFIED` times, so that the residual, a token's own vector, does not count; LayerNorm
scales the sum back. The feed-forward block is zero. A pooler behind it is close to the identity. So the first token carries

    LayerNorm(mean of the vectors of its segment)

and a classifier on it is a plain sequence classifier with one layer more: PyTorch, ONNX graphs and packed rows need nothing
new. The mean is that of sentence-transformers, over all tokens with [CLS] and [SEP].
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from flax import traverse_util
from transformers import BertConfig

from jaxbert.models.families import family_of
from jaxbert.models.functional import Params

MEAN_LAYER = "mean_layer"
"""The key of an export's settings that says that the last layer takes the mean."""
_AMPLIFIED = 1024.0
"""A power of two, exact in every number format; a hundred times a mean of size 1 is still finite in float16."""
_POOLED = 0.125
"""The factor of the pooler, whose tanh is then nearly linear for the values of a LayerNorm."""


def one_layer_more(config: BertConfig, layers: int = 1) -> BertConfig:
    """Return a copy of a model's configuration with one layer more, or with `layers` more (-1: one less)."""
    changed = copy.deepcopy(config)
    changed.num_hidden_layers += layers
    return changed


def with_mean_layer(params: Params, config: BertConfig) -> Params:
    """Return a sequence classifier's parameters with the layer of the mean behind the others, NumPy arrays.

    Args:
      params: the stacked tree of a model with N layers.
      config: the model's configuration.
    """
    family, whole = family_of(config), {}
    stack, pooler = (family.prefix, *family.layers), (family.prefix, family.pooler)
    for path, leaf in traverse_util.flatten_dict(params).items():
        array = np.asarray(leaf)
        if path[: len(stack)] == stack:
            array = np.concatenate([array, _of_mean(path[len(stack) :], array)[None]])
        elif path[:2] == pooler:
            array = _POOLED * np.eye(len(array), dtype=array.dtype) if path[-1] == "kernel" else np.zeros_like(array)
        whole[path] = array
    return traverse_util.unflatten_dict(whole)


def _of_mean(path: tuple[str, ...], stacked: np.ndarray) -> Any:
    """Return a tensor of the layer, given its path in a layer and those of the other layers, [N, ...]."""
    shape, dtype = stacked.shape[1:], stacked.dtype
    if path[-1] == "scale":
        return np.ones(shape, dtype)
    scale = {"attention/self/value/kernel": 1.0, "attention/output/dense/kernel": _AMPLIFIED}.get("/".join(path))
    if scale is not None:
        return scale * np.eye(shape[0], dtype=dtype)
    return np.zeros(shape, dtype)
