"""Weights of words equal captum's, with the same parameters, baseline and steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import LABELS, random_rows, write_model

import jaxbert

torch = pytest.importorskip("torch")
attr = pytest.importorskip("captum.attr")

TEXTS = [text for text, _ in random_rows(4, seed=7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("captum"))


@pytest.fixture(scope="module")
def ours(folder) -> jaxbert.Model:
    return jaxbert.load(folder)


@pytest.fixture(scope="module")
def theirs(folder) -> tuple[Any, Any]:
    """The model and the tokenizer in PyTorch."""
    from transformers import BertForSequenceClassification, BertTokenizer

    model = BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    return model, BertTokenizer.from_pretrained(folder)


def value_of(model: Any, label: int, unit: str) -> Callable[..., Any]:
    """Return the function of token ids, or of word embeddings, that is explained."""

    def value(ids: Any = None, vectors: Any = None) -> Any:
        logits = model(input_ids=ids, inputs_embeds=vectors).logits
        if unit == "probability":
            return logits.softmax(-1)[:, label]
        return logits[:, label] - logits[:, 1 - label]  # the log-odds of two labels

    return value


@pytest.mark.parametrize(("unit", "baseline"), [("log_odds", "pad"), ("probability", "mask")])
def test_integrated_gradients(ours, theirs, unit, baseline):
    model, tokenizer = theirs
    gradients = attr.LayerIntegratedGradients(value_of(model, 1, unit), model.bert.embeddings.word_embeddings)
    stand_in = {"pad": tokenizer.pad_token_id, "mask": tokenizer.mask_token_id}[baseline]
    options = {"label": LABELS[1], "steps": 12, "baseline": baseline, "unit": unit}
    for text, found in zip(TEXTS, ours.explain(TEXTS, **options), strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        reference = torch.full_like(ids, stand_in)
        reference[:, [0, -1]] = ids[:, [0, -1]]
        expected = gradients.attribute(ids, baselines=reference, n_steps=12, method="gausslegendre").sum(-1)
        assert_same_weights(found, expected[0, 1:-1])


def test_gradient_times_input(ours, theirs):
    model, tokenizer = theirs
    value = value_of(model, 1, "log_odds")
    times = attr.InputXGradient(lambda vectors: value(vectors=vectors))
    for text, found in zip(TEXTS, ours.explain(TEXTS, label=LABELS[1], method="gradient_x_input"), strict=True):
        vectors = model.bert.embeddings.word_embeddings(tokenizer(text, return_tensors="pt")["input_ids"])
        assert_same_weights(found, times.attribute(vectors.detach().requires_grad_()).sum(-1)[0, 1:-1])


def assert_same_weights(found: dict[str, Any], expected: Any) -> None:
    weights = np.array([word["weight"] for word in found["words"]])
    expected = expected.detach().numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(weights, expected, atol=1e-4, rtol=0)
