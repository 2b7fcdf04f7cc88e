"""Tokenized examples with their labels, the windows of long examples, and a checksum of both. Says nothing of rows or steps.

An example is one segment, or, if its text is longer than the model reads, one segment for each of its windows. `example_ids`
number segments; a step counts examples.

`content_of` identifies a data set: its numbers of examples and tokens, and a checksum of its tokens and labels. The place of
the data, their format and the way they were read do not count. Labels are compared by name, so the order of the label names
does not count either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.data.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Windows:
    """Which segments belong to one example: example d has the segments `first[d]` to `first[d + 1] - 1`."""

    first: np.ndarray
    """int64 [D + 1]: the first segment of each of D examples, and the number of segments."""

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> Windows:
        """Build the windows of D examples from their numbers of windows, integers [D]."""
        return cls(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    @cached_property
    def counts(self) -> np.ndarray:
        """The number of windows of each example, int64 [D]."""
        return np.diff(self.first)

    def rows(self) -> np.ndarray | None:
        """Return the example of each segment, int64 [W]; None where each example is one segment."""
        counts = np.diff(self.first)
        return None if (counts == 1).all() else np.repeat(np.arange(len(counts)), counts)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add up the values of each example's segments, int64 [D]."""
        return np.add.reduceat(values, self.first[:-1], dtype=np.int64)

    def examples_of(self, examples: np.ndarray) -> np.ndarray:
        """Return the index of the example that each segment belongs to."""
        return np.searchsorted(self.first, examples, side="right") - 1

    def members(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the segments of the examples in `documents`, in that order, and each segment's index into `documents`."""
        counts = self.counts[documents]
        places = np.repeat(np.arange(len(documents)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.first[documents][places] + within, places


@dataclass(frozen=True, eq=False)
class Examples:
    """D examples, with the tokens of their segments and their labels (None for a data set without labels)."""

    tokens: Tokens
    labels: np.ndarray | None = None
    """[D, ...], one for each example."""
    rows: np.ndarray | None = None
    """The record of the source that each example comes from, counted from 0; None for all records in order."""
    token_labels: np.ndarray | None = None
    """Aligned with `tokens.ids`; -100 for a token without a label."""
    windows: Windows | None = None
    """None where every example is one segment."""
    extra: Any = None
    """Further data of the task, for metrics and answers."""
    by_segment: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further keys of the batch, each with an entry for each segment, [W, ...]: a teacher's answers."""
    by_token: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further keys of the batch, aligned with `tokens.ids`."""

    def __len__(self) -> int:
        """Return the number of examples, not of segments."""
        return len(self.tokens) if self.windows is None else len(self.windows.counts)

    def take(self, indices: np.ndarray) -> Examples:
        """Return the examples at `indices`, in that order; `extra` is left out."""
        members, windows = indices, None
        if self.windows is not None:
            members, _ = self.windows.members(indices)
            windows = Windows.of_counts(self.windows.counts[indices])
        return Examples(
            tokens=self.tokens.take(members),
            labels=None if self.labels is None else self.labels[indices],
            rows=self.source_rows(indices),
            token_labels=self.token_labels,
            windows=windows,
            by_segment={name: values[members] for name, values in self.by_segment.items()},
            by_token=self.by_token,
        )

    def examples_of(self, example_ids: np.ndarray) -> np.ndarray:
        """Return the distinct examples that these segments belong to, sorted."""
        if self.windows is None:
            return np.unique(example_ids)
        return np.unique(self.windows.examples_of(example_ids))

    def source_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the records of the source, counted from 0, from which these examples come."""
        return indices if self.rows is None else self.rows[indices]


def join_examples(first: Examples, second: Examples) -> Examples:
    """Return the examples of two sets, one behind the other; those of the second come from no record (-1 in `rows`).

    Both have labels, or neither; the keys of the batch are those of the first. `extra` is left out.
    """
    if (first.windows is None) != (second.windows is None):
        first, second = (_in_windows(part) for part in (first, second))
    windows = None
    if first.windows is not None and second.windows is not None:
        windows = Windows.of_counts(np.concatenate([first.windows.counts, second.windows.counts]))
    one, other = first.tokens, second.tokens
    return Examples(
        tokens=Tokens(
            ids=np.concatenate([one.ids, other.ids]),
            begins=np.concatenate([one.begins, other.begins + len(one.ids)]),
            lengths=np.concatenate([one.lengths, other.lengths]),
            first_lengths=np.concatenate([one.first_lengths, other.first_lengths]),
        ),
        labels=_both(first.labels, second.labels),
        rows=np.concatenate([first.source_rows(np.arange(len(first))), np.full(len(second), -1)]),
        token_labels=_both(first.token_labels, second.token_labels),
        windows=windows,
        by_segment=_all_of(first.by_segment, second.by_segment),
        by_token=_all_of(first.by_token, second.by_token),
    )


def _both(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _all_of(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([values, second[name]]) for name, values in first.items()}


def _in_windows(examples: Examples) -> Examples:
    if examples.windows is not None:
        return examples
    return replace(examples, windows=Windows.of_counts(np.ones(len(examples), np.int64)))


_BLOCK = 1 << 18
"""Elements that are hashed at once, so that a memory-mapped array is never copied completely."""


@dataclass(frozen=True)
class Content:
    """The size and the checksum of a data set."""

    examples: int
    tokens: int
    checksum: str


def content_of(parts: Sequence[Examples], names: Sequence[str] = ()) -> Content:
    """Return the content of a data set, or of the parts that were split from one.

    Args:
      parts: the examples of each part.
      names: the label name of each number in `labels` and `token_labels`; empty where numbers have no names.
    """
    sum_ = hashlib.sha256()
    order = np.argsort(np.array(names, object), kind="stable") if len(names) else np.zeros(0, np.int64)
    ids = None
    for part in parts:
        if part.tokens.ids is not ids:  # parts of one set share them
            ids = part.tokens.ids
            _hash_array(sum_, ids)
        for array in (part.tokens.begins, part.tokens.lengths, part.tokens.first_lengths):
            _hash_array(sum_, array)
        if part.windows is not None:
            _hash_array(sum_, part.windows.first)
        _hash_labels(sum_, part.labels, order)
        _hash_labels(sum_, part.token_labels, order)
        if part.extra is not None:
            for array in part.extra.content():
                _hash_array(sum_, array)
    return Content(
        sum(map(_count_records, parts)), sum(int(p.tokens.lengths.sum()) for p in parts), sum_.hexdigest()[:32]
    )


def _count_records(part: Examples) -> int:
    """Count the records of the source; one record may be several examples."""
    return len(part) if part.rows is None else len(np.unique(part.rows))


def _hash_labels(sum_: Any, labels: np.ndarray | None, order: np.ndarray) -> None:
    """Add labels as if the names were sorted: an index is replaced, the columns of a bool table [N, C] are reordered."""
    if labels is None:
        return
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    if labels.ndim == 2 and labels.shape[1] == len(order):
        _hash_array(sum_, labels, lambda block: block[:, order])
    elif labels.ndim == 1 and labels.dtype == np.int32 and len(order):  # a number below 0 is no label
        _hash_array(
            sum_, labels, lambda block: np.where(block < 0, block, place[np.maximum(block, 0)]).astype(np.int32)
        )
    else:
        _hash_array(sum_, labels)


def _hash_array(
    sum_: Any, array: np.ndarray, change: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray
) -> None:
    """Add an array block by block; `change` is applied to each block first."""
    sum_.update(f"{array.dtype.str} {array.shape};".encode())
    rows = max(1, _BLOCK // max(1, int(np.prod(array.shape[1:]))))
    for low in range(0, len(array), rows):
        sum_.update(np.ascontiguousarray(change(array[low : low + rows])))
