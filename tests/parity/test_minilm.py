"""A real encoder on real sentences: the same logits as PyTorch, before and after an export."""

from __future__ import annotations

import csv

import jax
import numpy as np
import pytest
from tiny import assert_same_tensors

from jaxbert import FlaxBertForSequenceClassification
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.read import read_tensors
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead

pytestmark = pytest.mark.real

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tokenizer(minilm):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.backend_tokenizer.no_padding()  # its file switches both on, at 128 tokens
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def classifier(minilm, tokenizer, tmp_path_factory):
    """MiniLM with a random head, written by us."""
    model = make_model(SequenceClassificationHead, read_config(minilm))
    params, report = load_params(minilm, model, key=jax.random.key(0))
    assert report.fresh == ("classifier.bias", "classifier.weight")
    assert report.unused == ()
    rng = np.random.default_rng(0)
    params["classifier"] = {
        "bias": rng.normal(size=2).astype(np.float32),
        "kernel": rng.normal(size=(model.config.hidden_size, 2)).astype(np.float32),
    }
    return save_folder(tmp_path_factory.mktemp("minilm"), params, model.config, tokenizer)


@pytest.fixture(scope="module")
def batches(shared_data, tokenizer):
    """200 sentences, 50 at a time, in rows of one length: one program."""
    with (shared_data / "glue_SST-2" / "dev.tsv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        sentences = [row["sentence"] for row, _ in zip(rows, range(200), strict=False)]
    assert len(sentences) == 200
    rows = tokenizer(sentences, padding=True, return_tensors="np")
    return [{name: row[i : i + 50] for name, row in rows.items()} for i in range(0, 200, 50)]


def torch_logits(folder, batches):
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        outputs = [model.eval()(**{k: torch.from_numpy(v) for k, v in batch.items()}) for batch in batches]
    return np.concatenate([out.logits.numpy() for out in outputs])


def test_the_encoder_comes_back_bit_for_bit(minilm, classifier):
    expected = read_tensors(minilm)
    found = read_tensors(classifier)
    assert_same_tensors({name: found[name] for name in expected}, expected)
    assert found.keys() - expected.keys() == {"classifier.bias", "classifier.weight"}


def test_logits_of_real_sentences_equal_those_of_torch(classifier, batches):
    model = FlaxBertForSequenceClassification.from_pretrained(classifier)
    found = np.concatenate([model(**batch).logits for batch in batches])
    expected = torch_logits(classifier, batches)
    assert found.shape == (200, 2)
    assert expected.std(0).min() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_saving_again_changes_nothing(classifier, tmp_path):
    FlaxBertForSequenceClassification.from_pretrained(classifier).save_pretrained(tmp_path)
    assert_same_tensors(read_tensors(tmp_path), read_tensors(classifier))
