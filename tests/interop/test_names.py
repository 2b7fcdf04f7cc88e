"""Names and layouts are bijections, and the round trips are exact."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import traverse_util
from tiny import assert_same_tensors, random_params, tiny_model

from jaxbert.interop import names


@pytest.fixture
def params():
    return random_params(tiny_model(num_hidden_layers=11))


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_torch_names_are_a_bijection(params):
    paths = list(traverse_util.flatten_dict(names.unstack_layers(params)))
    torch_names = [names.torch_name(path) for path in paths]
    assert len(set(torch_names)) == len(paths)
    assert [names.flax_path(name) for name in torch_names] == paths


def test_known_names():
    assert names.torch_name(("bert", "embeddings", "LayerNorm", "scale")) == "bert.embeddings.LayerNorm.weight"
    assert names.flax_path("bert.embeddings.word_embeddings.weight")[-1] == "embedding"
    assert names.flax_path("bert.encoder.layer.10.attention.self.query.weight") == (
        "bert", "encoder", "layer", "10", "attention", "self", "query", "kernel"
    )  # fmt: skip
    assert names.flax_path("cls.predictions.bias") == ("cls", "predictions", "bias")


def test_round_trip_through_torch_is_exact(params):
    assert_same_tensors(flat(names.from_torch(names.to_torch(params))), flat(params))


def test_round_trip_through_layers_is_exact_and_in_order(params):
    layers = names.unstack_layers(params)
    kernel = params["bert"]["encoder"]["layer"]["output"]["dense"]["kernel"]
    np.testing.assert_array_equal(layers["bert"]["encoder"]["layer"]["10"]["output"]["dense"]["kernel"], kernel[10])
    assert_same_tensors(flat(names.stack_layers(layers)), flat(params))


def test_kernels_are_transposed(params):
    tensor = names.to_torch(params)["bert.encoder.layer.2.intermediate.dense.weight"]
    np.testing.assert_array_equal(tensor, params["bert"]["encoder"]["layer"]["intermediate"]["dense"]["kernel"][2].T)


def test_a_tree_without_the_prefix_is_stacked_as_well(params):
    layers = names.unstack_layers(params["bert"])
    assert "10" in layers["encoder"]["layer"]
    assert_same_tensors(flat(names.stack_layers(layers)), flat(params["bert"]))


def test_layers_stack_inside_jit(params):
    stacked = jax.jit(names.stack_layers)(names.unstack_layers(params))
    assert_same_tensors(jax.tree.map(np.asarray, flat(stacked)), flat(params))


def test_a_gap_in_the_layers_is_an_error(params):
    layers = names.unstack_layers(params)
    del layers["bert"]["encoder"]["layer"]["4"]["output"]["dense"]["bias"]
    with pytest.raises(ValueError, match="output/dense/bias"):
        names.stack_layers(layers)
