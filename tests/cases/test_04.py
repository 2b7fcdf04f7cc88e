"""The first BERT folders: a configuration without `model_type`, or Google's `bert_config.json`, and a bare `vocab.txt`."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxbert.config import ModelConfig
from jaxbert.interop.write import save_folder
from jaxbert.models.families import sized_config
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.train.pretrained import load_pretrained
from jaxbert.train.sharding import make_key

KEYS = (
    *("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range"),
    *("intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "type_vocab_size"),
    "vocab_size",
)


@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
def test_the_first_folders_are_taken_for_bert(case, vocabularies, tmp_path, caplog, name):
    model = make_model(SequenceClassificationHead, sized_config("tiny", 30522))
    shapes, key = model.abstract_params, make_key(0)
    save_folder(tmp_path, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes), model.config)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    oldest = {k: content[k] for k in KEYS} | {"directionality": "bidi", "pooler_type": "first_token_transform"}
    (tmp_path / name).write_text(json.dumps(oldest))
    (tmp_path / "vocab.txt").write_bytes((vocabularies / "bert-base-uncased-vocab.txt").read_bytes())
    start = load_pretrained(ModelConfig(name_or_path=str(tmp_path)))
    assert caplog.messages == [
        f"{tmp_path / name} has no model_type: it is taken for that of a BERT",
        f"{tmp_path / 'vocab.txt'}: no word in it has capitals: texts are lower-cased (model.lower_case)",
    ]
    assert start.tokenizer("Hello")["input_ids"] == [101, 7592, 102]
    params = start.params(make_model(SequenceClassificationHead, start.bert_config), 0, shapes, key)
    assert (params["bert"]["embeddings"]["word_embeddings"]["embedding"] == np.full((30522, 128), 0.5)).all()
