"""A label column as codes: which distinct values it has, and which of them each row has.

Nothing but a number a row is kept. The values are kept as they were written: what they mean is decided from all of them at
once, and never by one row; that is the part of `labels` and `label_lists`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from jaxbert.data.label_names import WHOLE
from jaxbert.data.table import Row, Table, Wanted, at_row, decode, is_missing, kind_of, shorten
from jaxbert.errors import UserError


@dataclass(frozen=True)
class Legend:
    """What the codes of a label column stand for, in the order in which they first occur.

    Two codes may stand for one label ("1" and "1.0").
    """

    values: list[Any]
    """As they were written: texts without the blanks around them, numbers. For lists see `label_lists`."""
    rows: list[Row]
    """The row in which each first occurs."""
    names: list[str] | None
    """Names the source itself gives to its integer labels, in order from 0, or to its columns of 0 and 1."""
    marks: bool = False
    """Whether each value is what several columns of 0 and 1 hold, which `names` names."""
    notes: list[str] = field(default_factory=list)
    """What is to be said of the column at every start."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N examples."""

    codes: np.ndarray
    """int32 [N]"""
    legend: Legend
    source: str

    def place(self, code: int) -> str:
        """Name the row in which a code first occurs."""
        return at_row(self.source, self.legend.rows[code])


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
            try:
                code = self._codes.get((type(value), value))
            except TypeError:  # a list, which cannot be looked up
                code = None
            codes[i] = self._new_code(value, table.row(i)) if code is None else code
        return None if self._absent else codes

    def _new_code(self, value: Any, row: Row) -> int:
        key, where = (type(value), value), at_row(self._source, row)
        if type(value) is bytes:
            value = decode(value, self._column, self._source, row)
        if is_missing(value):
            if self._required:
                raise UserError(f"{where}: column {self._column!r} is empty: fill in the label or remove the row")
            self._absent = True
            return -1
        if type(value) not in (bool, int, float, str):
            self._refuse(value, where)
        self._codes[key] = len(self._rows)
        self._values.append(value.strip() if isinstance(value, str) else value)
        self._rows.append(row)
        return self._codes[key]

    def finish(self) -> Legend | None:
        """Return what the codes stand for; None where not every row has a label.

        Raises:
          UserError: if there are no labels though they are required, or true and false stand among others.
        """
        if self._absent:
            return None
        written = self._values
        types = {type(value) for value in written}
        if bool in types:
            if types != {bool}:
                self._refuse_mixture()
            written[:] = map(int, written)
            self._names = self._names or ["false", "true"]
        if self._names is not None and -1 in written:  # so a data set with names marks rows without a label
            self._refuse_unlabelled()
            return None
        return Legend(written, self._rows, self._names)

    def _refuse_unlabelled(self) -> None:
        """Refuse rows that are marked as without a label, where all must have one."""
        written = self._values
        if not self._required:
            return
        if set(written) == {-1}:
            raise UserError(f"{self._source}: no labels: every value of column {self._column!r} is -1")
        where = at_row(self._source, self._rows[written.index(-1)])
        raise UserError(
            f"{where}: column {self._column!r} holds -1, which marks a row without a label in a data set that names its "
            "labels: remove such rows"
        )

    def _refuse_mixture(self) -> NoReturn:
        """Name the first value that is of another type than the first."""
        written = self._values
        code = next(i for i, value in enumerate(written) if isinstance(value, bool) != isinstance(written[0], bool))
        self._refuse(written[code], at_row(self._source, self._rows[code]))

    def _refuse(self, value: Any, where: str) -> NoReturn:
        several = isinstance(value, list | tuple | np.ndarray)
        way = ": for several labels a text set task: multi_label, else write the label alone" if several else ""
        kind = "a list" if several else kind_of(value)
        raise UserError(
            f"{where}: column {self._column!r} holds {kind} ({shorten(repr(value))}), but a label is a name or a whole "
            f"number, one a row{way}"
        )


def whole_number(value: Any) -> int | None:
    """Return the whole number that a value is or writes ("3", 3.0, "3.0"); None for everything else."""
    if isinstance(value, int):
        return int(value)
    text = str(value).strip()
    if "." in text:
        text, _, fraction = text.partition(".")
        if fraction.strip("0"):
            return None
    return int(text) if WHOLE.fullmatch(text) else None


def as_name(value: Any) -> str:
    """Return a value as the name of a label."""
    number = None if isinstance(value, str) else whole_number(value)
    return str(value).strip() if number is None else str(number)
