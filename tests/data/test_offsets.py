"""Long texts become windows that leave nothing out, and tokens know where they come from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from runs import VOCAB
from transformers import BertTokenizer

from jaxbert.data.offsets import cut_windows, locate_tokens
from jaxbert.errors import UserError


def test_windows_of_tokens_overlap_by_the_stride():
    assert cut_windows(5, 5, 2) == [(0, 5)]
    assert cut_windows(0, 5, 2) == [(0, 0)]
    assert cut_windows(12, 5, 2) == [(0, 5), (3, 8), (6, 11), (9, 12)]
    assert cut_windows(12, 5, 0) == [(0, 5), (5, 10), (10, 12)]
    assert cut_windows(3, 1, 0) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("seed", range(5))
def test_windows_begin_with_whole_words_and_cover_everything(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        begins = np.concatenate([[0], np.cumsum(rng.integers(1, 5, rng.integers(1, 40)))])
        length = int(begins[-1] + rng.integers(1, 4))
        room = int(rng.integers(4, 20))
        overlap = int(rng.integers(0, room // 2 + 1))
        windows = cut_windows(length, room, overlap, begins)
        assert windows[0][0] == 0
        assert windows[-1][1] == length
        for low, high in windows:
            assert 0 < high - low <= room
            assert low in begins
            assert high == length or high in begins
        for (low, high), (next_low, _) in itertools.pairwise(windows):
            assert low < next_low <= high
            assert high - next_low <= overlap


def test_a_word_longer_than_a_window_is_cut():
    assert cut_windows(10, 4, 2, np.array([0, 1, 9])) == [(0, 1), (1, 5), (5, 9), (9, 10)]


def test_tokens_know_their_characters_and_words(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "##9", "高"]) + "\n")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    tokenizer("w1 w2 w3 w4", truncation=True, padding="max_length", max_length=3)  # which it would keep
    text, words = (
        locate_tokens(tokenizer, ["Good  w19高 w2"], "a"),
        locate_tokens(tokenizer, [["Good", "", "w199"]], "a"),
    )
    found = next(iter(text))
    assert [VOCAB[i] for i in found.ids if i < len(VOCAB)] == ["good", "w19", "w2"]
    assert found.offsets.tolist() == [[0, 4], [6, 9], [9, 10], [11, 13]]
    assert found.words.tolist() == [0, 1, 2, 3]
    found = next(iter(words))
    assert found.words.tolist() == [0, 2, 2]
    with pytest.raises(UserError, match=r"does not tell where tokens come from"):
        next(iter(locate_tokens(object(), ["a"], "a")))
