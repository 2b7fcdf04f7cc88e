"""Tokenize texts into flat arrays of token ids, and collect facts about the texts before they are cut.

All segments share one array, so that a million of them are a few NumPy objects and not a million lists. Long texts are cut
at the end, in the middle, or into windows. With several processes, each tokenizes a shard of every part, and all get all
tokens. `store` keeps the arrays."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash

from jaxbert.data.table import Facts, Place, Row, Table, at_row
from jaxbert.errors import foreign_errors

How = Literal["cut", "head_tail", "windows"]
Pooling = Literal["mean", "max"]
_HEAD = 4
"""For a text that is cut in the middle, one in this many kept tokens is from its start (Sun et al., 2019: 128 of 510)."""
_MOST_SHARED = 128
PART_CHARACTERS = 2**20
"""Characters that are tokenized at once, roughly: the tokenizer's result takes some hundred bytes a token."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class LongTexts:
    """How long texts are read."""

    how: How = "cut"
    shared: int = 0
    """The number of tokens that neighbouring windows share; at most half a window."""

    def cut(self, ids: Sequence[int], max_length: int) -> list[list[int]]:
        """Return the pieces of a text of more than `max_length` tokens; each has the special tokens at both ends.

        Args:
          ids: the text's tokens, with a special token at both ends.
          max_length: the longest piece in tokens, special tokens included.
        """
        body, room = list(ids[1:-1]), max_length - 2
        if self.how == "head_tail":
            head = room // _HEAD
            pieces = [body[:head] + body[len(body) - (room - head) :]]
        else:
            step = room - min(self.shared, room // 2)
            count = 1 + max(0, -(-(len(body) - room) // step))
            pieces = [body[i * step : i * step + room] for i in range(count)]
        return [[ids[0], *piece, ids[-1]] for piece in pieces]


def resolve_shared(window_stride: int | None, max_length: int) -> int:
    """Return how many tokens windows share: `window_stride`, else a quarter of `max_length`, at most 128."""
    return min(max_length // 4, _MOST_SHARED) if window_stride is None else window_stride


@dataclass(frozen=True)
class Reading:
    """How long texts were read in training; an export keeps it."""

    long_texts: LongTexts = LongTexts()
    pooling: Pooling | None = None
    """How the outputs of a text's windows are combined; None if each text is one segment."""
    max_length: int | None = None
    """The longest segment in tokens; None for the model's own limit."""
    pairs: bool = False
    """Whether examples are pairs of texts, which are always cut."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, content: Any) -> Reading:
        """Return the reading that `to_dict` wrote; for invalid values, texts are cut at the model's own limit."""
        cut = cls(pairs=isinstance(content, dict) and content.get("pairs") is True)
        try:
            long_texts = LongTexts(content["long_texts"]["how"], int(content["long_texts"]["shared"]))
            length = None if content["max_length"] is None else int(content["max_length"])
            reading = cls(long_texts, content["pooling"], length, cut.pairs)
        except (KeyError, TypeError, ValueError):
            return cut
        known = reading.pooling in ("mean", "max", None) and long_texts.how in ("cut", "head_tail", "windows")
        whole = long_texts.how == "cut" if length is None else 0 <= long_texts.shared < length - 2
        return reading if known and whole else cut


AS_IT_IS = Reading()
"""Texts that are cut at the model's own limit."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of N segments, special tokens included."""

    ids: np.ndarray
    """int32: the tokens of all segments; each segment is one slice."""
    begins: np.ndarray
    """int64 [N]: the index in `ids` of each segment's first token."""
    lengths: np.ndarray
    """int32 [N]: the number of tokens of each segment."""
    first_lengths: np.ndarray
    """int32 [N]: tokens before the second text of a pair (token type 0)."""

    @classmethod
    def from_lengths(cls, ids: np.ndarray, lengths: np.ndarray, first_lengths: np.ndarray) -> Tokens:
        """Build the tokens of segments that follow each other in `ids` without a gap."""
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(ids, ends - lengths, lengths.astype(np.int32, copy=False), first_lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, indices: np.ndarray) -> Tokens:
        """Return the segments at `indices`, in that order; `ids` is shared, not copied."""
        return Tokens(self.ids, self.begins[indices], self.lengths[indices], self.first_lengths[indices])


@dataclass(frozen=True)
class Encoded:
    """The segments of some texts, concatenated; `ids`, `lengths` and `first_lengths` as in `Tokens`."""

    ids: np.ndarray
    lengths: np.ndarray
    first_lengths: np.ndarray
    cut: int
    """The number of texts that were longer than allowed."""
    windows: np.ndarray
    """int32: the number of segments of each text; empty if each text is one segment."""
    whole: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32: tokens of each text before it was cut; may be empty."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays of a task, by name."""


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate encoded texts; without parts, return empty arrays."""
    if len(parts) == 1:
        return parts[0]
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


def say_cut(source: str, cut: int, texts: int, windows: int, max_length: int) -> None:
    """Tell the user how many texts were cut, or read in how many windows."""
    became = f"read in {windows:,} windows" if windows else "cut"
    message = "%s: %d of %d texts are longer than %d tokens and were %s"
    logger.warning(message, source, cut, texts, max_length, became)


def encode_shared(
    part: Table, tokenizer: Any, max_length: int, long_texts: LongTexts, shard: Shard
) -> Iterator[Encoded]:
    """Tokenize a part; with several processes, each tokenizes a slice of it and all get all tokens."""
    if shard.count == 1:
        yield from encode_part(part, tokenizer, max_length, long_texts)
        return
    mine = shard.of(part)
    yield from shard.gather(joined(list(encode_part(mine, tokenizer, max_length, long_texts)) if len(mine) else []))


def encode_part(part: Table, tokenizer: Any, max_length: int, long_texts: LongTexts) -> Iterator[Encoded]:
    """Tokenize a part in slices of about the same number of characters."""
    characters = sum(map(len, part.texts)) + sum(map(len, part.pairs or ()))
    size = max(1, PART_CHARACTERS * len(part) // characters)
    for start in range(0, len(part), size):
        pairs = None if part.pairs is None else part.pairs[start : start + size]
        with foreign_errors(f"{part.source}: the tokenizer fails on a text near row {part.rows[start]}"):
            encoded = encode_texts(tokenizer, part.texts[start : start + size], pairs, max_length, long_texts)
        yield encoded


def encode_texts(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    long_texts: LongTexts = LongTexts(),
) -> Encoded:
    """Tokenize texts; cut those above `max_length` (in a pair, the end of the longer text first).

    Args:
      tokenizer: a transformers tokenizer.
      texts: the texts, or the first texts of pairs; few enough to be held as lists.
      pairs: the second texts; None for single texts.
      max_length: the longest segment in tokens, special tokens included.
      long_texts: how longer texts are cut; pairs are only cut at the end.
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

    The Rust tokenizer is called directly if there is one: through transformers, the same takes 1.4 times as long.
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
    """Turn off truncation and padding, which a tokenizer keeps from its file or its last call, and would save."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def _call(tokenizer: Any, texts: list[str], pairs: list[str] | None, **options: Any) -> Any:
    options = {"padding": False, "return_attention_mask": False, "return_token_type_ids": True, **options}
    return tokenizer(texts, pairs, verbose=False, **options)


def _alone(mine: Encoded) -> list[Encoded]:
    return [mine]


@dataclass(frozen=True)
class Shard:
    """The part that one of several processes tokenizes."""

    index: int = 0
    count: int = 1
    gather: Callable[[Encoded], list[Encoded]] = _alone
    """Send this process's tokens; return those of all processes, in their order."""
    all_have: Callable[[bool], bool] = bool
    """Return whether the argument is true in every process."""

    def of(self, part: Table) -> Table:
        """Return this process's examples of a part; there may be none."""
        return part.stretch(*self.bounds(len(part)))

    def bounds(self, count: int) -> tuple[int, int]:
        """Return the slice [low, high) of `count` examples that this process tokenizes."""
        return count * self.index // self.count, count * (self.index + 1) // self.count


_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, eq=False)
class Seen:
    """Facts about the D texts, or pairs of texts, of a source."""

    lengths: np.ndarray
    """int32 [D]: tokens of each before it was cut, special tokens included."""
    hashes: np.ndarray
    """uint64 [D]: equal for two texts that differ only in blanks at their ends."""
    rows: np.ndarray
    """int32 [D]: the record of each text in its file, from 1."""
    origins: tuple[tuple[int, str], ...]
    """The files of the source: the index of the first text of each, and its name."""
    facts: Facts
    lossy: int = 0
    """The number of texts in which the tokenizer drops a character that is no blank."""
    unknown: int = 0
    """The number of unknown tokens."""

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, indices: np.ndarray) -> Seen:
        """Return the facts about the texts at `indices`; those about the complete source stay the same."""
        names = [name for _, name in self.origins]
        origin = np.searchsorted([first for first, _ in self.origins], indices, side="right") - 1
        changes = np.flatnonzero(np.diff(origin, prepend=-1))
        origins = tuple((int(at), names[origin[at]]) for at in changes)
        taken = {name: getattr(self, name)[indices] for name in ("lengths", "hashes", "rows")}
        return dataclasses.replace(self, origins=origins, **taken)

    def place(self, index: int) -> int | str:
        """Return the record of a text, with the name of its file if the source is several files."""
        if len(self.origins) == 1:
            return int(self.rows[index])
        names = [name for first, name in self.origins if first <= index]
        return at_row(names[-1], int(self.rows[index]))


class Watcher:
    """Collect facts about the texts of a source, part by part."""

    def __init__(self, tokenizer: Any) -> None:
        self.origins: list[tuple[int, str]] = []
        self.facts = Facts()
        self.lossy = 0
        self._count = 0
        self._dropped: dict[str, bool] = {}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._normalizer: Any = getattr(backend, "normalizer", None)

    def add(self, part: Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the hash, uint64, and the record number, int32, of each text of a part."""
        self._add_origin(0, part.source)
        self._count += len(part)
        self.facts = part.facts
        self.lossy += self._count_lossy(part.texts) + self._count_lossy(part.pairs or ())
        return hash_texts(part.texts, part.pairs), np.fromiter(part.rows, np.int32, len(part))

    def place_rows(self, rows: Sequence[Row], source: str) -> np.ndarray:
        """Note the files of some items; return their record numbers, int32."""
        for index, row in enumerate(rows):
            self._add_origin(index, row.file if isinstance(row, Place) else source)
        self._count += len(rows)
        return np.fromiter((row.row if isinstance(row, Place) else int(row) for row in rows), np.int32, len(rows))

    def _add_origin(self, index: int, file: str) -> None:
        """Note the file of the text at `index` of this part."""
        if not self.origins or self.origins[-1][1] != file:
            self.origins.append((self._count + index, file))

    def _count_lossy(self, texts: Iterable[str]) -> int:
        if self._normalizer is None:
            return 0
        return sum(1 for text in texts if not text.isprintable() or _REPLACEMENT in text if self._loses(text))

    def _loses(self, text: str) -> bool:
        """Return whether the tokenizer drops a character of a text."""
        odd = {c for c in text if (not c.isprintable() or c == _REPLACEMENT) and not c.isspace()}
        return any(self._drops(character) for character in odd)

    def _drops(self, character: str) -> bool:
        if character not in self._dropped:
            self._dropped[character] = not self._normalizer.normalize_str(f"a{character}a").strip("a")
        return self._dropped[character]


def hash_texts(texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    """Return a hash of each text, or pair of texts, uint64."""
    digest = xxhash.xxh3_64_intdigest
    whole = texts if pairs is None else [f"{a.strip()}\0{b}" for a, b in zip(texts, pairs, strict=True)]
    # UTF-8 cannot write a lone surrogate, which a text may have.
    encoded = (text.strip().encode("utf-8", "surrogatepass") for text in whole)
    return np.fromiter((digest(text) for text in encoded), np.uint64, len(texts))


def hash_rows(values: Collection[np.ndarray]) -> np.ndarray:
    """Return a hash of each array, or of each row of a matrix, uint64."""
    return np.fromiter((xxhash.xxh3_64_intdigest(row.tobytes()) for row in values), np.uint64, len(values))
