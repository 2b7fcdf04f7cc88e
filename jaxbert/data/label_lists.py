"""Encode columns of lists of labels, and decide the meaning of the lists: names, indices, or multi-hot.

The decision is made for a complete column, from all of its values. If two meanings are possible, the error names the setting
that decides.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from typing import Any, NoReturn

import numpy as np

from jaxbert.data.label_column import (
    LabelRules,
    Labels,
    LabelVocabulary,
    both_lists,
    decode,
    find_places,
    is_generic,
    looks_like_list,
    read_list,
    whole_number,
)
from jaxbert.data.labels import Head, LabelSet, encode, fit_labels, keep_head, renamed
from jaxbert.data.table import Row, Table, Wanted, at_row, is_missing
from jaxbert.errors import UserError, kind_of, quoted, shorten

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


_BITS = re.compile("[01]{2,}")

logger = logging.getLogger("jaxbert")


def fit_label_lists(labels: Labels, rules: LabelRules, num_labels: int | None, head: Head | None = None) -> LabelSet:
    """Decide names and indices as `fit_labels` does, from the labels of all lists.

    Raises:
      UserError: as in `fit_labels`, and if no example has a label or lists have two possible meanings.
    """
    expected = num_labels or (len(rules.names) if rules.names else None)
    if _decide(labels, rules, expected) == "multi_hot":
        label_set = _fit_positions(renamed(labels, rules), rules, num_labels)
        named = labels.vocabulary.names is not None
        return label_set if head is None else keep_head(label_set, labels.source, rules, head, named=named, own=named)
    members, _ = _members(labels, rules)
    if not members.vocabulary.values:
        raise UserError(f"{labels.source}: no example has a label (data.label, data.label_separator)")
    return fit_labels(members, rules, num_labels, head)


def encode_lists(labels: Labels, label_set: LabelSet, rules: LabelRules = LabelRules()) -> np.ndarray:  # noqa: B008
    """Return whether each example has each label, bool [N, C].

    Raises:
      UserError: for the first label that is not in the set, and if lists have two possible meanings.
    """
    if _known_format(labels, rules, label_set) == "multi_hot":
        listed, places = _positions(renamed(labels, rules), len(label_set), label_set)
    else:
        members, read = _members(labels, rules)
        numbered = {member: i for i, member in enumerate(members.vocabulary.values)}
        places = encode(members, label_set, rules)
        listed = [[numbered[member] for member in members_of] for members_of in read]
    table = np.zeros((len(listed), len(label_set)), bool)
    for code, found in enumerate(listed):
        table[code, places[found]] = True
    return table[labels.codes]


def _known_format(labels: Labels, rules: LabelRules, label_set: LabelSet) -> str:
    """Return the format of lists for known labels: the format of training, if it was recorded."""
    values, own = labels.vocabulary.values, labels.vocabulary.names
    if rules.format != "auto" or label_set.integers == "either" or (own is not None and not is_generic(own)):
        return _decide(labels, rules, len(label_set))
    named = all(isinstance(v, list) and all(whole_number(m) is None for m in v) for v in values) and any(values)
    return "multi_hot" if label_set.integers == "position" and not named else "auto"


def _decide(labels: Labels, rules: LabelRules, expected: int | None) -> str:
    """Return the format of lists: "multi_hot", "names", "indices", or "auto" to decide by their members.

    Raises:
      UserError: if all lists can be multi-hot as well as pairs of indices.
    """
    vocabulary, counts = labels.vocabulary, np.bincount(labels.codes, minlength=len(labels.vocabulary.values))
    if vocabulary.marks or rules.format != "auto":
        return "multi_hot" if vocabulary.marks else rules.format
    _refuse_bits(labels)
    hot = {code: value for code, value in enumerate(vocabulary.values) if is_hot(value)}
    # A value that repeats, or is written as true or 1.0, is no index; a list of three has 0 or 1 twice.
    if any(value["sure"] or value["of"] != 2 or len(value["at"]) != 1 for value in hot.values()):
        other = [code for code, value in enumerate(vocabulary.values) if value and code not in hot]
        return "multi_hot" if counts[list(hot)].sum() >= counts[other].sum() else "auto"
    if not hot or len(hot) < len(vocabulary.values) or vocabulary.names is not None:
        return "auto"
    shown = "[0, 1]" if hot[min(hot)]["at"] == [1] else "[1, 0]"
    if expected == 2:
        logger.warning("%s: lists such as %s are taken as multi-hot, because there are 2 labels", labels.source, shown)
        return "multi_hot"
    raise UserError(
        f"{labels.place(min(hot))}: {shown} can be two indices, or 0 and 1 for each of two labels: set data.label_format to "
        "indices or multi_hot"
    )


def _refuse_bits(labels: Labels) -> None:
    """Raise `UserError` if all labels are digits of equal length such as "0101"."""
    texts = [str(value[0]) if isinstance(value, list) and len(value) == 1 else "" for value in labels.vocabulary.values]
    alike = len({len(text) for text in texts}) == 1 and any(text[0] == "0" for text in texts if text)
    if alike and all(_BITS.fullmatch(text) for text in texts):
        raise UserError(
            f"{labels.place(0)}: label {texts[0]!r} looks like 0 and 1 for several labels: put commas between them; if it "
            "is a name, set data.label_format to names"
        )


def _fit_positions(labels: Labels, rules: LabelRules, num_labels: int | None) -> LabelSet:
    """Return the labels of multi-hot lists, one for each position."""
    vocabulary, given = labels.vocabulary, rules.names
    counts = np.bincount(labels.codes, minlength=len(vocabulary.values))
    lengths: Counter[int] = Counter()
    for value, count in zip(vocabulary.values, counts.tolist(), strict=True):
        lengths[1 if is_text(value) else _length(value)] += count
    length = len(vocabulary.names or ()) if vocabulary.marks else lengths.most_common(1)[0][0]
    if length < 2:
        raise UserError(f"{labels.source}: multi-hot lists need a place for each of two labels at least")
    listed, _ = _positions(labels, length, None)
    if not any(listed):
        raise UserError(f"{labels.source}: no example has a label (data.label, data.label_separator)")
    for key, asked in (("model.num_labels is", num_labels), ("data.label_names has", given and len(given))):
        if asked is not None and asked != length:
            raise UserError(
                f"{key} {asked}, but {labels.source} has multi-hot lists of {length} labels: make them agree"
            )
    own = vocabulary.names if vocabulary.names is not None and len(vocabulary.names) == length else None
    if own is not None and given is not None and len(find_places(own, given, labels.source)) < length:
        raise UserError(f"data.label_names differs: {both_lists(own, given, 'data.label_names')}")
    if given is not None and len(set(given)) < len(given):
        raise UserError(f"data.label_names names a label twice: {quoted(given)}")
    return LabelSet(tuple(given or own or (f"LABEL_{index}" for index in range(length))), "position")


def _length(value: Any) -> int:
    return value["of"] if is_hot(value) else len(value)


def _positions(labels: Labels, length: int, label_set: LabelSet | None) -> tuple[list[list[int]], np.ndarray]:
    """Return the positions of 1 in each multi-hot list, and the label index of each position.

    Raises:
      UserError: for a list of another length or with other values, and for names that are not in the set.
    """
    vocabulary, places = labels.vocabulary, np.arange(length)
    own = vocabulary.names if vocabulary.marks or len(vocabulary.names or ()) == length else None
    if own is not None and label_set is not None and not is_generic(own):
        known = label_set.names
        named = find_places(own, known, labels.source)
        if len(named) < len(own) and not (is_generic(known) and not vocabulary.marks):
            raise UserError(f"{labels.source}: labels are unknown: {both_lists(own, known)}")
        if lacking := [name for place, name in enumerate(known) if place not in named.values()] if named else []:
            raise UserError(f"{labels.source}: no column of data.label holds the labels {quoted(lacking)}: name all")
        places = np.array([named[name] for name in own]) if named else places
    return [_places(labels, code, length) for code in range(len(vocabulary.values))], places


def _places(labels: Labels, code: int, length: int) -> list[int]:
    """Return the positions of 1 in a multi-hot list, or raise `UserError`."""
    value = labels.vocabulary.values[code]
    members = [value["text"]] if is_text(value) else [] if is_hot(value) else value
    odd = next((member for member in members if str(member).lower() not in MARKS), None)
    if odd is not None:
        raise UserError(
            f"{labels.place(code)}: a multi-hot list holds {shorten(repr(odd))}, but each of its values is 0 or 1 (shares "
            "of labels are not supported): correct it"
        )
    if _length(value) != length:
        raise UserError(
            f"{labels.place(code)}: a list of {_length(value)} values, but a multi-hot list has one for each of {length} "
            "labels: correct it; lists of indices need data.label_format: indices"
        )
    return value["at"] if is_hot(value) else [place for place, m in enumerate(members) if MARKS[str(m).lower()]]


def _members(labels: Labels, rules: LabelRules) -> tuple[Labels, list[list[Any]]]:
    """Return the distinct labels of all lists, with the record in which each first occurs, and the labels of each list."""
    vocabulary = labels.vocabulary
    unquoted = _are_unquoted(labels, rules)
    first: dict[Any, int] = {}
    read = []
    for code, value in enumerate(vocabulary.values):
        members = _read_text(labels, code, rules, unquoted) if is_text(value) else value
        members = _as_numbers(labels, code) if is_hot(value) else members
        spelled = [str(member) if rules.format == "names" else whole_number(member) for member in members]
        spelled = [s if s is not None else m for s, m in zip(spelled, members, strict=True)]
        if len(set(spelled)) < len(spelled):
            _refuse_repeated(labels, code, Counter(spelled).most_common(1)[0][0])
        read.append(members)
        for member in members:
            first.setdefault(member, code)
    single = dataclasses.replace(
        vocabulary, values=list(first), rows=[vocabulary.rows[code] for code in first.values()]
    )
    return Labels(np.arange(len(first), dtype=np.int32), single, labels.source), read


def _refuse_repeated(labels: Labels, code: int, member: Any) -> NoReturn:
    numbers = "; multi-hot lists need data.label_format: multi_hot" if isinstance(member, int) else ""
    raise UserError(f"{labels.place(code)}: label {member!r} stands twice in one list: remove one{numbers}")


def _as_numbers(labels: Labels, code: int) -> list[int]:
    """Return a list of 0 and 1 as indices, which is [0, 1], or raise `UserError`."""
    value = labels.vocabulary.values[code]
    if value["sure"]:
        raise UserError(
            f"{labels.place(code)}: the list holds true and false, or 0.0 and 1.0, which are no labels: multi-hot lists "
            "need data.label_format: multi_hot"
        )
    if value["of"] != 2 or len(value["at"]) != 1:
        _refuse_repeated(labels, code, 0 if value["of"] - len(value["at"]) > 1 else 1)
    return [0, 1]


def _are_unquoted(labels: Labels, rules: LabelRules) -> bool:
    """Return whether all labels are lists in brackets whose members have no quotes, as [joy, love]; warn if so."""
    values = [value for value in labels.vocabulary.values if value]
    texts = [value["text"] for value in values if is_text(value)]
    bracketed = all(looks_like_list(text) and text[-1] in "]}" and "..." not in text for text in texts)
    if rules.format == "names" or not texts or len(texts) < len(values) or not bracketed:
        return False
    logger.warning("%s: labels such as %s are read as lists without quotes", labels.source, shorten(texts[0]))
    return True


def _read_text(labels: Labels, code: int, rules: LabelRules, unquoted: bool) -> list[str]:
    """Return the labels in a text that may be a list, or raise `UserError`."""
    text = labels.vocabulary.values[code]["text"]
    if unquoted:
        return [part.strip("'\"") for part in split(text[1:-1], rules.separator)]
    if rules.format == "names":
        return split(text, rules.separator)
    where, as_name = labels.place(code), "if all of it belongs to names, set data.label_format to names"
    if looks_like_list(text):
        raise UserError(f"{where}: {shorten(text)!r} cannot be read as a list: write it as JSON; {as_name}")
    between = next((other for other in OTHER_SEPARATORS if other in text), " ")
    raise UserError(
        f"{where}: {shorten(text)!r} holds {between!r}: if it separates labels, set data.label_separator; {as_name}"
    )
