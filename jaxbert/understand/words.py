"""Which words an explained answer was read from: the tokens of each word, and where the word stands in the text.

A word is what the tokenizer splits a text into before it looks at its vocabulary: a run of letters and digits, a punctuation
mark, a Chinese character; or a word that was given. `attribution` gives weights to words by their numbers, `items` says
which answers are explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxbert.data.examples import Examples, Windows
from jaxbert.data.offsets import Located
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError

NO_WORD = -1
"""The number of a token that belongs to no word."""
Text = str | list[str]
"""A text, or a list of words."""


class Piece(NamedTuple):
    """The tokens of one text that stand in a segment, one after the other."""

    begin: int
    """The place of the first of them in the segment."""
    tokens: np.ndarray
    """int64 [n]: their places among all tokens of the text, ascending."""


class Segment(NamedTuple):
    """A segment as the model reads it, with the piece of each text."""

    ids: np.ndarray
    first_length: int
    """Its tokens of type 0."""
    pieces: Sequence[Piece]


@dataclass(frozen=True, eq=False)
class Items:
    """K answers that are explained, with the U words that they were read from."""

    examples: Examples
    """`labels` are the outputs to explain, `token_labels` the number of each token's word, -1 for none."""
    first: np.ndarray
    """int64 [K + 1]: words of item k are first[k] to first[k + 1] - 1."""
    words: Sequence[list[dict[str, Any]]]
    """The words of each item: `text`, `start` and `end` in characters, or given words; of two texts `pair`, 0 or 1."""
    heads: Sequence[dict[str, Any]]
    """What each answer says beside the weights: `label`, `score` and more."""
    texts: Sequence[tuple[Text, ...]]
    """The texts of each of the D inputs."""
    counts: Sequence[int]
    """The number of items of each input, [D]; items of one input follow each other."""

    def __len__(self) -> int:
        return len(self.heads)


class ItemBuilder:
    """Collects items one after the other."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._first_lengths: list[int] = []
        self._of_tokens: list[np.ndarray] = []
        self._segments: list[int] = []
        self._labels: list[Any] = []
        self._first = [0]
        self._words: list[list[dict[str, Any]]] = []
        self._heads: list[dict[str, Any]] = []
        self._texts: list[tuple[Text, ...]] = []
        self._counts: list[int] = []
        self._located: Sequence[tuple[Text, Located]] = ()

    def begin(self, texts: Sequence[tuple[Text, Located]]) -> None:
        """Begin the next input: its texts, with their tokens."""
        self._located = texts
        self._texts.append(tuple(text for text, _ in texts))
        self._counts.append(0)

    def add(self, segments: Sequence[Segment], label: Any, head: dict[str, Any]) -> None:
        """Add an answer for the input.

        Args:
          segments: the segments that the model reads; words outside of them are left out.
          label: the output, as the task's `explained` takes it.
          head: what the answer says beside the weights.

        Raises:
          UserError: if the tokens of a segment are not those of its texts.
        """
        base, words = self._first[-1], list[dict[str, Any]]()
        of_tokens = [np.full(len(segment.ids), NO_WORD, np.int32) for segment in segments]
        for which, (text, located) in enumerate(self._located):
            pieces = [segment.pieces[which] for segment in segments]
            found = _Numbered.of(located, np.unique(np.concatenate([piece.tokens for piece in pieces])))
            for segment, numbers, piece in zip(segments, of_tokens, pieces, strict=True):
                at = slice(piece.begin, piece.begin + len(piece.tokens))
                if not np.array_equal(segment.ids[at], located.ids[piece.tokens]):
                    raise UserError(
                        f"the tokenizer does not say which words the tokens of {str(text)[:40]!r} come from"
                    )
                own = found.word_of(piece.tokens)
                numbers[at] = np.where(own >= 0, own + base + len(words), NO_WORD)
            pair = {"pair": which} if len(self._located) == 2 else {}
            words += [pair | word for word in found.describe(text)]
        self._ids += [segment.ids for segment in segments]
        self._first_lengths += [segment.first_length for segment in segments]
        self._of_tokens += of_tokens
        self._segments.append(len(segments))
        self._labels.append(label)
        self._first.append(base + len(words))
        self._words.append(words)
        self._heads.append(head)
        self._counts[-1] += 1

    def finish(self) -> Items:
        """Return all items."""
        nothing = np.zeros(0, np.int32)
        lengths = np.array([len(ids) for ids in self._ids], np.int32)
        ids = np.concatenate([nothing, *self._ids]).astype(np.int32)
        tokens = Tokens.from_lengths(ids, lengths, np.array(self._first_lengths, np.int32))
        several = len(lengths) > len(self._labels)
        examples = Examples(
            tokens,
            np.array(self._labels, np.int32),
            token_labels=np.concatenate([nothing, *self._of_tokens]),
            windows=Windows.of_counts(np.array(self._segments)) if several else None,
        )
        return Items(examples, np.array(self._first, np.int64), self._words, self._heads, self._texts, self._counts)


@dataclass
class _Numbered:
    """The words of one text that the model reads."""

    tokens: np.ndarray
    """int64 [n]: the tokens that are read, ascending."""
    of_tokens: np.ndarray
    """int64 [n]: the word of each of them, from 0; -1 for none."""
    given: np.ndarray
    """int32 [U]: the number that the tokenizer gives to each word."""
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, located: Located, tokens: np.ndarray) -> _Numbered:
        words, offsets = located.words[tokens], located.offsets[tokens]
        begins = (np.diff(words, prepend=-1) != 0) & (words >= 0)
        ends = (np.diff(words, append=-1) != 0) & (words >= 0)
        of_tokens = np.where(words >= 0, np.cumsum(begins) - 1, NO_WORD)
        return cls(tokens, of_tokens, words[begins], offsets[begins, 0], offsets[ends, 1])

    def word_of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the words of some of the tokens that are read."""
        return self.of_tokens[np.searchsorted(self.tokens, tokens)]

    def describe(self, text: Text) -> list[dict[str, Any]]:
        """Return text, start and end of each word."""
        if isinstance(text, list):
            return [{"text": text[i], "start": i, "end": i + 1} for i in self.given.tolist()]
        places = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [{"text": text[start:end], "start": start, "end": end} for start, end in places]
