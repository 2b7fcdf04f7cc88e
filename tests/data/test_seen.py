"""What is kept of texts as they were: where they stand, which are alike, what the tokenizer lost."""

from __future__ import annotations

import numpy as np
import pytest
from runs import VOCAB, write_csv
from transformers import BertTokenizer

from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source
from jaxbert.data.store import prepare
from jaxbert.data.table import Facts
from jaxbert.data.tokens import Seen, hash_texts

ROWS = [
    ("good film", "a"),
    ("w1 w2 w3 w4", "b"),
    ("w1\u200bw2 w5", "a"),
    ("  good film ", "b"),
    ("\u00a0w1\u3000w2", "b"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return BertTokenizer(vocab=str(path))


def read(path, tokenizer, folder=None, **columns) -> Seen:
    source = open_source(str(path), DataConfig(**columns), role="train", labelled=True)
    seen = prepare(source, tokenizer, 5, folder=folder).seen
    assert seen is not None
    return seen


def test_lengths_rows_and_losses(tmp_path, tokenizer):
    seen = read(write_csv(tmp_path / "t.csv", ROWS), tokenizer)
    assert seen.lengths.tolist() == [4, 6, 4, 4, 4]  # uncut, with two special tokens
    assert seen.rows.tolist() == [2, 3, 4, 5, 6]
    assert seen.lossy == 1  # the zero-width space; wide and unbreakable blanks are blanks
    assert seen.unknown == 3  # "film", twice, and the word that the zero-width space was in


def test_equal_texts_have_equal_hashes(tmp_path, tokenizer):
    hashes = read(write_csv(tmp_path / "t.csv", ROWS), tokenizer).hashes.tolist()
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 4


def test_pairs_are_alike_where_both_texts_are():
    a, b, c = hash_texts(["x y", "x", "x "], ["z", "y z", "y z"]).tolist()
    assert b == c != a


def test_the_cache_keeps_it(tmp_path, tokenizer):
    path = write_csv(tmp_path / "t.csv", ROWS)
    first = read(path, tokenizer, tmp_path / "cache")
    again = read(path.rename(tmp_path / "u.csv"), tokenizer, tmp_path / "cache")
    assert again.place(2) == first.place(2) == 4
    assert again.origins == ((0, str(tmp_path / "u.csv")),)
    assert (again.lossy, again.unknown) == (first.lossy, first.unknown)
    for name in ("lengths", "hashes", "rows"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_texts_of_several_files_are_named_with_them():
    numbers = np.arange(6)
    seen = Seen(numbers, numbers, np.array([2, 3, 4, 2, 3, 2], np.int32), ((0, "a"), (3, "b"), (5, "c")), Facts())
    assert [seen.place(i) for i in (0, 3, 5)] == ["a, row 2", "b, row 2", "c, row 2"]
    taken = seen.take(np.array([1, 2, 4, 5]))
    assert taken.origins == ((0, "a"), (2, "b"), (3, "c"))
    assert [taken.place(i) for i in range(4)] == ["a, row 3", "a, row 4", "b, row 3", "c, row 2"]
    assert len(taken) == 4
