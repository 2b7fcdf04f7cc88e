"""The outputs that the legacy class recorded, on every position that is not padding."""

from __future__ import annotations

import numpy as np
import pytest

from jaxbert import FlaxBertForSequenceClassification

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "legacy_flax" / "FlaxBertForSequenceClassification"


@pytest.fixture(scope="module")
def recorded(folder):
    return np.load(folder / "recorded.npz")


@pytest.fixture(scope="module")
def out(folder, recorded):
    model = FlaxBertForSequenceClassification.from_pretrained(folder)
    inputs = (recorded[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    return model(*inputs, output_hidden_states=True, output_attentions=True)


def test_logits(out, recorded):
    np.testing.assert_allclose(out.logits, recorded["out_logits"], atol=1e-5, rtol=0)


def test_hidden_states(out, recorded):
    shown = recorded["attention_mask"] == 1
    assert len(out.hidden_states) == sum(name.startswith("out_hidden_states") for name in recorded)
    for i, found in enumerate(out.hidden_states):
        expected = recorded[f"out_hidden_states_{i}"]
        np.testing.assert_allclose(np.asarray(found)[shown], expected[shown], atol=1e-5, rtol=0)


def test_attentions(out, recorded):
    shown = recorded["attention_mask"] == 1
    assert len(out.attentions) == sum(name.startswith("out_attentions") for name in recorded)
    for i, found in enumerate(out.attentions):
        by_token, expected = (np.moveaxis(np.asarray(x), 1, 2) for x in (found, recorded[f"out_attentions_{i}"]))
        np.testing.assert_allclose(by_token[shown], expected[shown], atol=1e-5, rtol=0)
