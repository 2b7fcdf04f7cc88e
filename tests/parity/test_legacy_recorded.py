"""The outputs that the legacy classes recorded, on every position that is not padding."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util

import jaxbert

pytestmark = pytest.mark.real

CLASSES = (
    "FlaxBertModel",
    "FlaxBertForSequenceClassification",
    "FlaxBertForTokenClassification",
    "FlaxBertForMaskedLM",
)


@pytest.fixture(scope="module", params=CLASSES)
def folder(request, shared_data):
    return shared_data / "legacy_flax" / request.param


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


def by_row_and_token(name, x):
    """Bring an attention's query axis to where all other arrays have their tokens."""
    return np.moveaxis(np.asarray(x), 1, 2) if name.startswith("attentions") else np.asarray(x)


def test_every_output(out, recorded):
    names = {name.removeprefix("out_") for name in recorded if name.startswith("out_")}
    found = {}
    for name, value in out.items():
        found |= {f"{name}_{i}": x for i, x in enumerate(value)} if isinstance(value, tuple) else {name: value}
    assert found.keys() == names
    shown = recorded["attention_mask"] == 1
    for name in names:
        ours, theirs = (by_row_and_token(name, x) for x in (found[name], recorded[f"out_{name}"]))
        assert ours.shape == theirs.shape, name
        chosen = shown if ours.ndim > 2 else ...
        np.testing.assert_allclose(ours[chosen], theirs[chosen], atol=1e-5, rtol=0, err_msg=name)


def test_the_tree_is_that_of_the_file(folder, model):
    tree = serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes())
    expected = traverse_util.flatten_dict(tree)
    found = traverse_util.flatten_dict(jax.device_get(model.params))
    assert found.keys() == expected.keys()
    for path, tensor in expected.items():
        np.testing.assert_array_equal(found[path], tensor, err_msg="/".join(path))
