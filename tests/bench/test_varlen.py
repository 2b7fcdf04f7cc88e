"""The unpadded PyTorch peer computes what transformers' padded model computes, so that comparing its speed is fair."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from tiny import tiny_config
from transformers import BertForSequenceClassification
from unpadded import Unpadded, add_grid, flash_attention, pack, padded_attention
from varlen import Feed

LENGTHS = (5, 1, 17, 9)


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def examples() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 120, length).tolist() for length in LENGTHS]


def padded_logits(model, examples):
    longest = max(map(len, examples))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in examples])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in examples])
    return model(input_ids=ids, attention_mask=mask).logits


def unpadded_logits(model, examples, **shape):
    packed = add_grid(pack(examples, longest=max(map(len, examples)), **shape))
    return Unpadded(model, padded_attention, longest=0, attention_dropout=0.1).eval()(packed, len(examples))


def test_examples_lie_behind_one_another():
    packed = pack([[7, 8, 9], [5]], longest=3, capacity=8, fill_segments=3)
    assert packed["input_ids"].tolist() == [[7, 8, 9, 5, 0, 0, 0, 0]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1, 2, 0]]
    assert packed["starts"].tolist() == [0, 3, 4, 7, 8, 8]
    with pytest.raises(ValueError, match="do not fill"):
        pack([[7]], longest=3, capacity=8, fill_segments=2)


@pytest.mark.parametrize("shape", [{}, {"capacity": 48, "fill_segments": 3}], ids=["as long as it is", "filled up"])
def test_logits_are_those_of_the_padded_model(model, examples, shape):
    found, expected = unpadded_logits(model, examples, **shape), padded_logits(model, examples)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_padded_model(model, examples):
    labels = torch.tensor([0, 2, 1, 1])
    gradients = []
    for logits_of in (padded_logits, lambda *a: unpadded_logits(*a, capacity=48, fill_segments=3)):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits_of(model, examples), labels).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    padded, unpadded = gradients
    assert padded.keys() == unpadded.keys()
    for name in padded:
        torch.testing.assert_close(
            unpadded[name], padded[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_flash_path_has_the_right_shapes(dropout):
    """The kernel needs a GPU; on the device `meta` PyTorch checks shapes, types and the gradient's formula alone."""
    tokens, heads, width = sum(LENGTHS), 4, 8
    q = torch.empty(tokens, heads, width, device="meta", dtype=torch.bfloat16, requires_grad=True)
    packed = {"starts": torch.empty(len(LENGTHS) + 1, dtype=torch.int32, device="meta")}
    mixed = flash_attention(q, q, q, packed, max(LENGTHS), dropout)
    assert (mixed.shape, mixed.dtype) == (q.shape, torch.bfloat16)
    mixed.float().sum().backward()
    assert q.grad.shape == q.shape


def feed_of(**options) -> Feed:
    rng = np.random.default_rng(0)
    examples = [{"input_ids": [i + 1] * int(n), "labels": i % 2} for i, n in enumerate(rng.integers(2, 12, 50))]
    values = {"batch_size": 8, "epochs": 2, "max_steps": None, "seed": 0, "compile": "none"} | options
    return Feed(Namespace(**values), examples, torch.device("cpu"), grid=True)


def test_an_epoch_sees_every_example_once_and_another_order_follows():
    seen = [packed["input_ids"][0, packed["starts"][:-1].long()].tolist() for packed, _, _ in feed_of()]
    assert len(seen) == 12
    first, second = np.concatenate(seen[:6]).tolist(), np.concatenate(seen[6:]).tolist()
    assert len(set(first)) == len(set(second)) == 48
    assert first != second


def test_one_shape_holds_every_step():
    feed = feed_of(compile="static")
    shapes = {tuple(packed["input_ids"].shape + packed["starts"].shape) for packed, _, _ in feed}
    assert len(shapes) == 1
    assert 0 < feed.filling < 0.7
    real = [(packed["input_ids"] > 0).sum() for packed, _, _ in feed]
    assert real == [tokens for _, _, tokens in feed]
    assert len({tuple(packed["input_ids"].shape) for packed, _, _ in feed_of()}) > 1
