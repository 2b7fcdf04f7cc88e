"""Change the texts that a run trains on, differently in each epoch: `train.augment`.

An epoch's texts are made of the stored tokens at its start, whole words at a time, and are then dealt, packed and sent like
any others. Every choice is a hash of (seed, epoch, segment, word), so packed, padded and resumed runs, and runs on several
hosts, see the same texts. Special tokens stay in place, no word moves to the other text of a pair, a text keeps at least one
word, and no segment becomes longer than `data.max_length`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxbert.config import Augmenting
from jaxbert.data.draws import example_keys, purpose_key, rank_within, uniform
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens

_PURPOSE = 0x6175676D
_SHARE, _REFILL, _CHOICE, _DROP, _SWAP, _BEGIN, _SPLIT, _MARKS, _PLACE, _MARK = range(10)
"""The purposes of random draws."""


@dataclass(frozen=True, eq=False)
class TokenKinds:
    """Facts about the tokens of a vocabulary of V."""

    special: np.ndarray
    """bool [V]: whether a token frames texts, and is no part of them."""
    inside: np.ndarray
    """bool [V]: whether a token continues the word before it."""
    chinese: np.ndarray
    """bool [V]: whether a token is a Chinese character."""
    marks: tuple[np.ndarray, np.ndarray]
    """int32: the punctuation marks that are put into texts without Chinese characters, and into those with some."""


@dataclass(frozen=True, eq=False)
class Fills:
    """For each token of a store, the words that a model finds likely in its place."""

    ids: np.ndarray
    """int32 [N, K]: the likeliest first; -1 at a token that stays as it is."""
    probabilities: np.ndarray
    """float32 [N, K]: they sum to 1."""


@dataclass(frozen=True, eq=False)
class Augmenter:
    """Makes the texts of each epoch."""

    settings: Augmenting
    kinds: TokenKinds
    max_length: int
    """The longest segment in tokens."""
    fills: Fills | None = None
    """Aligned with the ids of the store; None without refilling."""

    def examples(self, examples: Examples, seed: int, epoch: int) -> Examples:
        """Return the examples with the texts of an epoch; labels and windows stay."""
        words = Words(examples.tokens, self.kinds, purpose_key(_PURPOSE, seed, epoch), self.settings.share)
        ids = words.ids if self.fills is None else self._refilled(words, self.fills)
        order = self._swapped(words, self._left(words))
        return dataclasses.replace(examples, tokens=self._joined(words, ids, order))

    def longest(self, tokens: Tokens) -> int:
        """Return the most tokens that a segment can have in any epoch."""
        longest = int(tokens.lengths.max())
        if not self.settings.punctuation:
            return longest
        words = Words(tokens, self.kinds, purpose_key(_PURPOSE, 0, 0), 1.0)
        counts = np.bincount(words.text[words.body], minlength=2 * len(tokens))
        more = np.where(counts > 0, self._most_marks(counts), 0).reshape(-1, 2).sum(1)
        return max(longest, int(np.minimum(tokens.lengths + more, self.max_length).max()))

    def _most_marks(self, counts: np.ndarray) -> np.ndarray:
        """Return the most marks that are put into texts of so many words."""
        return np.maximum(1, (self.settings.punctuation * counts).astype(np.int64))

    def _refilled(self, words: Words, fills: Fills) -> np.ndarray:
        """Return the ids with other words in the place of some."""
        ids, store = words.ids.copy(), words.sources[words.first]
        chosen = words.changing & (words.uniform(_REFILL) < self.settings.refill) & (fills.ids[store, 0] >= 0)
        rows = np.flatnonzero(chosen)
        edges = np.cumsum(fills.probabilities[store[rows]], axis=1)
        place = (words.uniform(_CHOICE)[rows, None] >= edges).sum(1).clip(max=edges.shape[1] - 1)
        ids[words.first[rows]] = fills.ids[store[rows], place]
        return ids

    def _left(self, words: Words) -> np.ndarray:
        """Return the indices of the words that are not left out; of each text one stays, the one with the largest draw."""
        if not self.settings.word_dropout:
            return np.arange(len(words.first))
        draws = words.uniform(_DROP)
        dropped = words.changing & (draws < self.settings.word_dropout)
        body = np.flatnonzero(words.body)
        begins, count, _ = _groups(words.text[body])
        if len(body):
            dropped[body[draws[body] == np.repeat(np.maximum.reduceat(draws[body], begins), count)]] = False
        return np.flatnonzero(~dropped)

    def _swapped(self, words: Words, left: np.ndarray) -> np.ndarray:
        """Return the words in their new order: in some texts two neighbouring spans have changed places."""
        if not self.settings.swap:
            return left
        slots = np.flatnonzero(words.changing[left])
        moved, share = left[slots], self.settings.swap
        begins, count, within = _groups(words.text[moved])
        first = moved[begins]
        together = np.clip(np.floor(share * count + 0.5).astype(np.int64), 2, np.maximum(count, 2))
        swaps = (count > 1) & (words.uniform(_SWAP)[first] * together < share * count)
        low = (words.uniform(_BEGIN)[first] * (count - together + 1)).astype(np.int64)
        split = 1 + (words.uniform(_SPLIT)[first] * (together - 1)).astype(np.int64)
        low, split, together = (np.repeat(np.where(swaps, part, 0), count) for part in (low, split, together))
        place = within - low
        shift = np.where((place >= 0) & (place < split), together - split, 0)
        shift -= np.where((place >= split) & (place < together), split, 0)
        order = left.copy()
        order[slots + shift] = moved
        return order

    def _joined(self, words: Words, ids: np.ndarray, order: np.ndarray) -> Tokens:
        """Return the tokens of the words in an order, with punctuation marks before some of them."""
        text, sizes = words.text[order], words.sizes[order]
        before = self._marks_before(words, order, sizes) if self.settings.punctuation else np.full(len(order), -1)
        length = sizes + (before >= 0)
        starts = np.cumsum(length) - length
        within = np.arange(length.sum()) - np.repeat(starts + (before >= 0), length)
        sources = np.repeat(words.first[order], length) + within
        marks = within < 0
        joined = np.where(marks, np.repeat(before, length), ids[np.where(marks, 0, sources)]).astype(np.int32)
        by_text = np.bincount(text, weights=length, minlength=2 * words.count).astype(np.int32).reshape(-1, 2)
        return Tokens.from_lengths(joined, by_text.sum(1), by_text[:, 0])

    def _marks_before(self, words: Words, order: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the id of the mark that comes before each word; -1 for none."""
        before = np.full(len(order), -1, np.int64)
        slots = np.flatnonzero(words.changing[order])
        text = words.text[order[slots]]
        begins, count, _ = _groups(text)
        first, of_text = order[slots[begins]], text[begins]
        wanted = 1 + (words.uniform(_MARKS)[first] * self._most_marks(count)).astype(np.int64)
        room = self.max_length - np.bincount(words.text[order] // 2, weights=sizes, minlength=words.count)
        taken = np.zeros(2 * words.count, np.int64)
        taken[of_text] = wanted
        taken[0::2] = np.minimum(taken[0::2], room)  # the first text of a pair takes what room there is
        taken[1::2] = np.minimum(taken[1::2], room - taken[0::2])
        ranked, rank = rank_within(text, words.uniform(_PLACE)[order[slots]])
        chosen = ranked[rank < taken[text[ranked]]]
        for marks, wants in zip(self.kinds.marks, (~words.is_chinese, words.is_chinese), strict=True):
            here = slots[chosen[wants[text[chosen]]]]
            if len(marks):
                before[here] = marks[(words.uniform(_MARK)[order[here]] * len(marks)).astype(np.int64)]
        return before


def single_words(tokens: Tokens, kinds: TokenKinds) -> tuple[np.ndarray, np.ndarray]:
    """Return the place in the store of each word of one token, and how many of them come before it in its segment."""
    words = Words(tokens, kinds, purpose_key(_PURPOSE, 0, 0), 1.0)
    single = np.flatnonzero(words.body & (words.sizes == 1))
    _, _, before = _groups(words.text[single] // 2)
    return words.sources[words.first[single]], before


def _groups(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the groups of equal neighbours begin, their sizes, and the place of each entry in its group."""
    begins = np.flatnonzero(np.diff(text, prepend=-1))
    count = np.diff(np.append(begins, len(text)))
    return begins, count, np.arange(len(text)) - np.repeat(begins, count)


class Words:
    """The words of some segments, one after the other; a special token is a word by itself."""

    def __init__(self, tokens: Tokens, kinds: TokenKinds, key: np.ndarray, share: float) -> None:
        """Divide tokens into words; `key` is that of the epoch, in which a `share` of the segments changes."""
        self.count = len(tokens)
        """The number of segments."""
        lengths = tokens.lengths.astype(np.int64)
        segment = np.repeat(np.arange(self.count), lengths)
        within = np.arange(len(segment)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.sources = tokens.begins[segment] + within
        """The place of each token in the store."""
        self.ids = np.asarray(tokens.ids[self.sources])
        special, text = kinds.special[self.ids], 2 * segment + (within >= tokens.first_lengths[segment])
        starts = special | ~kinds.inside[self.ids]
        starts[1:] |= special[:-1] | (text[1:] != text[:-1])
        starts[:1] = True
        self.first = np.flatnonzero(starts)
        """The place of each word's first token among these tokens."""
        self.sizes = np.diff(np.append(self.first, len(self.ids)))
        self.text = text[self.first]
        """The number of each word's text: 2 for each segment, the second one for the second text of a pair."""
        self.body = ~special[self.first]
        """Whether each word is no special token."""
        keys = example_keys(key, np.arange(self.count))
        self._keys = keys[self.text // 2]
        _, _, self._places = _groups(self.text // 2)
        self.changing = self.body & (uniform(keys, 0, _SHARE) < share)[self.text // 2]
        """Whether each word may change in this epoch."""
        self._chinese = kinds.chinese

    def uniform(self, purpose: int) -> np.ndarray:
        """Return a number from 0 to below 1 for each word."""
        return uniform(self._keys, self._places.astype(np.uint64) + np.uint64(1), purpose)

    @cached_property
    def is_chinese(self) -> np.ndarray:
        """Whether each text has a Chinese character."""
        found = np.zeros(2 * self.count, bool)
        found[self.text[self._chinese[self.ids[self.first]]]] = True
        return found
