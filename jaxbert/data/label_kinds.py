"""Read label columns of lists and of scores, and lists that are written as text; `label_column` reads single names.

The columns are encoded as codes; `labels` and `label_lists` decide the meaning of names and lists."""

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
    """Return whether a text begins with a square or curly bracket, or is a call such as `array(...)`."""
    return text[:1] in ("[", "{") or _CALL.fullmatch(text) is not None


def read_list(text: str) -> list[Any] | None:
    """Return the members of a list that is written as text: texts, numbers, true and false; None if it is no list."""
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
        # A name is taken as it is written, unless it has escapes.
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
"""The most characters, or members, of a field whose code is remembered."""
_NO_LABEL = ("nan", "<na>")
_PERHAPS_NO_LABEL = ("none", "null")
MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "0.": False, "1.": True, "false": False, "true": True}
"""The spellings of 0 and 1, in lower case."""
OTHER_SEPARATORS = ";|，；、"
"""Characters that may separate labels although `data.label_separator` is a comma."""
_SPACED_NUMBERS = re.compile(r"\d+(?:\s+\d+)+")


class ListColumn:
    """Encode a column of lists part by part.

    A value of its vocabulary has one of three forms: the list of the members as written; {"of": N, "at": [...], "sure": ...}
    for N values of 0 or 1 with 1 at the positions `at`, "sure" if written as no index is (true, 1.0); {"text": ...} for a
    text that may be a list.
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
        """The forms of the fields: "list", or "text" without brackets."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's lists, int32, or None if there are no labels.

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
        """Return the positions of the columns that hold 1."""
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
        """Return the distinct lists; None if there are no labels."""
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
    """Return a key that identifies a field, None for a field that is not remembered."""
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
    """Return whether a value of the vocabulary is a list of 0 and 1."""
    return isinstance(value, dict) and "of" in value


def is_text(value: Any) -> bool:
    """Return whether a value of the vocabulary is a text that may be a list."""
    return isinstance(value, dict) and "text" in value


def split(text: str, separator: str) -> list[str]:
    """Return the labels in a text, without blanks and empty ones; an empty `separator` separates nothing."""
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts if part.strip()]


def _compact(members: list[Any]) -> Any:
    """Return a list of only 0 and 1 as the positions of 1; in other lists, whole floats become integers."""
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
    """Encodes a label column as codes, part by part."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's labels, int32, or None if there are no labels."""
        ...

    def finish(self) -> LabelVocabulary | None:
        """Return the value of each code; None if not every record has a label."""
        ...


def make_label_column(wanted: Wanted, source: str) -> Column:
    """Return the encoder for the wanted kind of labels."""
    if wanted.labels == "list":
        return ListColumn(wanted, source)
    return ScoreColumn(wanted, source) if wanted.labels == "number" else LabelColumn(wanted, source)


class ScoreColumn:
    """Read a column of scores; a code is the bits of a float32.

    Commas are decimal commas if no number of the column has a point, and at least one comma cannot separate thousands.
    """

    def __init__(self, wanted: Wanted, source: str) -> None:
        self._column = wanted.label
        self._source = source
        self._absent = wanted.labelled is False
        self._required = bool(wanted.labelled)
        self._point: Row | None = None
        """The first record whose score has a point."""
        self._comma: Row | None = None
        """The first record whose score has a comma."""
        self._decimal = False
        """Whether at least one comma is certainly a decimal comma."""
        self._named: list[float] | None = None
        """The scores that are the names of a data set's integer labels, in order from 0."""
        self._notes: list[str] = []

    def add(self, table: Table) -> np.ndarray | None:
        """Return the bits of a part's scores, int32, or None if a score is missing.

        Raises:
          UserError: for the first value that is no finite number, or is missing though required.
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
        return float(text) if "_" not in text else np.nan  # Python would accept 1_000

    def finish(self) -> LabelVocabulary | None:
        """Return an empty vocabulary with notes; None if not every record has a score.

        Raises:
          UserError: if a comma may be a decimal comma or a separator of thousands.
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
    """Return the scores, float32 [N], and tell the user the notes on them."""
    scores = np.asarray(labels.codes).view(np.float32)
    for note in labels.vocabulary.notes:
        logger.warning("%s: %s", labels.source, note)
    if len(scores) > 1 and (scores == scores[0]).all():
        hidden = ": this is how data sets mark scores that they hide" if scores[0] == -1 else ""
        logger.warning("%s: every score is %g%s", labels.source, scores[0], hidden)
    return scores
