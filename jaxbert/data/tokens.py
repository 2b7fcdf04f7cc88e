"""Texts to token ids, once, into flat arrays.

All examples lie behind one another in one array, so that a million of them are three NumPy objects and not a million lists.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_CHUNK = 4096

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of N examples, special tokens included."""

    ids: np.ndarray
    """int32, all examples behind one another."""
    offsets: np.ndarray
    """int64 [N + 1]: where each example begins, and the end."""
    first_lengths: np.ndarray
    """int32 [N]: tokens before the second text of a pair (token type 0)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int32 [N]."""
        return np.diff(self.offsets).astype(np.int32)


def tokenize(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int, source: str) -> Tokens:
    """Tokenize all examples, cutting those above `max_length` (the longer text of a pair first).

    Args:
      tokenizer: a transformers tokenizer.
      texts: the texts, or the first texts of pairs.
      pairs: the second texts.
      max_length: longest example in tokens, special tokens included.
      source: the data's name, for the note on how many were cut.
    """
    ids: list[np.ndarray] = []
    lengths: list[int] = []
    first_lengths: list[int] = []
    cut = 0
    for part, part_pairs in _chunks(texts, pairs):
        encoded = _encode(tokenizer, part, part_pairs)
        long = [i for i, row in enumerate(encoded["input_ids"]) if len(row) > max_length]
        cut += len(long)
        if long:
            _cut(tokenizer, encoded, long, part, part_pairs, max_length)
        ids.append(np.fromiter(itertools.chain.from_iterable(encoded["input_ids"]), np.int32))
        lengths.extend(len(row) for row in encoded["input_ids"])
        first_lengths.extend(len(row) - sum(row) for row in encoded["token_type_ids"])
    if cut:
        logger.warning("%s: %d of %d texts are longer than %d tokens and were cut", source, cut, len(texts), max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Tokens(np.concatenate(ids), offsets, np.array(first_lengths, np.int32))


def _chunks(texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[tuple[list[str], list[str] | None]]:
    for start in range(0, len(texts), _CHUNK):
        stop = start + _CHUNK
        yield list(texts[start:stop]), None if pairs is None else list(pairs[start:stop])


def _encode(tokenizer: Any, texts: list[str], pairs: list[str] | None, **options: Any) -> Any:
    options = {"truncation": False, "padding": False, **options}
    return tokenizer(texts, pairs, return_attention_mask=False, return_token_type_ids=True, verbose=False, **options)


def _cut(
    tokenizer: Any, encoded: Any, long: list[int], texts: list[str], pairs: list[str] | None, max_length: int
) -> None:
    again = _encode(
        tokenizer,
        [texts[i] for i in long],
        None if pairs is None else [pairs[i] for i in long],
        truncation=True,
        max_length=max_length,
    )
    for key in ("input_ids", "token_type_ids"):
        for i, row in zip(long, again[key], strict=True):
            encoded[key][i] = row
