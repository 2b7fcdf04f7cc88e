"""The outputs that the legacy classes recorded, at every position, padding too; scripts/bench/legacy_record.py made four."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util

import jaxbert

HERE = Path(__file__).resolve().parents[1] / "api" / "flax" / "recorded"
SHARED = (
    "FlaxBertModel",
    "FlaxBertForSequenceClassification",
    "FlaxBertForTokenClassification",
    "FlaxBertForMaskedLM",
)


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(name, marks=pytest.mark.real) for name in SHARED),
        *(p.name for p in sorted(HERE.iterdir())),
    ],
)
def folder(request):
    if request.param in SHARED:
        return request.getfixturevalue("shared_data") / "legacy_flax" / request.param
    return HERE / request.param


@pytest.fixture(scope="module")
def recorded(folder):
    return np.load(folder / "recorded.npz")


@pytest.fixture(scope="module")
def model(folder):
    return getattr(jaxbert, folder.name).from_pretrained(folder)


@pytest.fixture(scope="module")
def out(model, recorded):
    inputs = (recorded[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    return model(*inputs, output_hidden_states=True, output_attentions=True)


def test_every_class_is_recorded():
    recorded = {*SHARED, *(path.name for path in HERE.iterdir())}
    assert recorded == {name for name in jaxbert.__all__ if name.startswith("FlaxBert")} - {
        "FlaxBertPreTrainedModel",
        "FlaxBertForCausalLM",
    }


def test_every_output(out, recorded):
    names = {name.removeprefix("out_") for name in recorded if name.startswith("out_")}
    found = {}
    for name, value in out.items():
        found |= {f"{name}_{i}": x for i, x in enumerate(value)} if isinstance(value, tuple) else {name: value}
    assert found.keys() == names
    for name in names:
        ours, theirs = np.asarray(found[name]), recorded[f"out_{name}"]
        assert ours.shape == theirs.shape, name
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0, err_msg=name)


def test_the_tree_is_that_of_the_file(folder, model):
    tree = serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes())
    expected = traverse_util.flatten_dict(tree)
    found = traverse_util.flatten_dict(jax.device_get(model.params))
    assert found.keys() == expected.keys()
    for path, tensor in expected.items():
        np.testing.assert_array_equal(found[path], tensor, err_msg="/".join(path))
