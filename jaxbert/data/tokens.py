"""Texts to token ids, in flat arrays.

All examples lie in one array, so that a million of them are a few NumPy objects and not a million lists. Where the arrays
are kept is `store`'s part.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxbert.data.long_texts import LongTexts


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of N examples, special tokens included."""

    ids: np.ndarray
    """int32: the examples' tokens, each example's in one stretch."""
    begins: np.ndarray
    """int64 [N]: where each example begins in `ids`."""
    lengths: np.ndarray
    """int32 [N]: tokens of each example."""
    first_lengths: np.ndarray
    """int32 [N]: tokens before the second text of a pair (token type 0)."""

    @classmethod
    def behind_one_another(cls, ids: np.ndarray, lengths: np.ndarray, first_lengths: np.ndarray) -> Tokens:
        """Make tokens of examples that follow each other without a gap."""
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(ids, ends - lengths, lengths.astype(np.int32, copy=False), first_lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, indices: np.ndarray) -> Tokens:
        """Return the examples at `indices`, in that order; their ids are shared."""
        return Tokens(self.ids, self.begins[indices], self.lengths[indices], self.first_lengths[indices])


@dataclass(frozen=True)
class Encoded:
    """Some examples as the tokenizer gave them, behind one another."""

    ids: np.ndarray
    lengths: np.ndarray
    first_lengths: np.ndarray
    cut: int
    """How many were longer than allowed."""
    windows: np.ndarray
    """int32: pieces of each text; empty where each is one."""
    whole: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32: tokens of each text before it was cut; empty where that is not asked for."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What a task keeps besides."""


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Put encoded examples behind one another; there may be none."""
    nothing = np.zeros(0, np.int32)
    return Encoded(
        ids=np.concatenate([nothing, *(part.ids for part in parts)]),
        lengths=np.concatenate([nothing, *(part.lengths for part in parts)]),
        first_lengths=np.concatenate([nothing, *(part.first_lengths for part in parts)]),
        cut=sum(part.cut for part in parts),
        windows=np.concatenate([nothing, *(part.windows for part in parts)]),
        whole=np.concatenate([nothing, *(part.whole for part in parts)]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        if parts
        else {},
    )


def encode_texts(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    long_texts: LongTexts = LongTexts(),  # noqa: B008 (frozen)
) -> Encoded:
    """Tokenize, cutting examples above `max_length` (of a pair, the end of the longer text first).

    Args:
      tokenizer: a transformers tokenizer.
      texts: the texts, or the first texts of pairs; few enough to be held as lists.
      pairs: the second texts.
      max_length: longest example in tokens, special tokens included.
      long_texts: how longer ones are cut; for pairs, at the end alone.
    """
    ids, types = _encode_whole(tokenizer, texts, pairs)
    whole = np.fromiter(map(len, ids), np.int32, len(ids))
    long = np.flatnonzero(whole > max_length).tolist()
    windows = np.zeros(0, np.int32)
    if long_texts.how != "cut":
        pieces = [long_texts.cut(row, max_length) if len(row) > max_length else [row] for row in ids]
        if long_texts.how == "windows":
            windows = np.fromiter(map(len, pieces), np.int32, len(pieces))
        ids = list(itertools.chain.from_iterable(pieces))
        types = [[0] * len(row) for row in ids]
    elif long:
        again = _call(
            tokenizer,
            [texts[i] for i in long],
            None if pairs is None else [pairs[i] for i in long],
            truncation=True,
            max_length=max_length,
        )
        for i, row, row_types in zip(long, again["input_ids"], again["token_type_ids"], strict=True):
            ids[i], types[i] = row, row_types
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    return Encoded(
        ids=np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(lengths.sum(dtype=np.int64))),
        lengths=lengths,
        first_lengths=lengths - np.fromiter(map(sum, types), np.int32, len(types)),
        cut=len(long),
        windows=windows,
        whole=whole,
    )


def _encode_whole(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Return ids and token types of each example, uncut.

    The Rust tokenizer is called itself where there is one: through transformers the same takes 1.4 times as long.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        encoded = _call(tokenizer, list(texts), None if pairs is None else list(pairs), truncation=False)
        return encoded["input_ids"], encoded["token_type_ids"]
    forget_lengths(tokenizer)
    backend.encode_special_tokens = tokenizer.split_special_tokens
    examples = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    encodings = backend.encode_batch_fast(examples)
    return [encoding.ids for encoding in encodings], [encoding.type_ids for encoding in encodings]


def forget_lengths(tokenizer: Any) -> None:
    """Undo truncation and padding, which a tokenizer keeps from its file or its last call and would save with itself."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def _call(tokenizer: Any, texts: list[str], pairs: list[str] | None, **options: Any) -> Any:
    options = {"padding": False, "return_attention_mask": False, "return_token_type_ids": True, **options}
    return tokenizer(texts, pairs, verbose=False, **options)
