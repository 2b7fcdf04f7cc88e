"""Encode a column of names or scores as codes, read lists that are written as text, and compare the names of labels.

A code is kept for each example, and each distinct value once, as it was written. `labels` and `label_lists` decide the
meaning of the values, from all of them and never from one example; `label_lists` encodes columns of lists."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxbert.bucket import fetched, to_path
from jaxbert.config import DataConfig
from jaxbert.data.table import Row, Table, Wanted, at_row, is_missing, not_utf8
from jaxbert.errors import UserError, kind_of, nearest, quoted, shorten
from jaxbert.plain import read_json, read_yaml, shown

WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
"""A whole number: "007" is a name, and the bound on the digits keeps the number within int64."""
_NUMBER = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])[\s_\-\u2010-\u2015]+(?=[^\W_])")

logger = logging.getLogger("jaxbert")


class LabelRules(NamedTuple):
    """The settings for the labels of all sources."""

    names: list[str] | None = None
    """`data.label_names`"""
    format: str = "auto"
    """`data.label_format`"""
    map: Mapping[str, str] = {}
    """`data.label_map`, as names to names."""
    separator: str = ","
    """`data.label_separator`"""

    @classmethod
    def of(cls, data: DataConfig) -> LabelRules:
        """Read the rules from the configuration.

        Raises:
          UserError: if `data.label_map` is no map from names to names.
        """
        names = {} if data.label_map is None else _read_map(data.label_map)
        return cls(data.label_names, data.label_format, names, data.label_separator)

    def rename(self, name: str) -> str:
        """Return the new name in the user's map, or the same name."""
        return self.map.get(name, name)


def _read_map(given: str | dict[str, Any]) -> dict[str, str]:
    """Return `data.label_map` as texts, from a YAML or JSON file where it is a path."""
    content: Any = given
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            raise UserError(f"data.label_map {shown(given)} must map names to names: write each in quotes")
        path = Path(fetched(to_path(given)))
        content = (
            read_json(path) if path.suffix.lower() == ".json" else read_yaml(path, f"data.label_map {shown(given)}")
        )
    if not isinstance(content, dict):
        raise UserError(f"data.label_map {shown(given)} must map names to names, as {{pos: positive}}")
    for name in (name for pair in content.items() for name in pair):
        if type(name) not in (str, int):  # YAML reads `no` as false
            raise UserError(f"data.label_map: {shown(name)} is not the name of a label: write it in quotes")
    return {str(name).strip(): str(meant).strip() for name, meant in content.items()}


def check_map(rules: LabelRules, written: Iterable[str], known: Sequence[str]) -> None:
    """Check that each entry of the user's map renames a label of the data to a known label.

    Args:
      rules: the rules with the map.
      written: all names in the sources, as they were written.
      known: the labels of the model.

    Raises:
      UserError: for the first entry that fails.
    """
    there = set(written) if rules.map else set()
    for name, meant in rules.map.items():
        if name not in there:
            near = nearest(name, sorted(there))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"data.label_map renames {name!r}, which is not a label of the data{hint}")
        if meant not in known:
            raise UserError(f"data.label_map makes {name!r} {meant!r}, but the labels are {quoted(known)}")


def fold(name: str) -> str:
    """Return a normal form of a name: equal for spellings that differ in case, gaps between words or Unicode form.

    Signs at the ends stay: "A-" is not "A", and -1 is not 1.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip()  # joiners and marks without a shape
    if _NUMBER.fullmatch(text):
        return str(int(text)) if text.lstrip("+-").isdecimal() else text
    return _BETWEEN_WORDS.sub(" ", text) or name


def find_places(written: Iterable[str], known: Sequence[str], source: str) -> dict[str, int]:
    """Return the index in `known` of each known name; another spelling is accepted, with a warning.

    Another spelling is not accepted if two names of `known`, or two of `written`, have the same normal form (`fold`).

    Raises:
      UserError: if two of `known` are equal.
    """
    exact = {name: index for index, name in enumerate(known)}
    if len(exact) < len(known):
        raise UserError(
            f"{source}: two labels of the model have one name ({quoted(known)}): rename one in its id2label"
        )
    written = list(dict.fromkeys(written))
    if all(name in exact for name in written):
        return {name: exact[name] for name in written}
    times, known_times = Counter(map(fold, written)), Counter(map(fold, known))
    folded = {fold(name): index for name, index in exact.items()}
    places, respelled = {}, []
    for name in written:
        if name in exact:
            places[name] = exact[name]
        elif (key := fold(name)) in folded and times[key] == known_times[key] == 1:
            places[name] = folded[key]
            respelled.append(f"{name!r} is {known[folded[key]]!r}")
    if respelled:
        more = f" and {len(respelled) - 5} more" if len(respelled) > 5 else ""
        logger.warning("%s: labels are known in another spelling: %s%s", source, ", ".join(respelled[:5]), more)
    return places


def is_generic(names: Sequence[str]) -> bool:
    """Return whether names only number the labels: LABEL_0, LABEL_1, ... or 0, 1, ..."""
    numbers = [str(index) for index in range(len(names))]
    return list(names) in (numbers, [f"LABEL_{number}" for number in numbers])


def numbers_mean(names: Sequence[str]) -> str | None:
    """Return the meaning of a whole number for these labels: an "index", a "name", or None if both are possible.

    If no name is a number, return "likely": the number is likely an index.
    """
    whole = [name for name in names if WHOLE.fullmatch(name)]
    if is_generic(names):
        return "index"
    if len(whole) < len(names):
        return None if whole else "likely"
    return None if set(map(int, whole)) == set(range(len(names))) else "name"


def both_lists(own: Sequence[str], known: Sequence[str], whose: str = "the model") -> str:
    """Return the end of a message: the labels of a source, the known labels, and the remedy."""
    lacking = [name for name in own if fold(name) not in set(map(fold, known))]
    free = [name for name in known if fold(name) not in set(map(fold, own))]
    example = f"{{{(lacking or list(own))[0]}: {(free or list(known))[0]}}}"
    return (
        f"the data has the labels {quoted(own)}, {whose} {quoted(known)}: say by data.label_map which is which, "
        f"for instance {example}"
    )


@dataclass(frozen=True)
class LabelVocabulary:
    """The value of each code of a label column, in the order in which the values first occur.

    Two codes may stand for one label ("1" and "1.0").
    """

    values: list[Any]
    """The values as written: texts without surrounding blanks, or numbers. For lists see `ListColumn`."""
    rows: list[Row]
    """The record in which each value first occurs."""
    names: list[str] | None
    """The source's own names for its integer labels, in order from 0, or for its columns of 0 and 1."""
    marks: bool = False
    """Whether a value is one record of several columns of 0 and 1, whose names are `names`."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the column that the user is told at every start."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N examples."""

    codes: np.ndarray
    """int32 [N]"""
    vocabulary: LabelVocabulary
    source: str

    def place(self, code: int) -> str:
        """Return the record in which a code first occurs, for a message."""
        return at_row(self.source, self.vocabulary.rows[code])


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
        """Whether labels are not read, or a record has none where that is allowed."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's labels, int32, or None if there are no labels.

        Raises:
          UserError: for the first value that is no label, or is missing though required.
        """
        if table.labels is None or self._absent:
            self._absent = True
            return None
        self._names = table.label_names
        codes = np.empty(len(table), np.int32)
        for i, value in enumerate(table.labels):
            try:
                code = self._codes.get((type(value), value))
            except TypeError:  # a list, which has no hash
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

    def finish(self) -> LabelVocabulary | None:
        """Return the value of each code; None if not every record has a label.

        Raises:
          UserError: if all required labels are missing, or true and false are mixed with other values.
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
        if self._names is not None and -1 in written:  # in data sets that name labels, -1 means none
            self._refuse_unlabelled()
            return None
        return LabelVocabulary(written, self._rows, self._names)

    def _refuse_unlabelled(self) -> None:
        """Raise `UserError` for records that are marked as without a label, if labels are required."""
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
        """Raise `UserError` for the first value whose type differs from that of the first value."""
        written = self._values
        code = next(i for i, value in enumerate(written) if isinstance(value, bool) != isinstance(written[0], bool))
        self._refuse(written[code], at_row(self._source, self._rows[code]))

    def _refuse(self, value: Any, where: str) -> NoReturn:
        several = isinstance(value, list | tuple | np.ndarray)
        way = ": if a text has several labels, set task: multi_label, else write the label alone" if several else ""
        kind = "a list" if several else kind_of(value)
        raise UserError(
            f"{where}: column {self._column!r} holds {kind} ({shorten(repr(value))}), but a label is a name or a whole "
            f"number, one a row{way}"
        )


def whole_number(value: Any) -> int | None:
    """Return a value as a whole number if it is one (3, 3.0, "3", "3.0"), else None."""
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


def decode(value: bytes, column: str, source: str, row: Row) -> str:
    """Return UTF-8 bytes as text, or raise `UserError` with the record."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"column {column!r} is {not_utf8(error)}"
        raise UserError(f"{at_row(source, row)}: {message}: convert the text to UTF-8") from error


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


_LARGEST = float(np.finfo(np.float32).max)
_WITH_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")


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
