"""Identify the content of a data set: its numbers of examples and tokens, and a checksum of its tokens and labels.

The place of the data, their format and the way they were read do not count. Labels are compared by name, so the order of the
label names does not count either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.examples import Examples

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
            _add(sum_, ids)
        for array in (part.tokens.begins, part.tokens.lengths, part.tokens.first_lengths):
            _add(sum_, array)
        if part.windows is not None:
            _add(sum_, part.windows.first)
        _add_labels(sum_, part.labels, order)
        _add_labels(sum_, part.token_labels, order)
        if part.extra is not None:
            for array in part.extra.content():
                _add(sum_, array)
    return Content(sum(map(_count, parts)), sum(int(p.tokens.lengths.sum()) for p in parts), sum_.hexdigest()[:32])


def _count(part: Examples) -> int:
    """Count the records of the source; one record may be several examples."""
    return len(part) if part.rows is None else len(np.unique(part.rows))


def _add_labels(sum_: Any, labels: np.ndarray | None, order: np.ndarray) -> None:
    """Add labels as if the names were sorted: an index is replaced, the columns of a bool table [N, C] are reordered."""
    if labels is None:
        return
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    if labels.ndim == 2 and labels.shape[1] == len(order):
        _add(sum_, labels, lambda block: block[:, order])
    elif labels.ndim == 1 and labels.dtype == np.int32 and len(order):  # a number below 0 is no label
        _add(sum_, labels, lambda block: np.where(block < 0, block, place[np.maximum(block, 0)]).astype(np.int32))
    else:
        _add(sum_, labels)


def _add(sum_: Any, array: np.ndarray, change: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray) -> None:
    """Add an array block by block; `change` is applied to each block first."""
    sum_.update(f"{array.dtype.str} {array.shape};".encode())
    rows = max(1, _BLOCK // max(1, int(np.prod(array.shape[1:]))))
    for low in range(0, len(array), rows):
        sum_.update(np.ascontiguousarray(change(array[low : low + rows])))
