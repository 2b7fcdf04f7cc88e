"""Processes that divide the tokenizing end with the same tokens as one that does all; threads stand for them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from runs import VOCAB, random_rows, write_csv
from transformers import BertTokenizer

from jaxbert.config import DataConfig
from jaxbert.data import store, table, tokens
from jaxbert.data.sources import open_source
from jaxbert.data.tokens import Shard, encode_texts, joined


class Exchange:
    """What `count` threads give each other, round by round."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=30)
        self.given = [None] * count

    def all_of(self, index, mine):
        self.given[index] = mine
        self.barrier.wait()
        found = list(self.given)
        self.barrier.wait()
        return found

    def shard(self, index):
        count = len(self.given)
        return Shard(index, count, lambda mine: self.all_of(index, mine), lambda mine: all(self.all_of(index, mine)))


@pytest.fixture
def vocab(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return str(tmp_path / "vocab.txt")


def make(path, vocab, folder, shard):
    source = open_source(str(path), DataConfig(), role="train", labelled=True)
    return store.prepare(source, BertTokenizer(vocab=vocab), 8, folder=folder, shard=shard)


def together(count, path, vocab, folders):
    exchange = Exchange(count)
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda i: make(path, vocab, folders[i], exchange.shard(i)), range(count)))


def assert_same(found, expected):
    for name in ("ids", "begins", "lengths", "first_lengths"):
        np.testing.assert_array_equal(getattr(found.tokens, name), getattr(expected.tokens, name))
    np.testing.assert_array_equal(found.labels.codes, expected.labels.codes)
    assert found.cut == expected.cut > 0


@pytest.mark.parametrize("count", [2, 3, 8])
def test_all_get_the_tokens_of_one_and_tokenize_a_share(tmp_path, vocab, monkeypatch, count):
    """Parts of seven rows, some of which leave a process without a row."""
    for module in ("jaxbert.data.sources", "jaxbert.data.table"):
        monkeypatch.setattr(f"{module}.PART_ROWS", 7)
    path = write_csv(tmp_path / "train.csv", random_rows(60))
    expected = make(path, vocab, None, Shard())
    tokenized = []

    def count_rows(tokenizer, texts, *settings):
        tokenized.append(len(texts))
        return encode_texts(tokenizer, texts, *settings)

    monkeypatch.setattr(tokens, "encode_texts", count_rows)
    for found in together(count, path, vocab, [None] * count):
        assert_same(found, expected)
    assert sum(tokenized) == 60
    assert table.PART_ROWS == 7


def test_who_has_the_tokens_already_waits_for_those_who_have_not(tmp_path, vocab):
    path = write_csv(tmp_path / "train.csv", random_rows(60))
    folders = [tmp_path / "first", tmp_path / "second"]
    expected = make(path, vocab, folders[0], Shard())
    for found in together(2, path, vocab, folders):
        assert_same(found, expected)
    for folder in folders:
        assert len([entry for entry in folder.iterdir() if len(entry.name) == 40]) == 1
    for found in together(2, path, vocab, folders):
        assert_same(found, expected)


def test_nothing_joined_is_nothing():
    assert [len(x) for x in (joined([]).ids, joined([]).lengths, joined([]).first_lengths)] == [0, 0, 0]
    assert joined([]).cut == 0
