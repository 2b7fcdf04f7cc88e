"""The kinds of label columns: names, lists of names, scores; and lists that are written out as text."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
from typing import Any, Protocol

import numpy as np

from jaxbert.data.label_column import LabelColumn, Labels, LabelVocabulary, is_generic, whole_number
from jaxbert.data.table import Row, Table, Wanted, at_row, decode, is_missing, kind_of, quoted, shorten
from jaxbert.errors import UserError

_CALL = re.compile(r"(?:np\.|numpy\.|torch\.)?(?:array|tensor|list|set|frozenset|tuple)\((.*)\)", re.DOTALL)
_OPTIONS = re.compile(r",\s*(?:dtype|device)\s*=[^\[\]]*\Z")
_MEMBER = re.compile(
    r"""\s*(?:np\.\w+\()?
        (?: (?P<quoted> [bu]?'(?:[^'\\]|\\.)*' | [bu]?"(?:[^"\\]|\\.)*")
          | (?P<number> [+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
          | (?P<word> True|False|true|false) )
        \)?(?P<end> \s*,\s* | \s+ | \Z)""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS = {"[": "]", "(": ")", "{": "}"}


def looks_like_list(text: str) -> bool:
    """Say whether a text begins and ends as a list does, in square or curly brackets."""
    return text[:1] in ("[", "{") or _CALL.fullmatch(text) is not None


def read_list(text: str) -> list[Any] | None:
    """Return the members of a list that is written out: texts, numbers, true and false; None if it is none."""
    if text[:1] == "[" and (members := _read_json(text)) is not None:
        return members
    call = _CALL.fullmatch(text)
    if call is not None:
        text = _OPTIONS.sub("", call[1]).strip() or "[]"
    if len(text) < 2 or _PAIRS.get(text[0]) != text[-1]:
        return None
    inside = text[1:-1].strip()
    if inside and text[0] != "[" and not inside.startswith(("'", '"')) and "," not in inside:
        return None  # "(other)" is a name
    members = []
    at = 0
    while at < len(inside):
        found = _MEMBER.match(inside, at)
        if found is None:
            return None
        members.append(_member(found))
        at = found.end()
    return members


def _read_json(text: str) -> list[Any] | None:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return None
    plain = all(isinstance(m, str | int) or (isinstance(m, float) and math.isfinite(m)) for m in members)
    return members if plain else None


def _member(found: re.Match[str]) -> Any:
    if quoted := found["quoted"]:
        # The text of a name is taken as it is, but for what is escaped in it.
        return _unescaped(quoted) if "\\" in quoted else quoted.lstrip("bu")[1:-1]
    if number := found["number"]:
        return int(number) if number.lstrip("+-").isdigit() else float(number)
    return found["word"].lower() == "true"


def _unescaped(quoted: str) -> str:
    try:
        value = ast.literal_eval(quoted)
    except (ValueError, SyntaxError):
        return quoted[1:-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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

    A value of its vocabulary is the list of the members as they were written; or {"of": N, "at": [...], "sure": ...} for N
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

    def finish(self) -> LabelVocabulary | None:
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
        return LabelVocabulary(written, self._rows, self._names, marks=bool(self._wanted.label_columns))


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
    """Say whether a value of the vocabulary is so many times 0 or 1."""
    return isinstance(value, dict) and "of" in value


def is_text(value: Any) -> bool:
    """Say whether a value of the vocabulary is a text that may or may not be a list."""
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


_LARGEST = float(np.finfo(np.float32).max)
_WITH_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")

logger = logging.getLogger("jaxbert")


class Column(Protocol):
    """What makes codes of a label column."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's labels, int32, or None where there are none."""
        ...

    def finish(self) -> LabelVocabulary | None:
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

    def finish(self) -> LabelVocabulary | None:
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
        return LabelVocabulary([], [], None, notes=self._notes)


def scores_of(labels: Labels) -> np.ndarray:
    """Return the scores, float32 [N]; what was found out about them is said."""
    scores = np.asarray(labels.codes).view(np.float32)
    for note in labels.vocabulary.notes:
        logger.warning("%s: %s", labels.source, note)
    if len(scores) > 1 and (scores == scores[0]).all():
        hidden = ": this is how data sets mark scores that they hide" if scores[0] == -1 else ""
        logger.warning("%s: every score is %g%s", labels.source, scores[0], hidden)
    return scores
