"""Changed texts: what each change does to tokens, what it never does, and on what it depends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxbert.config import Augmenting
from jaxbert.data.augment import Augmenter, Fills, TokenKinds, single_words
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.tokens import Tokens

CLS, SEP, COMMA, STOP, CHINESE_STOP = range(5)
FIRST_WORD, FIRST_PIECE, FIRST_CHINESE, SIZE = 10, 100, 150, 200
"""Ids: words from 10, pieces inside words from 100, Chinese characters from 150."""


def make_kinds() -> TokenKinds:
    ids = np.arange(SIZE)
    marks = np.array([COMMA, STOP], np.int32), np.array([CHINESE_STOP], np.int32)
    inside = (ids >= FIRST_PIECE) & (ids < FIRST_CHINESE)
    return TokenKinds(np.isin(ids, [CLS, SEP]), inside, ids >= FIRST_CHINESE, marks)


def make_tokens(count: int = 200, seed: int = 0, pairs: bool = False, words: int = 12) -> Tokens:
    """Return segments of 1 to `words` words of one to three pieces, with gaps in the store between them."""
    rng = np.random.default_rng(seed)
    ids, begins, lengths, firsts = [], [], [], []
    for _ in range(count):
        segment = [CLS]
        for _ in range(1 + pairs):
            for _ in range(rng.integers(1, words + 1)):
                segment += [
                    rng.integers(FIRST_WORD, FIRST_PIECE),
                    *rng.integers(FIRST_PIECE, FIRST_CHINESE, rng.integers(3)),
                ]
            segment.append(SEP)
            firsts.append(len(segment))
        begins.append(len(ids) + 2)
        lengths.append(len(segment))
        ids += [9, 9, *segment]
    return Tokens(*(np.array(part, np.int32) for part in (ids, begins, lengths, firsts[:: 1 + pairs])))


def texts_of(tokens: Tokens) -> list[list[list[tuple[int, ...]]]]:
    """Return the words of each text of each segment, after a look at the frame of special tokens."""
    found = []
    for begin, length, first in zip(tokens.begins, tokens.lengths, tokens.first_lengths, strict=True):
        segment = tokens.ids[begin : begin + length].tolist()
        assert segment[0] == CLS
        texts, parts = [], [segment[1:first], segment[first:]] if first < length else [segment[1:]]
        for part in parts:
            assert part[-1] == SEP
            assert not {CLS, SEP} & set(part[:-1])
            words: list[tuple[int, ...]] = []
            for index in part[:-1]:
                inside = FIRST_PIECE <= index < FIRST_CHINESE
                words = [*words[:-1], (*words[-1], index)] if inside else [*words, (index,)]
            texts.append(words)
        found.append(texts)
    return found


def changed(
    tokens: Tokens, epoch: int = 0, seed: int = 0, max_length: int = 500, fills: Fills | None = None, **settings
):
    augmenter = Augmenter(Augmenting(**settings), make_kinds(), max_length, fills)
    found = augmenter.examples(Examples(tokens), seed, epoch).tokens
    assert found.lengths.max() <= augmenter.longest(tokens) <= max(max_length, tokens.lengths.max())
    assert found.ids.dtype == found.lengths.dtype == found.first_lengths.dtype == np.int32
    return found


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_left_out_words(pairs):
    """A fifth of the words is missing, the others stay in order, and no text is empty."""
    tokens = make_tokens(pairs=pairs)
    before, after = texts_of(tokens), texts_of(changed(tokens, word_dropout=0.2))
    counts = np.zeros(2)
    for old, new in zip(before, after, strict=True):
        for whole, left in zip(old, new, strict=True):
            assert left
            rest = iter(whole)
            assert all(word in rest for word in left), "in order"
            counts += len(whole), len(left)
    assert counts[1] / counts[0] == pytest.approx(0.8, abs=0.03)
    alone = texts_of(changed(tokens, word_dropout=0.99))
    assert {len(text) for texts in alone for text in texts} <= {1, 2}


def test_spans_that_change_places():
    """The same words, of which a tenth stands elsewhere: two neighbouring spans."""
    tokens = make_tokens(400, words=30)
    moved = total = 0
    for (old,), (new,) in zip(texts_of(tokens), texts_of(changed(tokens, swap=0.1)), strict=True):
        assert sorted(old) == sorted(new)
        differing = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        total += len(old)
        moved += len(differing)
        if differing:
            low, high = differing[0], differing[-1] + 1
            span = old[low:high]
            assert new[low:high] in [span[cut:] + span[:cut] for cut in range(1, len(span))]
    assert moved / total == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_punctuation_marks(pairs):
    """One to a third of the words, in front of words; the words stay, and so does the longest segment allowed."""
    tokens = make_tokens(pairs=pairs)
    texts = texts_of(changed(tokens, punctuation=0.3))
    marks = {(COMMA,), (STOP,)}
    seen = set()
    for old, new in zip(texts_of(tokens), texts, strict=True):
        for whole, more in zip(old, new, strict=True):
            assert [word for word in more if word not in marks] == whole
            count = len(more) - len(whole)
            seen.add(count)
            assert 1 <= count <= max(1, int(0.3 * len(whole)))
            assert more[-1] not in marks
    assert seen == {1, 2, 3}
    longest = int(tokens.lengths.max())
    full = changed(tokens, punctuation=1.0, max_length=longest)
    assert full.lengths.max() == longest
    assert (full.lengths[tokens.lengths == longest] == longest).all()


def test_chinese_texts_get_chinese_marks():
    ids = np.array([CLS, 150, 151, SEP, CLS, 20, SEP], np.int32)
    tokens = Tokens.from_lengths(ids, np.array([4, 3]), np.array([4, 3], np.int32))
    found = texts_of(changed(tokens, punctuation=0.5))
    assert (CHINESE_STOP,) in found[0][0]
    assert {(COMMA,), (STOP,)} & {*found[1][0]}


def test_refilled_words():
    """Words of one piece get one of the words that were found, by their probabilities; the rest stays."""
    tokens = make_tokens(2000)
    places, before = single_words(tokens, make_kinds())
    assert {*before[:3].tolist()} <= {0, 1, 2}
    words = np.full((len(tokens.ids), 3), -1, np.int32)
    words[places] = (20, 21, 22)
    odds = np.broadcast_to(np.array([0.5, 0.3, 0.2], np.float32), words.shape)
    found = changed(tokens, fills=Fills(words, odds), refill=0.25, refill_model="M")
    counts = dict.fromkeys((20, 21, 22), 0)
    singles = kept = 0
    for (old,), (new,) in zip(texts_of(tokens), texts_of(found), strict=True):
        for was, now in zip(old, new, strict=True):
            assert was == now or (len(was) == 1 and now in ((20,), (21,), (22,)))
            singles += len(was) == 1
            kept += len(was) == 1 and was == now
            if was != now:
                counts[now[0]] += 1
    assert 1 - kept / singles == pytest.approx(0.25, abs=0.02)
    assert np.array(list(counts.values())) / sum(counts.values()) == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


ALL = {"word_dropout": 0.2, "swap": 0.3, "punctuation": 0.3}


def test_on_what_a_text_depends():
    """On seed, epoch and its own number alone: not on the other texts, nor on those before."""
    tokens = make_tokens()
    found = changed(tokens, 3, **ALL)
    again, other_epoch, other_seed = changed(tokens, 3, **ALL), changed(tokens, 4, **ALL), changed(tokens, 3, 1, **ALL)
    np.testing.assert_array_equal(found.ids, again.ids)
    assert texts_of(found) != texts_of(other_epoch) != texts_of(other_seed) != texts_of(found)
    few = changed(tokens.take(np.arange(5)), 3, **ALL)
    assert texts_of(few) == texts_of(found)[:5]


def test_a_share_of_the_texts_changes():
    tokens = make_tokens(1000, words=30)
    pairs = [*zip(texts_of(tokens), texts_of(changed(tokens, share=0.3, **ALL)), strict=True)]
    assert np.mean([old != new for old, new in pairs]) == pytest.approx(0.3, abs=0.05)


def test_labels_and_windows_stay():
    tokens = make_tokens(6)
    examples = Examples(
        tokens, np.array([1, 0, 1]), windows=Windows.of_counts(np.array([2, 1, 3])), rows=np.array([4, 7, 9])
    )
    found = Augmenter(Augmenting(**ALL), make_kinds(), 100).examples(examples, 0, 0)
    assert (found.labels, found.windows, found.rows) == (examples.labels, examples.windows, examples.rows)
    assert len(found) == 3


def test_texts_without_words():
    """A segment of special tokens alone stays, among others and alone."""
    for lengths in ([2], [2, 3, 2]):
        ids = np.concatenate([[CLS, *[20] * (length - 2), SEP] for length in lengths]).astype(np.int32)
        tokens = Tokens.from_lengths(ids, np.array(lengths), np.array(lengths, np.int32))
        found = changed(tokens, **ALL | {"word_dropout": 0.9})
        assert found.lengths.tolist() == [length + (length > 2) for length in lengths]


def test_a_window_that_begins_inside_a_word():
    """Its first piece is a word, and can be left out."""
    ids = np.array([CLS, FIRST_PIECE, 20, SEP], np.int32)
    tokens = Tokens.from_lengths(ids, np.array([4]), np.array([4], np.int32))
    left = [tuple(changed(tokens, epoch, word_dropout=0.9).ids.tolist()) for epoch in range(20)]
    assert {(CLS, FIRST_PIECE, SEP), (CLS, 20, SEP)} <= {*left}


def test_a_setting_that_changes_nothing_is_refused():
    for settings, said in (
        ({}, "changes nothing"),
        ({"share": 0.5}, "changes nothing"),
        ({"refill": 0.1}, "refill_model is not"),
    ):
        with pytest.raises(Exception, match=said):
            Augmenting(**settings)
    assert dataclasses.asdict(Augmenting.of({"swap": 0.1}))["share"] == 1.0
