"""The flattened peer computes what transformers' padded model computes: loss and every gradient."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import peer
import torch
from flattened import ATTENTION, FlatClassifier, FlatCollator, attend
from tiny import tiny_config
from transformers import BertForSequenceClassification
from unpadded import pack

LENGTHS = (5, 1, 17, 9)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return [{"input_ids": rng.integers(1, 120, n).tolist(), "labels": i % 3} for i, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    padded, flat = (kind(tiny_config()).eval() for kind in (BertForSequenceClassification, FlatClassifier))
    with torch.no_grad():
        for name, parameter in padded.named_parameters():
            parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.2)
    flat.load_state_dict(padded.state_dict())
    flat.set_attn_implementation(ATTENTION)
    return padded, flat


@pytest.fixture(scope="module")
def batches(examples):
    longest = max(LENGTHS)
    rows = [example["input_ids"] for example in examples]
    padded = {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }
    return padded, FlatCollator()(examples)


def test_a_flat_batch_says_where_examples_begin(examples, batches):
    flat = batches[1]
    expected = pack([example["input_ids"] for example in examples], longest=17)
    assert flat["cu_seq_lens_q"].tolist() == expected["starts"].tolist()
    assert flat["cu_seq_lens_q"].dtype == torch.int32
    for name in ("input_ids", "position_ids"):
        assert flat[name].tolist() == expected[name].tolist()
    assert (flat["max_length_q"], flat["labels"].tolist()) == (17, [0, 1, 2, 0])


def test_loss_and_gradients_are_those_of_the_padded_model(models, batches):
    outputs, gradients = [], []
    for model, batch in zip(models, batches, strict=True):
        model.zero_grad()
        outputs.append(model(**batch))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    padded, flat = outputs
    assert padded.logits.abs().max() > 0.1
    torch.testing.assert_close(flat.logits, padded.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.loss, padded.loss, rtol=1e-5, atol=0)
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_with_sdpa_examples_would_attend_to_each_other(models, batches):
    """Why the peer has an attention function of its own: no error tells a user of this."""
    flat = FlatClassifier(tiny_config(attn_implementation="sdpa")).eval()
    flat.load_state_dict(models[0].state_dict())
    with torch.no_grad():
        mixed, right = (model(**batches[1]).logits for model in (flat, models[1]))
    assert (mixed - right).abs().max() > 0.1


def test_the_kernel_gets_queries_by_token_and_where_examples_begin(monkeypatch):
    """The kernel needs a GPU; what it is called with is checked here."""
    calls = []

    class OnGpu(torch.Tensor):
        is_cuda = True

    def flash(q, k, v, packed, longest, dropout):
        calls.append((q.shape, packed["starts"].tolist(), longest, dropout))
        return v

    monkeypatch.setattr("flattened.flash_attention", flash)
    x_BHTK = torch.zeros(1, 4, 6, 8, dtype=torch.bfloat16).as_subclass(OnGpu)
    starts = torch.tensor([0, 2, 6], dtype=torch.int32)
    out, _ = attend(None, x_BHTK, x_BHTK, x_BHTK, None, cu_seq_lens_q=starts, max_length_q=4, dropout=0.1, scaling=1.0)
    assert out.shape == (1, 6, 4, 8)
    assert calls == [((6, 4, 8), [0, 2, 6], 4, 0.1)]


def test_the_trainer_flattens(examples, tmp_path):
    values = Namespace(padding="flat", device="cpu", max_length=20)
    assert isinstance(peer.make_collator(values, None), FlatCollator)
    options = ["--new-model=1,32,2,64", "--lengths=uniform:2:9", "--max-length=16", "--padding=flat", "--batch-size=4"]
    options += ["--limit=16", "--max-steps=3", "--skip-steps=1", "--device=cpu", f"--output={tmp_path / 'x.json'}"]
    result = peer.run(peer.parse_arguments(options))
    assert (result["steps"], result["steps_timed"], result["attention"]) == (3, 2, ATTENTION)
    assert result["real_tokens_per_second"] / result["examples_per_second"] == pytest.approx(5.5, abs=2)
