"""Which tokens of a text make a word, and where the word stands in the text.

A word is what the tokenizer splits a text into before it looks at its vocabulary: a run of letters and digits, a punctuation
mark, a Chinese character. `attribution` gives weights to words by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.examples import Examples
from jaxbert.data.offsets import Located, locate_tokens
from jaxbert.data.table import Table, at_row
from jaxbert.data.tokens import LongTexts, Tokens
from jaxbert.errors import UserError

NO_WORD = -1
"""The number of a token that belongs to no word."""


@dataclass(frozen=True, eq=False)
class Words:
    """The U words of D texts, or pairs of texts, that the model reads, numbered from 0."""

    texts: Sequence[tuple[str, ...]]
    """The text, or both texts of a pair, of each example."""
    first: np.ndarray
    """int64 [D + 1]: words of example d are first[d] to first[d + 1] - 1."""
    which: np.ndarray
    """int32 [U]: 0 for a word of the first text, 1 for one of the second."""
    starts: np.ndarray
    """int32 [U]: the first character of the word in its text."""
    ends: np.ndarray
    """int32 [U]: one after its last character."""
    of_tokens: np.ndarray
    """int32, aligned with `tokens.ids`: the word of each token, -1 for special tokens."""

    def of_example(self, example: int) -> list[dict[str, Any]]:
        """Return the words of an example: `text`, `start`, `end`, and for pairs `pair`, 0 or 1."""
        texts, found = self.texts[example], []
        for word in range(int(self.first[example]), int(self.first[example + 1])):
            which, start, end = int(self.which[word]), int(self.starts[word]), int(self.ends[word])
            entry: dict[str, Any] = {"pair": which} if len(texts) == 2 else {}
            found.append(entry | {"text": texts[which][start:end], "start": start, "end": end})
        return found


@dataclass
class _Numbered:
    """The words of one text that the model reads."""

    tokens: np.ndarray
    """int64 [n]: the tokens that are read, ascending."""
    of_tokens: np.ndarray
    """int64 [n]: the word of each of them, from 0; -1 for none."""
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, located: Located, tokens: np.ndarray) -> _Numbered:
        words, offsets = located.words[tokens], located.offsets[tokens]
        begins = np.diff(words, prepend=-1) != 0
        begins &= words >= 0
        ends = np.diff(words, append=-1) != 0
        ends &= words >= 0
        of_tokens = np.where(words >= 0, np.cumsum(begins) - 1, NO_WORD)
        return cls(tokens, of_tokens, offsets[begins, 0], offsets[ends, 1])

    def word_of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the words of some of the tokens that are read."""
        return self.of_tokens[np.searchsorted(self.tokens, tokens)]


def words_of_texts(table: Table, examples: Examples, tokenizer: Any, long_texts: LongTexts, max_length: int) -> Words:
    """Find the words of texts that were tokenized as `examples`, whose segments follow each other in `tokens.ids`.

    Words that are cut off are left out.

    Raises:
      UserError: if the tokenizer cannot say where tokens come from, or changes the text around special tokens.
    """
    both = [table.texts] if table.pairs is None else [table.texts, table.pairs]
    located = [list(locate_tokens(tokenizer, texts, table.source)) for texts in both]
    tokens, windows = examples.tokens, examples.windows
    firsts = np.arange(len(tokens) + 1) if windows is None else windows.first
    of_tokens = np.full(len(tokens.ids), NO_WORD, np.int32)
    first, which, starts, ends = [0], [], [], []
    for example in range(len(examples)):
        texts = [part[example] for part in located]
        segments = range(int(firsts[example]), int(firsts[example + 1]))
        pieces = _pieces(texts, tokens, segments, long_texts, max_length)
        base = first[-1]
        for number, text in enumerate(texts):
            read = [piece[number] for piece in pieces]
            found = _Numbered.of(text, np.unique(np.concatenate(read)))
            for segment, own in zip(segments, read, strict=True):
                skipped = 1 if number == 0 else int(tokens.first_lengths[segment])
                begin = int(tokens.begins[segment]) + skipped
                known = not len(own) or own[-1] < len(text.ids)
                if not known or not np.array_equal(tokens.ids[begin : begin + len(own)], text.ids[own]):
                    where = at_row(table.source, table.row(example))
                    raise UserError(
                        f"{where}: the tokenizer does not say which word each token of this text belongs to"
                    )
                numbers = found.word_of(own)
                of_tokens[begin : begin + len(own)] = np.where(numbers >= 0, numbers + base, NO_WORD)
            which.append(np.full(len(found.starts), number, np.int32))
            starts.append(found.starts)
            ends.append(found.ends)
            base += len(found.starts)
        first.append(base)
    nothing = np.zeros(0, np.int32)
    joined = (np.concatenate([nothing, *part]) for part in (which, starts, ends))
    texts_of = list(zip(*both, strict=True))
    return Words(texts_of, np.array(first, np.int64), *joined, of_tokens)


def _pieces(
    texts: list[Located], tokens: Tokens, segments: range, long_texts: LongTexts, max_length: int
) -> list[list[np.ndarray]]:
    """Return for each segment of an example the tokens of each of its texts that the segment holds, int64."""
    count = len(texts[0].ids)
    if len(texts) == 1 and long_texts.how != "cut" and count + 2 > max_length:
        return [[np.array(piece[1:-1], int)] for piece in long_texts.cut([-1, *range(count), -1], max_length)]
    length, first = int(tokens.lengths[segments[0]]), int(tokens.first_lengths[segments[0]])
    return [[np.arange(kept) for kept in (first - 2, length - first - 1)[: len(texts)]]]
