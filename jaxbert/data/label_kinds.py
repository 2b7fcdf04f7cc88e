"""Label columns of other kinds: lists of labels, and scores; and the choice among the three.

What is kept of a row is one number, as for single labels: the code of a list, or the bits of a score.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.label_column import LabelColumn, Labels, Legend, one_type
from jaxbert.data.labels import LabelSet, encode, fit_labels
from jaxbert.data.table import Row, Table, Wanted, at_row, decode, kind_of, shorten
from jaxbert.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)


class Column(Protocol):
    """What makes codes of a label column."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's labels, int32, or None where there are none."""
        ...

    def finish(self) -> Legend | None:
        """Return what the codes stand for; None where not every row has a label."""
        ...


def make_label_column(wanted: Wanted, source: str) -> Column:
    """Return what reads labels of the kind that is wanted."""
    if wanted.labels == "list":
        return ListColumn(wanted, source)
    return ScoreColumn(wanted, source) if wanted.labels == "number" else LabelColumn(wanted, source)


class ListColumn:
    """Encode a column whose fields hold any number of labels: a list, or a text with separators; none is a list too."""

    def __init__(self, wanted: Wanted, source: str) -> None:
        self._wanted = wanted
        self._source = source
        self._codes: dict[tuple, int] = {}
        self._rows: list[Row] = []
        self._names: list[str] | None = None
        self._absent = wanted.labelled is False

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's lists.

        Raises:
          UserError: for the first field that is no list of names or whole numbers.
        """
        if table.labels is None or self._absent:
            self._absent = True
            return None
        self._names = table.label_names
        codes = np.empty(len(table), np.int32)
        for i, value in enumerate(table.labels):
            members = self._members(value, table, i)
            code = self._codes.setdefault(members, len(self._codes))
            if code == len(self._rows):
                self._rows.append(table.row(i))
            codes[i] = code
        return codes

    def _members(self, value: Any, table: Table, index: int) -> tuple:
        """Return the labels of a field, each once, in the order of the field."""
        if type(value) is bytes:
            value = decode(value, self._wanted.label, self._source, table.row(index))
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ()
        if isinstance(value, str):
            parts: Iterable[Any] = value.split(self._wanted.separator) if self._wanted.separator else [value]
            return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        parts = value if isinstance(value, list | tuple | np.ndarray) else [value]
        members = [part.item() if isinstance(part, np.generic) else part for part in parts]
        for member in members:
            if type(member) not in (int, str):
                where = at_row(self._source, table.row(index))
                raise UserError(
                    f"{where}: column {self._wanted.label!r} holds {kind_of(member)} ({shorten(repr(member))}) among its "
                    "labels, but each is a name or a whole number"
                )
        return tuple(dict.fromkeys(members))

    def finish(self) -> Legend | None:
        """Return the distinct lists, their labels all names or all whole numbers."""
        if self._absent:
            return None
        single = list(dict.fromkeys(member for members in self._codes for member in members))
        typed = dict(zip(single, one_type(single) or map(str, single), strict=True))
        values: list[Any] = [[typed[member] for member in members] for members in self._codes]
        return Legend(values, self._rows, self._names)


def fit_label_lists(labels: Labels, data: DataConfig, num_labels: int | None) -> LabelSet:
    """Decide names and indices as `fit_labels` does, over the labels of all lists.

    Raises:
      UserError: as that, and where no example has a label.
    """
    members = _members(labels)
    if not members.legend.values:
        raise UserError(f"{labels.source}: no example has a label (data.label, data.label_separator)")
    return fit_labels(members, data, num_labels)


def encode_lists(labels: Labels, label_set: LabelSet) -> np.ndarray:
    """Return which labels each example has, bool [N, C].

    Raises:
      UserError: for the first label that is not in the set.
    """
    members = _members(labels)
    places = dict(zip(members.legend.values, encode(members, label_set), strict=True))
    table = np.zeros((len(labels.legend.values), len(label_set)), bool)
    for code, listed in enumerate(labels.legend.values):
        table[code, [places[member] for member in listed]] = True  # type: ignore[union-attr]
    return table[labels.codes]


def _members(labels: Labels) -> Labels:
    """Return the single labels of all lists, each once, with the row in which it first occurs."""
    first: dict[Any, Row] = {}
    for listed, row in zip(labels.legend.values, labels.legend.rows, strict=True):
        for member in listed:  # type: ignore[union-attr]
            first.setdefault(member, row)
    legend = dataclasses.replace(labels.legend, values=list(first), rows=list(first.values()))
    return Labels(np.arange(len(first), dtype=np.int32), legend, labels.source)


class ScoreColumn:
    """Read a column of scores; a code is the bits of a float32."""

    def __init__(self, wanted: Wanted, source: str) -> None:
        self._column = wanted.label
        self._source = source
        self._absent = wanted.labelled is False
        self._required = bool(wanted.labelled)

    def add(self, table: Table) -> np.ndarray | None:
        """Return the scores of a part.

        Raises:
          UserError: for the first that is no finite number, or is missing though required.
        """
        if table.labels is None or self._absent:
            self._absent = True
            return None
        scores = np.empty(len(table), np.float32)
        for i, value in enumerate(table.labels):
            score = self._score(value, table, i)
            if score is None:
                self._absent = True
                return None
            scores[i] = score
        return scores.view(np.int32)

    def _score(self, value: Any, table: Table, index: int) -> float | None:
        if type(value) is bytes:
            value = decode(value, self._column, self._source, table.row(index))
        missing = value is None or (isinstance(value, str) and not value.strip())
        if missing and not self._required:
            return None
        try:
            score = math.nan if missing or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not abs(score) <= _LARGEST:  # not a number, too
            held = "is empty" if missing else f"holds {shorten(repr(value))}"
            raise UserError(
                f"{at_row(self._source, table.row(index))}: column {self._column!r} {held}, but a score is a finite number: "
                "correct it, or remove the row"
            )
        return score

    def finish(self) -> Legend | None:
        """Return that there are scores."""
        return None if self._absent else Legend([], [], None)


def scores_of(labels: Labels) -> np.ndarray:
    """Return the scores, float32 [N]."""
    return np.asarray(labels.codes).view(np.float32)
