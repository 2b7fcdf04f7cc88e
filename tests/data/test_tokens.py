"""Texts become token ids once; what is cut is counted and said."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from runs import VOCAB
from transformers import BertTokenizer

from jaxbert.data import tokens as module
from jaxbert.data.tokens import tokenize


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


@pytest.fixture
def notes():
    """What the package says."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger("jaxbert").addHandler(Handler())
    return said


def example(tokens, i: int) -> list[str]:
    return [VOCAB[token] for token in tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]]


def test_texts_lie_behind_one_another(tokenizer, notes):
    tokens = tokenize(tokenizer, ["w1 good", "W2", "unheard w3 w4"], None, 48, "here")
    assert len(tokens) == 3
    assert (tokens.ids.dtype, tokens.offsets.dtype, tokens.first_lengths.dtype) == (np.int32, np.int64, np.int32)
    assert example(tokens, 0) == ["[CLS]", "w1", "good", "[SEP]"]
    assert example(tokens, 1) == ["[CLS]", "w2", "[SEP]"]
    assert example(tokens, 2) == ["[CLS]", "[UNK]", "w3", "w4", "[SEP]"]
    assert tokens.lengths.tolist() == tokens.first_lengths.tolist() == [4, 3, 5]
    assert notes == []


def test_the_second_text_of_a_pair_begins_behind_the_first_separator(tokenizer):
    tokens = tokenize(tokenizer, ["w1 w2", "w3"], ["good", "fine w4 w5"], 48, "here")
    assert example(tokens, 1) == ["[CLS]", "w3", "[SEP]", "fine", "w4", "w5", "[SEP]"]
    assert tokens.first_lengths.tolist() == [4, 3]


def test_long_texts_are_cut_counted_and_said_once(tokenizer, notes):
    texts = ["w1 w2 w3 w4 w5", "w1", "w6 w7 w8 w9", "w1 w2 w3"]
    tokens = tokenize(tokenizer, texts, None, 5, "reviews.csv")
    assert example(tokens, 0) == ["[CLS]", "w1", "w2", "w3", "[SEP]"]
    assert example(tokens, 2) == ["[CLS]", "w6", "w7", "w8", "[SEP]"]
    assert tokens.lengths.tolist() == [5, 3, 5, 5]
    assert notes == ["reviews.csv: 2 of 4 texts are longer than 5 tokens and were cut"]


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer):
    tokens = tokenize(tokenizer, ["w1 w2 w3 w4 w5 w6"], ["good fine"], 8, "here")
    assert example(tokens, 0) == ["[CLS]", "w1", "w2", "w3", "[SEP]", "good", "fine", "[SEP]"]
    assert tokens.first_lengths.tolist() == [5]


@pytest.mark.parametrize("pairs", [None, ["good fine w1", "great w2"]])
def test_the_shortest_possible_length(tokenizer, pairs):
    tokens = tokenize(tokenizer, ["w1 w2 w3 w4", "w5 w6"], pairs, 3, "here")
    assert tokens.lengths.tolist() == [3, 3]


def test_chunks_make_no_difference(tokenizer, monkeypatch, notes):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(VOCAB[5:], rng.integers(1, 9))) for _ in range(50)]
    pairs = [" ".join(rng.choice(VOCAB[5:], rng.integers(1, 9))) for _ in range(50)]
    whole = tokenize(tokenizer, texts, pairs, 9, "here")
    monkeypatch.setattr(module, "_CHUNK", 7)
    chunked = tokenize(tokenizer, texts, pairs, 9, "here")
    for name in ("ids", "offsets", "first_lengths"):
        np.testing.assert_array_equal(getattr(chunked, name), getattr(whole, name))
    assert len(notes) == 2
    assert notes[0] == notes[1]


def test_tokens_are_those_of_the_tokenizer_itself(tokenizer):
    tokens = tokenize(tokenizer, ["w1 w2 w3 w4", "good"], ["fine", "bad w5 w6 w7"], 7, "here")
    for i, pair in enumerate([("w1 w2 w3 w4", "fine"), ("good", "bad w5 w6 w7")]):
        expected = tokenizer(*pair, truncation=True, max_length=7)
        assert tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == expected["input_ids"]
        assert tokens.first_lengths[i] == expected["token_type_ids"].count(0)
