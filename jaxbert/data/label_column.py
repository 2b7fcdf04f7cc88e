"""A label column as codes: which distinct values it has, and which of them each row has.

Nothing but a number a row is kept. Whether the column is one of names or of integers is decided here, from all distinct
values; which label gets which index is `labels`' part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from jaxbert.data.table import Row, Table, Wanted, at_row, decode, kind_of, shorten
from jaxbert.errors import UserError

# "007" stays a name; the bound on the digits keeps the number within int64.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0+)?")


@dataclass(frozen=True)
class Legend:
    """What the codes of a label column stand for, in the order in which they first occur.

    Two codes may stand for one label ("1" and "1.0").
    """

    values: list[str | int]
    """All of one type."""
    rows: list[Row]
    """The row in which each first occurs."""
    names: list[str] | None
    """Names the source itself gives to its integer labels, in order from 0."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N examples."""

    codes: np.ndarray
    """int32 [N]"""
    legend: Legend
    source: str


class LabelColumn:
    """Encode a label column part by part, and check it."""

    def __init__(self, wanted: Wanted, source: str) -> None:
        self._column = wanted.label
        self._required = bool(wanted.labelled)
        self._source = source
        self._codes: dict[tuple[type, Hashable], int] = {}
        self._values: list[Any] = []
        self._rows: list[Row] = []
        self._names: list[str] | None = None
        self._absent = wanted.labelled is False
        """Whether some row has none, where that is allowed."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's labels, int32, or None where there are none.

        Raises:
          UserError: for the first label that is missing though required, or is no label.
        """
        if table.labels is None or self._absent:
            self._absent = True
            return None
        self._names = table.label_names
        codes = np.empty(len(table), np.int32)
        for i, value in enumerate(table.labels):
            code = self._codes.get(_key(value))
            codes[i] = self._new_code(value, table.row(i)) if code is None else code
        return None if self._absent else codes

    def _new_code(self, value: Any, row: Row) -> int:
        key, code = _key(value), len(self._values)
        if type(value) is bytes:
            value = decode(value, self._column, self._source, row)
        if _is_missing(value):
            self._refuse_missing(row)
            return -1
        if type(value) not in (bool, int, float, str):
            self._refuse(value, row)
        self._codes[key] = code
        self._values.append(value)
        self._rows.append(row)
        return code

    def finish(self) -> Legend | None:
        """Return what the codes stand for; None where not every row has a label.

        Raises:
          UserError: if there are no labels though they are required, or they are of different types.
        """
        if self._absent:
            return None
        if all(value in (-1, "-1") for value in self._values):  # how unlabelled test splits are published
            if self._required:
                raise UserError(f"{self._source}: no labels: every value of column {self._column!r} is -1")
            return None
        if {type(value) for value in self._values} == {bool}:
            self._names = self._names or ["false", "true"]
        unlabelled = self._values.index(-1) if self._names is not None and -1 in self._values else None
        if unlabelled is not None:
            self._refuse_missing(self._rows[unlabelled])
            return None
        return Legend(self._of_one_type(), self._rows, self._names)

    def _of_one_type(self) -> list[str | int]:
        """Make all labels integers where all are whole numbers, and all names otherwise."""
        labels = one_type(self._values)
        if labels is not None:
            return labels
        values = list(zip(self._values, self._rows, strict=True))
        # Where each is a label by itself, whole numbers stand beside one that is too long for a number.
        value, row = next((pair for pair in values if not _is_label(pair[0])), values[0])
        self._refuse(value, row)

    def _refuse_missing(self, row: Row) -> None:
        """Refuse a row without a label, or note that the column cannot be used."""
        if self._required:
            where = at_row(self._source, row)
            raise UserError(f"{where}: column {self._column!r} is empty: fill in the label or remove the row")
        self._absent = True

    def _refuse(self, value: Any, row: Row) -> NoReturn:
        raise UserError(
            f"{at_row(self._source, row)}: column {self._column!r} holds {kind_of(value)} ({shorten(repr(value))}), but a "
            "label is a name or a whole number, one a row"
        )


def one_type(values: list[Any]) -> list[str | int] | None:
    """Make all values integers where all are whole numbers, and names where there are texts among them."""
    types = {type(value) for value in values}
    if types in ({bool}, {int}):
        return [int(value) for value in values]
    if types <= {int, float, str}:
        names: list[str | int] = [str(value).strip() for value in values]
        if all(_INTEGER.fullmatch(str(name)) for name in names):
            return [int(str(name).partition(".")[0]) for name in names]
        if str in types:
            return names
    return None


def _key(value: Any) -> tuple[type, Hashable]:
    """Return what tells a value from others; 1, True and 1.0 are three."""
    return type(value), value if isinstance(value, Hashable) else repr(value)


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_label(value: Any) -> bool:
    whole = isinstance(value, float) and _INTEGER.fullmatch(str(value)) is not None
    return whole or type(value) in (int, str)
