"""Texts become token ids: those of the tokenizer itself, cut where they are too long."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from runs import VOCAB, ids_of
from transformers import BertTokenizer

from jaxbert.data.tokens import Encoded, LongTexts, Tokens, encode_texts, forget_lengths


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


def joined(encoded: Encoded) -> Tokens:
    return Tokens.from_lengths(encoded.ids, encoded.lengths, encoded.first_lengths)


def example(encoded: Encoded, i: int) -> list[str]:
    return [VOCAB[token] for token in ids_of(joined(encoded), i)]


def test_texts_lie_behind_one_another(tokenizer):
    encoded = encode_texts(tokenizer, ["w1 good", "W2", "unheard w3 w4"], None, 48)
    assert (encoded.ids.dtype, encoded.lengths.dtype, encoded.first_lengths.dtype) == (np.int32, np.int32, np.int32)
    assert example(encoded, 0) == ["[CLS]", "w1", "good", "[SEP]"]
    assert example(encoded, 1) == ["[CLS]", "w2", "[SEP]"]
    assert example(encoded, 2) == ["[CLS]", "[UNK]", "w3", "w4", "[SEP]"]
    assert encoded.lengths.tolist() == encoded.first_lengths.tolist() == [4, 3, 5]
    assert encoded.cut == 0


def test_the_second_text_of_a_pair_begins_behind_the_first_separator(tokenizer):
    encoded = encode_texts(tokenizer, ["w1 w2", "w3"], ["good", "fine w4 w5"], 48)
    assert example(encoded, 1) == ["[CLS]", "w3", "[SEP]", "fine", "w4", "w5", "[SEP]"]
    assert encoded.first_lengths.tolist() == [4, 3]


def test_long_texts_are_cut_and_counted(tokenizer):
    encoded = encode_texts(tokenizer, ["w1 w2 w3 w4 w5", "w1", "w6 w7 w8 w9", "w1 w2 w3"], None, 5)
    assert example(encoded, 0) == ["[CLS]", "w1", "w2", "w3", "[SEP]"]
    assert example(encoded, 2) == ["[CLS]", "w6", "w7", "w8", "[SEP]"]
    assert encoded.lengths.tolist() == [5, 3, 5, 5]
    assert encoded.cut == 2


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer):
    encoded = encode_texts(tokenizer, ["w1 w2 w3 w4 w5 w6"], ["good fine"], 8)
    assert example(encoded, 0) == ["[CLS]", "w1", "w2", "w3", "[SEP]", "good", "fine", "[SEP]"]
    assert encoded.first_lengths.tolist() == [5]


@pytest.mark.parametrize("pairs", [None, ["good fine w1", "great w2"]])
def test_the_shortest_possible_length(tokenizer, pairs):
    assert encode_texts(tokenizer, ["w1 w2 w3 w4", "w5 w6"], pairs, 3).lengths.tolist() == [3, 3]


@pytest.mark.parametrize("rust", [True, False])
def test_tokens_are_those_of_the_tokenizer_itself(tokenizer, rust):
    """Also after a call that cut and padded, whose settings a tokenizer keeps, and for one that is written in Python."""
    tokenizer("w1 w2 w3 w4", truncation=True, padding="max_length", max_length=6)
    firsts, seconds = ["w1 w2 w3 w4", "good [SEP] w1", "w1"], ["fine", "bad w5 w6 w7", "w2"]
    encoded = encode_texts(tokenizer if rust else tokenizer.__call__, firsts, seconds, 7)
    for i, pair in enumerate(zip(firsts, seconds, strict=True)):
        expected = tokenizer(*pair, truncation=True, max_length=7)
        assert ids_of(joined(encoded), i).tolist() == expected["input_ids"]
        assert encoded.first_lengths[i] == expected["token_type_ids"].count(0)


def test_a_tokenizer_forgets_how_it_cut(tokenizer):
    before = tokenizer.backend_tokenizer.to_str()
    encode_texts(tokenizer, ["w1 w2 w3 w4"], None, 4)
    assert tokenizer.backend_tokenizer.to_str() != before
    forget_lengths(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_taken_examples_keep_their_tokens(tokenizer):
    tokens = joined(encode_texts(tokenizer, ["w1 good", "w2", "w3 w4 w5"], ["w6", "w7 w8", "w9"], 48))
    taken = tokens.take(np.array([2, 0]))
    assert len(taken) == 2
    for i, original in enumerate((2, 0)):
        np.testing.assert_array_equal(ids_of(taken, i), ids_of(tokens, original))
        assert taken.first_lengths[i] == tokens.first_lengths[original]
    assert taken.ids is tokens.ids


def test_a_long_text_becomes_windows(tokenizer):
    words = [f"w{i}" for i in range(1, 10)]
    encoded = encode_texts(tokenizer, [" ".join(words), "good", "w1 w2 w3"], None, 6, LongTexts("windows", 1))
    assert (encoded.windows.tolist(), encoded.cut) == ([3, 1, 1], 1)
    pieces = [tokenizer.decode(ids_of(joined(encoded), i)) for i in range(5)]
    assert pieces == [
        "[CLS] w1 w2 w3 w4 [SEP]",
        "[CLS] w4 w5 w6 w7 [SEP]",
        "[CLS] w7 w8 w9 [SEP]",
        "[CLS] good [SEP]",
        "[CLS] w1 w2 w3 [SEP]",
    ]
    assert encoded.first_lengths.tolist() == encoded.lengths.tolist()


@pytest.mark.parametrize("shared", [0, 1, 3])
@pytest.mark.parametrize("length", range(1, 30))
def test_windows_hold_every_token_and_share_what_they_should(length, shared):
    ids = [101, *range(length), 102]
    pieces = LongTexts("windows", shared).cut(ids, 8) if len(ids) > 8 else [ids]
    assert all(piece[0] == 101 and piece[-1] == 102 and len(piece) <= 8 for piece in pieces)
    bodies = [piece[1:-1] for piece in pieces]
    for before, after in itertools.pairwise(bodies):
        assert before[len(before) - shared :] == after[:shared]
        assert len(after) > shared
    assert [*bodies[0], *itertools.chain(*(body[shared:] for body in bodies[1:]))] == list(range(length))


def test_head_and_tail(tokenizer):
    words = [f"w{i}" for i in range(1, 21)]
    encoded = encode_texts(tokenizer, [" ".join(words), "good"], None, 10, LongTexts("head_tail"))
    assert tokenizer.decode(ids_of(joined(encoded), 0)) == "[CLS] w1 w2 w15 w16 w17 w18 w19 w20 [SEP]"
    assert (len(encoded.windows), encoded.cut) == (0, 1)
