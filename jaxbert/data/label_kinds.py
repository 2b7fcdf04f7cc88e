"""Columns of scores, and the choice among the kinds of label columns.

What is kept of a row is one number: the code of a label or of a list, or the bits of a score.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol

import numpy as np

from jaxbert.data.label_column import LabelColumn, Labels, Legend
from jaxbert.data.label_names import is_generic
from jaxbert.data.list_column import ListColumn
from jaxbert.data.table import Row, Table, Wanted, at_row, decode, is_missing, quoted, shorten
from jaxbert.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)
_WITH_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")

logger = logging.getLogger("jaxbert")


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


class ScoreColumn:
    """Read a column of scores; a code is the bits of a float32.

    A comma in a number is a decimal comma where no number of the column has a point, and one at least cannot be meant to
    have thousands.
    """

    def __init__(self, wanted: Wanted, source: str) -> None:
        self._column = wanted.label
        self._source = source
        self._absent = wanted.labelled is False
        self._required = bool(wanted.labelled)
        self._point: Row | None = None
        """The first row whose score has a point."""
        self._comma: Row | None = None
        self._decimal = False
        """Whether some comma is a decimal comma for certain."""
        self._named: list[float] | None = None
        """The scores that the names of a data set's integers write."""
        self._notes: list[str] = []

    def add(self, table: Table) -> np.ndarray | None:
        """Return the scores of a part.

        Raises:
          UserError: for the first that is no finite number, or is missing though required.
        """
        if table.labels is None or self._absent:
            self._absent = True
            return None
        if table.label_names is not None and self._named is None and not is_generic(table.label_names):
            self._named = self._read_names(table.label_names)
        scores = np.empty(len(table), np.float32)
        for i, value in enumerate(table.labels):
            score = self._score(value, table, i)
            if score is None:
                self._absent = True
                return None
            scores[i] = score
        return scores.view(np.int32)

    def _read_names(self, names: list[str]) -> list[float]:
        try:
            scores = [float(name) for name in names]
        except ValueError as error:
            raise UserError(
                f"{self._source}: the numbers in column {self._column!r} stand for names ({quoted(names, 5)}) and are no "
                "scores: set task: classification, or name a column of scores"
            ) from error
        self._notes.append(f"the scores are the names of the labels, {quoted(names, 5)}")
        return scores

    def _score(self, value: Any, table: Table, index: int) -> float | None:
        if type(value) is bytes:
            value = decode(value, self._column, self._source, table.row(index))
        missing = is_missing(value)
        if missing and not self._required:
            return None
        try:
            score = np.nan if missing or isinstance(value, bool) else self._number(value, table, index)
        except (TypeError, ValueError):
            score = np.nan
        if not abs(score) <= _LARGEST:  # not a number, too
            held = (
                "is empty" if value is None or (missing and isinstance(value, str)) else f"holds {shorten(repr(value))}"
            )
            raise UserError(
                f"{at_row(self._source, table.row(index))}: column {self._column!r} {held}, but a score is a finite number: "
                "correct it, or remove the row"
            )
        return score

    def _number(self, value: Any, table: Table, index: int) -> float:
        if self._named is not None:
            return self._named[value] if 0 <= value < len(self._named) else np.nan
        if not isinstance(value, str):
            return float(value)
        if _WITH_COMMA.fullmatch(text := value.strip()):
            if self._comma is None:
                self._comma = table.row(index)
            self._decimal = self._decimal or not _THOUSANDS.fullmatch(text)
            return float(text.replace(",", "."))
        if self._point is None and "." in text:
            self._point = table.row(index)
        return float(text) if "_" not in text else np.nan  # Python's own way to write thousands

    def finish(self) -> Legend | None:
        """Return that there are scores.

        Raises:
          UserError: where a comma can stand before decimals or between thousands.
        """
        if self._absent:
            return None
        if self._comma is not None:
            where = f"{at_row(self._source, self._comma)}: column {self._column!r} holds a number with a comma"
            if self._point is not None:
                other = at_row(self._source, self._point)
                raise UserError(f"{where}, but {other} one with a point: write all with a point before their decimals")
            if not self._decimal:
                raise UserError(
                    f"{where}, which can stand before decimals or between thousands: write a point, or none"
                )
            self._notes.append(f"the comma in column {self._column!r} is taken as a decimal point")
        return Legend([], [], None, notes=self._notes)


def scores_of(labels: Labels) -> np.ndarray:
    """Return the scores, float32 [N]; what was found out about them is said."""
    scores = np.asarray(labels.codes).view(np.float32)
    for note in labels.legend.notes:
        logger.warning("%s: %s", labels.source, note)
    if len(scores) > 1 and (scores == scores[0]).all():
        hidden = ": this is how data sets mark scores that they hide" if scores[0] == -1 else ""
        logger.warning("%s: every score is %g%s", labels.source, scores[0], hidden)
    return scores
