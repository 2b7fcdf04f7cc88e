"""Tokenize texts with the characters and words that each token comes from, and cut long texts into windows of tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxbert.data.tokens import forget_lengths
from jaxbert.errors import UserError, foreign_errors

_CHARACTERS = 2**20
"""Characters that are tokenized at once, roughly: the tokenizer's result takes some hundred bytes a token."""


class Located(NamedTuple):
    """The tokens of a text, without special ones."""

    ids: np.ndarray
    """int32 [n]"""
    offsets: np.ndarray
    """int32 [n, 2]: the first character, and one after the last; counted in its word where words were given. Combining
    marks that the tokenizer drops belong to the character before them."""
    words: np.ndarray
    """int32 [n]: the index of the word, given or found by the tokenizer; -1 for none."""


def locate_tokens(tokenizer: Any, texts: Sequence[str] | Sequence[list[str]], source: str) -> Iterator[Located]:
    """Tokenize texts, or lists of words, without a limit of length.

    Raises:
      UserError: if the tokenizer cannot give the offsets of its tokens, or fails.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("the model's tokenizer does not tell where tokens come from: save it with a tokenizer.json")
    forget_lengths(tokenizer)
    backend.encode_special_tokens = tokenizer.split_special_tokens
    for part in _slices(texts):
        with foreign_errors(f"{source}: the tokenizer fails on a text"):
            encodings = backend.encode_batch(
                part, is_pretokenized=not isinstance(part[0], str), add_special_tokens=False
            )
        for text, encoding in zip(part, encodings, strict=True):
            offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
            yield Located(
                np.array(encoding.ids, np.int32),
                _with_marks(offsets, text) if isinstance(text, str) and not text.isascii() else offsets,
                np.array([-1 if word is None else word for word in encoding.word_ids], np.int32),
            )


def _with_marks(offsets: np.ndarray, text: str) -> np.ndarray:
    """Extend each token over the combining marks that follow it and belong to no token."""
    begins = set(offsets[:, 0].tolist())
    for token, end in enumerate(offsets[:, 1].tolist()):
        while end < len(text) and end not in begins and unicodedata.category(text[end]).startswith("M"):
            end += 1
            offsets[token, 1] = end
    return offsets


def _slices(texts: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield slices with about the same number of characters."""
    part: list[Any] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text) if isinstance(text, str) else sum(map(len, text)) + len(text)
        if characters > _CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def cut_windows(length: int, room: int, overlap: int, begins: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Cut `length` tokens into windows [low, high) of at most `room`; each shares `overlap` tokens with the one before.

    `begins` are the tokens that begin a word, ascending. If given, windows do not cut a word that is shorter than a window,
    and may share fewer tokens. A text without tokens is one empty window.
    """
    begins = np.arange(length) if begins is None else begins
    windows, low = [], 0
    while True:
        high = min(low + room, length)
        if high < length:
            before = begins[: np.searchsorted(begins, high, "right")]
            high = int(before[-1]) if len(before) and before[-1] > low else high
        windows.append((low, high))
        if high == length:
            return windows
        next_begins = begins[np.searchsorted(begins, max(high - overlap, low + 1)) :]
        low = min(int(next_begins[0]), high) if len(next_begins) else high
