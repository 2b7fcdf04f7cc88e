"""Tags that are no BIO tags, and comment lines: learned as what they are, and said."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from transformers import BertConfig, BertTokenizer

from jaxbert.config import Config, DataConfig
from jaxbert.tasks.token_classification.marks import fit_tags
from jaxbert.tasks.token_classification.read import read_tagged_texts
from jaxbert.tasks.token_classification.task import TokenClassification

TAGS = {
    "pos": ["DET NOUN VERB PUNCT", "DET NOUN VERB PUNCT", "DET ADJ NOUN VERB PUNCT"],
    "io": ["O ORG ORG O O LOC O", "PER O PER O"],
    "zero": ["O B-ORG I-ORG O O", "B-PER O B-PER O"],
    "underscore": ["O B-ORG I-ORG O O"],
    "comments": ["B-PER I-PER O", "O B-ORG"],
    "comments2": ["B-PER O", "B-PER O"],
}


@pytest.mark.parametrize("name", TAGS)
def test_what_is_learned(case, name, caplog):
    documents = read_tagged_texts(str(case / f"{name}.conll"), DataConfig(), role="train", labelled=True)
    documents, tag_set = fit_tags(documents, None)
    assert [" ".join(item.tags) for item in documents.items] == TAGS[name]
    assert (tag_set.scheme is None) == (name in ("pos", "io"))
    assert len(caplog.messages) == 1


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_parts_of_speech_are_evaluated_and_answered(case, vocabularies, caplog):
    """As a run reads them, exports them and opens them again; the predictions are made up."""
    file = str(case / "pos.conll")
    tokenizer = BertTokenizer(vocab=str(vocabularies / "bert-base-uncased-vocab.txt"))
    config = Config("token_classification", data=DataConfig(train=file, validation=file))
    inputs = TokenClassification.read(config, tokenizer, 32)
    assert len(warnings(caplog)) == 1
    assert inputs.task.default_metric == "accuracy"
    exported = inputs.task.configure(BertConfig())
    assert [*exported.id2label.values()] == ["ADJ", "DET", "NOUN", "PUNCT", "VERB"]
    task = TokenClassification.reopen(exported)
    examples = task.read_for(file, DataConfig(), tokenizer, 32)
    logits = np.random.default_rng(0).normal(size=(len(examples.tokens.ids), 5)).astype(np.float32)
    metrics = task.metrics(logits, examples)
    assert metrics == inputs.task.metrics(logits, inputs.validation["validation"])
    answers = [answer["tags"] for answer in task.answers(logits, examples, 0, 3)]
    assert [tag["text"] for tag in answers[2]] == ["The", "old", "man", "sings", "."]
    gold = " ".join(TAGS["pos"]).split()
    right = [tag["label"] == wanted for tag, wanted in zip(chain(*answers), gold, strict=True)]
    assert metrics["accuracy"] == pytest.approx(sum(right) / 13)
    assert metrics["words"] == sum(scores["support"] for scores in metrics["per_class"].values()) == 13
    assert len(warnings(caplog)) == 1
