"""Describe the data of a run: records, columns, labels, lengths, texts that occur twice or in two sets.

The results are plain values, ready for JSON; the terminal and the report show them. Two texts are equal if they differ only
in blanks at their ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.data.store import Stored
from jaxbert.data.tokens import Seen, Tokens

_QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
_BARS = 12
_SPECIAL = 2
"""The number of tokens of an empty text, which are special tokens; the second text of a pair adds one."""
TRAIN = "train"
DOCUMENTS = "documents"


@dataclass(frozen=True, eq=False)
class Labelling:
    """The labels of a set."""

    meaning: str
    """The kind of the label column's values: name, index, multi-hot position, score, tag, span, answer."""
    counts: dict[str, int] = field(default_factory=dict)
    """The number of examples with each label, or of its marks in the texts."""
    numbers: dict[str, float] = field(default_factory=dict)
    """For scores: smallest, mean and largest."""
    keys: np.ndarray | None = None
    """[D]: equal if the labels of two texts are equal; None where labels are not compared."""
    named: Callable[[int], str] | None = None
    """Return the labels of text i, to show them; None where they are too many."""


@dataclass(frozen=True, eq=False)
class View:
    """One data set of a run, as it was read."""

    name: str
    """train, validation, test; validation.NAME where there are several."""
    seen: Seen
    max_length: int
    """The longest segment, in tokens; longer texts are cut or read in windows."""
    vanished: np.ndarray
    """The indices of texts that have no tokens."""
    labels: Labelling | None = None
    windows: bool = False
    """Whether long texts are read in windows, and nothing is cut."""
    unit: str = "texts"
    """The content of a record, in the plural: texts, pairs, questions, documents."""

    @cached_property
    def groups(self) -> Groups:
        """The texts that occur more than once."""
        return Groups.of(self.seen.hashes)

    def to_dict(self, most: int) -> dict[str, Any]:
        """Return plain values, with at most `most` places of each kind."""
        facts = self.seen.facts
        return {
            "source": self.seen.origins[0][1] if len(self.seen.origins) == 1 else facts.files,
            "rows": len(self.seen),
            "unit": self.unit,
            "columns": facts.columns,
            "columns_used": facts.used,
            "separator": facts.separator,
            "encoding": facts.encoding,
            "skipped": {"rows": facts.skipped, "first": facts.skipped_rows},
            **self._labels(),
            "lengths": describe_lengths(self.seen.lengths, self.max_length, self.windows),
            "empty_texts": len(self.vanished),
            "empty_text_rows": [self.seen.place(int(i)) for i in self.vanished[:most]],
            "lossy_texts": self.seen.lossy,
            "unknown_tokens": self.seen.unknown,
            "duplicates": self._duplicates(most),
        }

    def _labels(self) -> dict[str, Any]:
        if self.labels is None:
            return {"labels": None, "label_meaning": None}
        return {"labels": self.labels.numbers or self.labels.counts, "label_meaning": self.labels.meaning}

    def _duplicates(self, most: int) -> dict[str, Any]:
        keys = None if self.labels is None else self.labels.keys
        conflicting = np.zeros(0, np.int64) if keys is None else self.groups.differing(keys)
        first = [
            *conflicting[:most],
            *np.setdiff1d(self.groups.repeated, conflicting)[: max(0, most - len(conflicting))],
        ]
        return {
            "rows": self.groups.surplus,
            "texts": len(self.groups.repeated),
            "conflicting_texts": len(conflicting),
            "places": [self._group(int(number), keys, most) for number in first],
        }

    def _group(self, number: int, keys: np.ndarray | None, most: int) -> dict[str, Any]:
        members = self.groups.members(number)[:most]
        group: dict[str, Any] = {"rows": [self.seen.place(int(i)) for i in members]}
        if keys is not None and self.labels is not None and self.labels.named is not None:
            group["labels"] = [self.labels.named(int(i)) for i in members]
        return group


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of equal texts: `order` [D] sorts the texts, and group g is `order[starts[g]:starts[g + 1]]`."""

    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray) -> Groups:
        """Group texts by their hashes, [D]; within a group, texts keep the order of the source."""
        order = np.argsort(hashes, kind="stable")
        arranged = hashes[order]
        starts = np.flatnonzero(np.append(True, arranged[1:] != arranged[:-1]))
        return cls(order, np.append(starts, len(hashes)))

    @cached_property
    def repeated(self) -> np.ndarray:
        """The groups of more than one text, in the order of their first texts in the source."""
        groups = np.flatnonzero(np.diff(self.starts) > 1)
        return groups[np.argsort(self.order[self.starts[groups]])]

    @property
    def surplus(self) -> int:
        """The number of texts that repeat an earlier one."""
        return int(self.starts[-1]) - (len(self.starts) - 1)

    def members(self, group: int) -> np.ndarray:
        """Return the indices of the texts of a group."""
        return self.order[self.starts[group] : self.starts[group + 1]]

    def differing(self, keys: np.ndarray) -> np.ndarray:
        """Return the groups whose texts have different keys, in the order of the source."""
        arranged = keys[self.order]
        group = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        differs = np.unique(group[arranged != arranged[self.starts[group]]])
        return differs[np.argsort(self.order[self.starts[differs]])]


def view_texts(
    name: str, stored: Stored, chosen: np.ndarray | None, labels: Labelling | None, max_length: int, *, pairs: bool
) -> View:
    """Return the view of a source of texts, or of its texts with the indices `chosen`."""
    assert stored.seen is not None
    seen = stored.seen if chosen is None else stored.seen.take(chosen)
    gone = vanished_texts(stored.seen.lengths, stored.tokens, pairs=pairs)
    gone = gone if chosen is None else gone[chosen]
    unit = "pairs of texts" if pairs else "texts"
    return View(name, seen, max_length, np.flatnonzero(gone), labels, stored.windows is not None, unit)


def vanished_texts(lengths: np.ndarray, tokens: Tokens, *, pairs: bool) -> np.ndarray:
    """Return whether each text, or one of the two texts of each pair, has no tokens, bool [D].

    Args:
      lengths: tokens of each text before it was cut.
      tokens: the segments; read for pairs only.
      pairs: whether examples are pairs of texts.
    """
    if not pairs:
        return lengths <= _SPECIAL
    return (tokens.first_lengths <= _SPECIAL) | (tokens.lengths - tokens.first_lengths < _SPECIAL)


def view_items(
    name: str, stored: Stored, labels: Labelling, max_length: int, *, unit: str, windows: bool = True
) -> View:
    """Return the view of a set of items.

    Args:
      name: the name of the set.
      stored: its tokens.
      labels: its labels.
      max_length: the longest segment, in tokens.
      unit: the noun for its items, in the plural.
      windows: whether long items are read in windows, and not cut.
    """
    assert stored.seen is not None
    return View(name, stored.seen, max_length, np.flatnonzero(stored.seen.lengths <= _SPECIAL), labels, windows, unit)


def describe_lengths(lengths: np.ndarray, max_length: int, windows: bool) -> dict[str, Any]:
    """Return quantiles and a histogram of lengths in tokens, and the number of tokens that `max_length` cuts off."""
    over = lengths[lengths > max_length].astype(np.int64)
    total = int(lengths.sum(dtype=np.int64))
    lost = 0 if windows else int((over - max_length).sum())
    values = np.quantile(lengths, _QUANTILES, method="inverted_cdf").tolist()
    return {
        "mean": round(total / len(lengths), 2),
        "quantiles": {f"{q:g}": int(value) for q, value in zip(_QUANTILES, values, strict=True)},
        "histogram": _histogram(lengths, int(values[-2]), int(values[-1])),
        "max_length": max_length,
        "longer": len(over),
        "cut": 0 if windows else len(over),
        "tokens": total,
        "tokens_lost": lost,
    }


def _histogram(lengths: np.ndarray, common: int, longest: int) -> list[list[int]]:
    """Return bars [shortest, longest, texts]: of equal width up to `common`, the 99% quantile, and one for the rest."""
    width = max(1, -(-(common + 1) // _BARS))
    edges = [*range(0, common + 1, width), common + 1]
    if longest > common:
        edges.append(longest + 1)
    edges = sorted(set(edges))
    counts, _ = np.histogram(lengths, edges)
    return [[low, high - 1, n] for low, high, n in zip(edges, edges[1:], counts.tolist(), strict=False)]


@dataclass(frozen=True, eq=False)
class Overview:
    """All sets of a run."""

    views: list[View]
    lower_case: bool | None = None
    """Whether the tokenizer lower-cases; None if unknown."""

    def to_dict(self, most: int = 10) -> dict[str, Any]:
        """Return plain values for JSON, with at most `most` places of duplicates and leaks."""
        train = [view for view in self.views if view.name == TRAIN]
        others = [view for view in self.views if view.name != TRAIN]
        return {
            "lower_case": self.lower_case,
            "sources": {view.name: view.to_dict(most) for view in [*train, *others]},
            "leaks": [_leak(first, view, most) for first in train for view in others],
        }

    @property
    def train(self) -> View:
        """The view of the training set."""
        return next(view for view in self.views if view.name == TRAIN)


def _leak(train: View, other: View, most: int) -> dict[str, Any]:
    """Return the texts of a set that also occur in the training set: their number, share and first places."""
    groups = train.groups
    known = train.seen.hashes[groups.order[groups.starts[:-1]]]
    at = np.minimum(np.searchsorted(known, other.seen.hashes), len(known) - 1)
    found = np.flatnonzero(known[at] == other.seen.hashes)
    places = [
        {TRAIN: train.seen.place(int(groups.members(int(at[i]))[0])), other.name: other.seen.place(int(i))}
        for i in found[:most]
    ]
    return {"sets": [TRAIN, other.name], "rows": len(found), "share": len(found) / len(other.seen), "places": places}


def lower_cases(tokenizer: Any) -> bool | None:
    """Return whether a tokenizer lower-cases; None if it has no normalizer to ask."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return None if normalizer is None else "ABC" not in normalizer.normalize_str("ABC")
