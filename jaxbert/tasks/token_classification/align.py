"""Cut marked texts into windows of tokens, and map tokens back to words and characters.

A unit is the thing that gets a tag: a word, represented by its first token, or a single token. The words are given, or found
by the tokenizer. `marks` decides the tags of units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from jaxbert.data.offsets import Located, cut_windows, locate_tokens
from jaxbert.data.tokens import Tokens
from jaxbert.tasks.token_classification.read import TaggedText, TaggedTexts

By = Literal["word", "token"]
"""The units of a text, its words or its tokens; given words are always units."""


@dataclass(frozen=True, eq=False)
class Units:
    """The U units of D texts, concatenated."""

    first: np.ndarray
    """int64 [D + 1]: units of text d are first[d] to first[d + 1] - 1."""
    starts: np.ndarray
    """int32 [U]: the unit's first character in its text; for given words, the word's index."""
    ends: np.ndarray
    """int32 [U]: one after the unit's last character; for given words, the word's index plus one."""
    of_tokens: np.ndarray
    """int64 [T]: the unit that a token of a window represents, -1 for none. A unit has at most one such token."""
    first_tokens: np.ndarray
    """int64 [D + 1]: tokens of the windows of text d are first_tokens[d] to first_tokens[d + 1] - 1."""

    def tokens(self, first: int, last: int) -> slice:
        """Return the slice of the tokens of texts `first` to `last - 1`."""
        return slice(int(self.first_tokens[first]), int(self.first_tokens[last]))

    def gather(self, values: np.ndarray, nothing: Any, first: int, last: int) -> np.ndarray:
        """Return the value of the token of each unit of texts `first` to `last - 1`; `nothing` for a unit without a token.

        `values` are the values of the tokens of only these texts.
        """
        low, high = int(self.first[first]), int(self.first[last])
        spoken = self.of_tokens[self.tokens(first, last)]
        found = np.full((high - low, *values.shape[1:]), nothing, values.dtype)
        found[spoken[spoken >= 0] - low] = values[spoken >= 0]
        return found

    def by_text(self, values: np.ndarray, first: int, last: int) -> Iterator[list[Any]]:
        """Yield the values of each text's units; `values` are those of the units of texts `first` to `last - 1`."""
        edges = self.first[first : last + 1] - self.first[first]
        for low, high in pairwise(edges.tolist()):
            yield values[low:high].tolist()

    def scatter(self, values: np.ndarray, nothing: int) -> np.ndarray:
        """Return the value of each token's unit, from values [U]; `nothing` for a token that represents no unit."""
        speaks = self.of_tokens >= 0
        found = np.full(len(self.of_tokens), nothing, values.dtype)
        found[speaks] = values[self.of_tokens[speaks]]
        return found


@dataclass(frozen=True, eq=False)
class Aligned:
    """The windows of tokens of D texts, with their units."""

    tokens: Tokens
    first_windows: np.ndarray
    """int64 [D + 1]: windows of text d are first_windows[d] to first_windows[d + 1] - 1."""
    units: Units
    lengths: np.ndarray
    """int32 [D]: tokens of each text before it was cut into windows, special tokens included."""


@dataclass(frozen=True)
class FoundUnits:
    """The units of one text: the first token of each (if it has one), its index, and its start and end."""

    tokens: np.ndarray
    which: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def align(documents: TaggedTexts, tokenizer: Any, max_length: int, *, stride: int, by: By) -> Aligned:
    """Tokenize texts and cut the long ones into windows; a unit is represented in the window with the most context.

    Args:
      documents: the texts.
      tokenizer: a transformers tokenizer that gives the offsets of tokens.
      max_length: the longest window in tokens, special tokens included.
      stride: the tokens that two windows of a text share; at most half a window.
      by: the units of plain texts.
    """
    begin, end = (np.array([token], np.int32) for token in (tokenizer.cls_token_id, tokenizer.sep_token_id))
    ids: list[np.ndarray] = []
    speaks: list[np.ndarray] = []
    found_units: list[FoundUnits] = []
    first_windows, first_units, whole = [0], [0], []
    for document, located in zip(documents.items, locate_documents(documents, tokenizer), strict=True):
        found = find_units(located, document, by)
        whole.append(len(located.ids) + 2)
        windows = windows_of(located, found, max_length, stride)
        owners = _owners(found.tokens, windows)
        for number, (low, high) in enumerate(windows):
            mine = owners == number
            unit = np.full(high - low + 2, -1, np.int64)
            unit[1 + found.tokens[mine] - low] = first_units[-1] + found.which[mine]
            ids += [begin, located.ids[low:high], end]
            speaks.append(unit)
        found_units.append(found)
        first_units.append(first_units[-1] + len(found.starts))
        first_windows.append(first_windows[-1] + len(windows))
    lengths = np.array([len(unit) for unit in speaks], np.int32)
    units = Units(
        first=np.array(first_units, np.int64),
        starts=np.concatenate([found.starts for found in found_units]).astype(np.int32),
        ends=np.concatenate([found.ends for found in found_units]).astype(np.int32),
        of_tokens=np.concatenate(speaks),
        first_tokens=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[first_windows],
    )
    tokens = Tokens.from_lengths(np.concatenate(ids), lengths, lengths)
    return Aligned(tokens, np.array(first_windows, np.int64), units, np.array(whole, np.int32))


def locate_documents(documents: TaggedTexts, tokenizer: Any) -> list[Located]:
    """Tokenize all lists of words in one call, and all texts in another."""
    items = documents.items
    results: dict[int, Located] = {}
    for worded in (True, False):
        chosen = [i for i, document in enumerate(items) if (document.words is not None) == worded]
        texts: Any = [items[i].words if worded else items[i].text for i in chosen]
        results |= zip(chosen, locate_tokens(tokenizer, texts, documents.source), strict=True)
    return [results[i] for i in range(len(items))]


def find_units(located: Located, document: TaggedText, by: By) -> FoundUnits:
    """Return the units of one text from its tokens."""
    if document.words is None and by == "token":
        begins = np.arange(len(located.ids))
    else:
        changes = np.flatnonzero(np.diff(located.words, prepend=-1))
        begins = changes[located.words[changes] >= 0]
    if document.words is not None:
        places = np.arange(len(document.words))
        return FoundUnits(begins, located.words[begins], places, places + 1)
    lasts = np.append(begins[1:], [len(located.ids)] * (len(begins) > 0)).astype(np.int64) - 1
    return FoundUnits(begins, np.arange(len(begins)), located.offsets[begins, 0], located.offsets[lasts, 1])


def windows_of(located: Located, units: FoundUnits, max_length: int, stride: int) -> list[tuple[int, int]]:
    """Return the first token of each window of a text, and the token after its last one; arguments as for `align`."""
    room = max_length - 2
    return cut_windows(len(located.ids), room, min(stride, room // 2), units.tokens)


def _owners(begins: np.ndarray, windows: list[tuple[int, int]]) -> np.ndarray:
    """Return the window of each unit: the first in which its token has the most tokens on the side with fewer."""
    owner = np.zeros(len(begins), np.int64)
    if len(windows) == 1:
        return owner
    most = np.full(len(begins), -1)
    for number, (low, high) in enumerate(windows):
        context = np.minimum(begins - low, high - 1 - begins)
        better = context > most
        owner[better], most[better] = number, context[better]
    return owner
