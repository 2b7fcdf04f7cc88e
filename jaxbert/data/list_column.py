"""A column with any number of labels in a field, as codes of its distinct lists.

A field is a list, a text with separators, a list that is written out as text, or several columns of 0 and 1. What the
numbers in lists mean is the part of `label_lists`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxbert.data.label_column import Legend, whole_number
from jaxbert.data.table import Row, Table, Wanted, at_row, decode, is_missing, kind_of, shorten
from jaxbert.data.written_lists import looks_like_list, read_list
from jaxbert.errors import UserError

_REMEMBERED = 256
"""Characters, or members, of a field that is looked up before it is read again."""
_NO_LABEL = ("nan", "<na>")
_PERHAPS_NO_LABEL = ("none", "null")
MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "0.": False, "1.": True, "false": False, "true": True}
"""How 0 and 1 are written, in lower case."""
OTHER_SEPARATORS = ";|，；、"
"""What may stand between labels where `data.label_separator` is a comma."""
_SPACED_NUMBERS = re.compile(r"\d+(?:\s+\d+)+")


class ListColumn:
    """Encode a column of lists part by part.

    A value of its legend is the list of the members as they were written; or {"of": N, "at": [...], "sure": ...} for N
    times 0 or 1, of which those at some places are 1, sure if no index is written so (true, 1.0); or {"text": ...} for a
    text that may or may not be a list.
    """

    def __init__(self, wanted: Wanted, source: str) -> None:
        self._wanted = wanted
        self._source = source
        self._values: list[Any] = []
        self._rows: list[Row] = []
        self._codes: dict[Any, int] = {}
        self._fields: dict[Any, int] = {}
        self._names: list[str] | None = None
        self._absent = wanted.labelled is False
        self._kinds: set[str] = set()
        """Of the fields: "list", or "text" without brackets."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's lists.

        Raises:
          UserError: for the first field that is no list of names or numbers.
        """
        if table.labels is None or self._absent:
            self._absent = True
            return None
        self._names = list(self._wanted.label_columns) or table.label_names
        codes = np.empty(len(table), np.int32)
        for i, value in enumerate(table.labels):
            field = _field_key(value)
            code = None if field is None else self._fields.get(field)
            if code is None:
                code = self._code(value, table.row(i))
                if field is not None:
                    self._fields[field] = code
            codes[i] = code
        return codes

    def _code(self, value: Any, row: Row) -> int:
        where = at_row(self._source, row)
        if type(value) is bytes:
            value = decode(value, self._wanted.label, self._source, row)
        if self._wanted.label_columns:
            found: Any = self._marks(value, where)
        elif is_missing(value):
            found = []
        elif isinstance(value, str):
            found = self._from_text(value.strip(), where)
        else:
            found = self._from_values(value, where)
        key = (found["of"], found["sure"], *found["at"]) if is_hot(found) else str(found)
        if key not in self._codes:
            self._codes[key] = len(self._rows)
            self._values.append(found)
            self._rows.append(row)
        return self._codes[key]

    def _from_text(self, text: str, where: str) -> Any:
        listed = read_list(text)
        if listed is not None:
            return self._from_values(listed, where)
        if text.lower() in _NO_LABEL:
            return []
        if looks_like_list(text):
            return {"text": text}
        if text.lower() not in _PERHAPS_NO_LABEL:
            self._kinds.add("text")
        parts = split(text, self._wanted.separator)
        several = self._wanted.separator == "," and any(other in text for other in OTHER_SEPARATORS)
        if several or any(_SPACED_NUMBERS.fullmatch(part) for part in parts):
            return {"text": text}
        return _compact(parts)

    def _from_values(self, value: Any, where: str) -> Any:
        self._kinds.add("list")
        listed = isinstance(value, list | tuple | np.ndarray)
        members = [m.item() if isinstance(m, np.generic) else m for m in (value if listed else [value])]
        booleans = listed and all(type(member) is bool for member in members)
        for member in members:
            if isinstance(member, str) and member.strip():
                continue
            if type(member) not in ((bool,) if booleans else (int, float)) or whole_number(member) is None:
                kind = "an empty text" if isinstance(member, str) else kind_of(member)
                soft = "; shares of labels (soft labels) are not supported" if type(member) is float else ""
                raise UserError(
                    f"{where}: column {self._wanted.label!r} holds {kind} ({shorten(repr(member))}) among its labels, but "
                    f"each is a name or a whole number{soft}"
                )
        return _compact([member.strip() if isinstance(member, str) else member for member in members])

    def _marks(self, values: tuple[Any, ...], where: str) -> dict[str, Any]:
        """Return which of several columns hold 1."""
        marks = []
        for column, value in zip(self._wanted.label_columns, values, strict=True):
            mark = MARKS.get(str(value).strip().lower())
            if mark is None:
                held = "is empty" if is_missing(value) else f"holds {shorten(repr(value))}"
                raise UserError(
                    f"{where}: column {column!r} {held}, but a column of data.label holds 0 or 1: correct it"
                )
            marks.append(mark)
        return {"of": len(marks), "at": [place for place, mark in enumerate(marks) if mark], "sure": True}

    def finish(self) -> Legend | None:
        """Return the distinct lists."""
        if self._absent:
            return None
        written = self._values
        if self._kinds == {"list"}:
            for code, value in enumerate(written):
                if isinstance(value, list) and [str(m).lower() for m in value] in [
                    [word] for word in _PERHAPS_NO_LABEL
                ]:
                    written[code] = []
        return Legend(written, self._rows, self._names, marks=bool(self._wanted.label_columns))


def _field_key(value: Any) -> Any:
    """Return what tells a field from others, None for one that is not remembered."""
    if isinstance(value, str):
        return value if len(value) <= _REMEMBERED else None
    if not isinstance(value, list | tuple):
        return None
    key = (tuple(value), tuple(map(type, value)))  # 1, True and 1.0 are equal
    try:
        hash(key)
    except TypeError:
        return None
    return key if len(value) <= _REMEMBERED else None


def is_hot(value: Any) -> bool:
    """Say whether a value of the legend is so many times 0 or 1."""
    return isinstance(value, dict) and "of" in value


def is_text(value: Any) -> bool:
    """Say whether a value of the legend is a text that may or may not be a list."""
    return isinstance(value, dict) and "text" in value


def split(text: str, separator: str) -> list[str]:
    """Return the labels in a text."""
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts if part.strip()]


def _compact(members: list[Any]) -> Any:
    """Return a list that holds nothing but 0 and 1 by its places, whole numbers as such, and everything else as it is."""
    marks = [MARKS.get(str(member)) if member not in ("true", "false") else None for member in members]
    booleans = any(type(member) is bool for member in members)
    if booleans:
        marks = members
    if (booleans or len(members) > 1) and None not in marks:
        sure = booleans or any("." in str(member) for member in members)
        return {"of": len(marks), "at": [place for place, mark in enumerate(marks) if mark], "sure": sure}
    return [whole_number(member) if type(member) is float else member for member in members]
