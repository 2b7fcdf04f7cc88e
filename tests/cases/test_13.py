"""Tokens that the tokenizer drops, splits into more pieces than a window holds, or that are blank."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import BertTokenizer

from jaxbert.config import DataConfig
from jaxbert.data.examples import Examples
from jaxbert.tasks.token_classification.align import align
from jaxbert.tasks.token_classification.marks import Marks, marked_spans
from jaxbert.tasks.token_classification.read import read_tagged_texts
from jaxbert.tasks.token_classification.task import TokenClassification

TAGS = ("B-PER", "I-PER", "O")


@pytest.mark.parametrize("name", ["odd.jsonl", "odd.txt"])
@pytest.mark.parametrize("by", ["word", "token"])
def test_one_answer_for_each_input_and_right_spans(case, vocabularies, name, by):
    """A model that knows the names by their first piece finds them, and nothing else."""
    tokenizer = BertTokenizer(vocab=str(vocabularies / "bert-base-uncased-vocab.txt"))
    labelled = name == "odd.jsonl"
    documents = read_tagged_texts(str(case / name), DataConfig(), role="predict", labelled=labelled)
    aligned = align(documents, tokenizer, 64, stride=16, by=by)
    first, second = ([tokenizer.convert_tokens_to_ids(word) for word in words] for words in (["ada", "bob"], ["stone"]))
    chosen = np.where(np.isin(aligned.tokens.ids, first), 0, np.where(np.isin(aligned.tokens.ids, second), 1, 2))
    predictions = np.log(np.eye(3, dtype=np.float32)[chosen] + 1e-6)
    spans = marked_spans(documents) if labelled else None
    token_labels = np.zeros(len(chosen), np.int32)
    examples = Examples(
        aligned.tokens, token_labels=token_labels, extra=Marks(None, documents, aligned.units, None, spans)
    )
    answers = TokenClassification(TAGS).answers(predictions, examples, 0, len(documents))
    found = [[entity["text"] for entity in answer["entities"]] for answer in answers]
    if labelled:
        assert found == [["Ada", "Bob \u200b Stone"], ["Ada", "Bob"], [], ["Ada"], ["Ada"]]
        assert TokenClassification(TAGS).metrics(predictions, examples)["f1"] == 1.0
        return
    assert found == [["Ada", "Bob Stone"], [], ["Ada", "Bob"], ["Ada", "Bob"], ["Bob"]]
    for item, answer in zip(documents.items, answers, strict=True):
        for entity in answer["entities"]:
            assert item.text[entity["start"] : entity["end"]] == entity["text"]
