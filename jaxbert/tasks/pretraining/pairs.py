"""Combine the sentences of a corpus to examples of at most `max_length` tokens. `corpus` reads them, `masking` masks them.

For next-sentence prediction an example is `[CLS] A [SEP] B [SEP]`: consecutive sentences of a document, divided at a random
sentence. In half of the examples B is from another document instead: complete sentences of about the same length, so that
neither length nor form shows the label. Otherwise an example is `[CLS] A [SEP]`. No example crosses the end of a document,
and every token of the corpus is in an example; a sentence that is too long is cut.

Examples are the same in every epoch (masks are not), so lengths, rows and steps are known before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from jaxbert.data import store
from jaxbert.data.label_column import LabelVocabulary
from jaxbert.data.store import Stored, Writer
from jaxbert.data.tokens import Encoded
from jaxbert.errors import UserError
from jaxbert.tasks.pretraining.corpus import Corpus

NEXT, RANDOM = 0, 1
"""The labels of a pair, as in transformers."""
_LEGEND = LabelVocabulary(["next", "random"], [1, 1], None)
_PURPOSE = 0x70616972
_TRIES = 4
"""The most draws to find a second half that is not cut."""
_PART = 16_384
_SENTENCES = 65_536


@dataclass(frozen=True)
class Recipe:
    """The settings for combining sentences to examples."""

    max_length: int
    """The most tokens of an example, special tokens included."""
    next_sentence: bool
    cls_id: int
    sep_id: int
    seed: int

    @property
    def specials(self) -> int:
        """The number of special tokens of an example."""
        return 3 if self.next_sentence else 2


@dataclass(frozen=True)
class _Example:
    """Two slices [low, high) of the corpus's token ids; without a pair, the second is empty."""

    first: tuple[int, int]
    second: tuple[int, int] = (0, 0)
    label: int = NEXT


def make_pair_examples(
    corpus: Corpus, recipe: Recipe, *, chosen: np.ndarray | None = None, folder: Path | None = None
) -> Stored:
    """Return the examples of a corpus, or of some documents, in memory-mapped files; labels are `NEXT` and `RANDOM`.

    Args:
      corpus: the corpus with the sentences.
      recipe: the settings for combining them.
      chosen: the indices of the documents to use, ascending; None for all.
      folder: the cache, for the next start; None for no cache.

    Raises:
      UserError: if these documents give no pair.
    """
    documents = np.arange(len(corpus)) if chosen is None else chosen
    documents = documents[np.diff(corpus.ends)[documents] > 1]
    if recipe.next_sentence:
        _check_pairs(corpus, documents)
    settings = [recipe.max_length, recipe.next_sentence, recipe.cls_id, recipe.sep_id, recipe.seed]
    content = ["examples", corpus.identity, settings, None if chosen is None else chosen.tolist()]
    name = None if corpus.identity is None else store.entry_of(content)

    def write(written: Path) -> None:
        _write(corpus, documents, recipe, written)

    return store.cached(corpus.name, lambda: name, write, folder=folder)


def _check_pairs(corpus: Corpus, documents: np.ndarray) -> None:
    sizes = np.diff(corpus.ends)[documents] - 1
    way = "give more documents (pretrain.documents says how they are divided), or set pretrain.next_sentence to false"
    if len(documents) < 2:
        raise UserError(f"{corpus.name}: {len(documents)} document, but next-sentence prediction needs two: {way}")
    if sizes.max() < 2:
        raise UserError(
            f"{corpus.name}: no document has two sentences, which next-sentence prediction needs: set "
            "pretrain.next_sentence to false (pretrain.sentences and pretrain.documents say how text is divided)"
        )


def _write(corpus: Corpus, documents: np.ndarray, recipe: Recipe, folder: Path) -> None:
    examples = _Pairs(corpus, documents, recipe).all() if recipe.next_sentence else _singles(corpus, documents, recipe)
    with Writer(folder) as writer:
        while part := list(islice(examples, _PART)):
            writer.add(_assemble(part, corpus.sentences.ids, recipe))
            writer.add_labels(np.array([example.label for example in part], np.int32))
        writer.finish(_LEGEND)


def _assemble(part: list[_Example], ids: np.ndarray, recipe: Recipe) -> Encoded:
    """Gather the tokens of examples, and add the special tokens."""
    ranges = np.array([[*example.first, *example.second] for example in part], np.int64)
    first, second = ranges[:, 1] - ranges[:, 0], ranges[:, 3] - ranges[:, 2]
    lengths = first + second + recipe.specials
    ends = np.cumsum(lengths)
    begins = ends - lengths
    result = np.full(int(ends[-1]), recipe.sep_id, np.int32)
    result[begins] = recipe.cls_id
    for at, begin, count in ((begins + 1, ranges[:, 0], first), (begins + first + 2, ranges[:, 2], second)):
        result[_stretches(at, count)] = ids[_stretches(begin, count)]
    before = first + 2 if recipe.next_sentence else lengths
    none = np.zeros(0, np.int32)
    return Encoded(result, lengths.astype(np.int32), before.astype(np.int32), cut=0, windows=none)


def _stretches(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the indices in slices with these begins and lengths, concatenated."""
    ends = np.cumsum(counts)
    return np.repeat(begins - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def _blocks(corpus: Corpus, document: int, most: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the sentences of a document as slices of token ids; those longer than `most` are cut.

    A document is one block, unless a list of its sentences would fill the memory.
    """
    low, high = int(corpus.ends[document]) + 1, int(corpus.ends[document + 1])
    for start in range(low, high, _SENTENCES):
        stop = min(start + _SENTENCES, high)
        begins, lengths = corpus.sentences.begins[start:stop].tolist(), corpus.sentences.lengths[start:stop].tolist()
        yield [
            (cut, min(cut + most, begin + length))
            for begin, length in zip(begins, lengths, strict=True)
            for cut in range(begin, begin + length, most)
        ]


def _singles(corpus: Corpus, documents: np.ndarray, recipe: Recipe) -> Iterator[_Example]:
    """Yield examples of consecutive sentences, as many as fit."""
    most = recipe.max_length - recipe.specials
    for document in documents.tolist():
        for pieces in _blocks(corpus, document, most):
            begin, end = pieces[0]
            for low, high in pieces[1:]:
                if high - begin > most:
                    yield _Example((begin, end))
                    begin = low
                end = high
            yield _Example((begin, end))


class _Pairs:
    """Makes pairs, document by document, with one random generator."""

    def __init__(self, corpus: Corpus, documents: np.ndarray, recipe: Recipe) -> None:
        self._corpus = corpus
        self._documents = documents
        self._most = recipe.max_length - recipe.specials
        self._rng = np.random.default_rng([recipe.seed, _PURPOSE])
        self._owed = 0
        """The number of true pairs that must balance lone sentences, whose second half is always random."""

    def all(self) -> Iterator[_Example]:
        """Yield the pairs of all documents."""
        for place, document in enumerate(self._documents.tolist()):
            # Two halves always fit, so that no token is left out.
            for pieces in _blocks(self._corpus, document, self._most // 2):
                at = 0
                while at < len(pieces):
                    stop = self._chunk(pieces, at)
                    example, at = self._pair(pieces, at, stop, place)
                    yield example

    def _chunk(self, pieces: list[tuple[int, int]], at: int) -> int:
        """Return the end of the sentences that fill an example; at least two sentences, if two remain."""
        stop = min(at + 2, len(pieces))
        while stop < len(pieces) and pieces[stop][1] - pieces[at][0] <= self._most:
            stop += 1
        # A lone last sentence would have no next one.
        return stop if len(pieces) - stop != 1 or stop - at < 3 else stop - 1

    def _pair(self, pieces: list[tuple[int, int]], at: int, stop: int, place: int) -> tuple[_Example, int]:
        """Return an example of the sentences from `at` to `stop - 1`, and the first sentence of the next example."""
        if stop - at == 1:
            self._owed += 1
            return self._with_random(pieces[at], pieces[at][1] - pieces[at][0], place), stop
        cut = at + int(self._rng.integers(1, stop - at))
        first, second = (pieces[at][0], pieces[cut - 1][1]), (pieces[cut][0], pieces[stop - 1][1])
        if self._is_next():
            return _Example(first, second), stop
        return self._with_random(first, second[1] - second[0], place), cut

    def _is_next(self) -> bool:
        if self._owed:
            self._owed -= 1
            return True
        return bool(self._rng.integers(2))

    def _with_random(self, first: tuple[int, int], length: int, place: int) -> _Example:
        """Pair a slice with sentences of another document, with a length as near to `length` tokens as found."""
        room = self._most - (first[1] - first[0])
        for _ in range(_TRIES):
            other = int(self._rng.integers(len(self._documents) - 1))
            second = self._sentences_of(int(self._documents[other + (other >= place)]), length)
            if second[1] - second[0] <= room:
                return _Example(first, second, RANDOM)
        return _Example(first, (second[0], second[0] + room), RANDOM)

    def _sentences_of(self, document: int, length: int) -> tuple[int, int]:
        """Return complete sentences from a random place of a document, about `length` tokens if it has that many."""
        low, high = int(self._corpus.ends[document]) + 1, int(self._corpus.ends[document + 1])
        begins, lengths = self._corpus.sentences.begins, self._corpus.sentences.lengths
        last = int(begins[high - 1]) + int(lengths[high - 1])
        early = int(np.searchsorted(begins[low:high], last - length, side="right"))  # up to here, enough tokens follow
        start = low + int(self._rng.integers(max(1, early)))
        begin = int(begins[start])
        above = start + int(np.searchsorted(begins[start + 1 : high], begin + length)) + 1
        end = int(begins[above]) if above < high else last
        below = int(begins[above - 1])
        return (begin, below) if below > begin and begin + length - below < end - begin - length else (begin, end)
