"""The one shape in which labelled text arrives, part by part, and the checks that every source shares.

A reader brings columns of raw values, a few thousand rows at a time, which `intake` checks. Where the values come from is
the readers' part (`sources`, `hub`, `tfds`), what the labels mean that of `labels`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from jaxbert.config import DataConfig
from jaxbert.errors import UserError

_NAMED = 10

logger = logging.getLogger("jaxbert")


@dataclass
class Facts:
    """How a source was read; the reader fills it while it reads, and every part of the source carries the same one."""

    columns: list[str] = field(default_factory=list)
    """All columns of the source, in order."""
    used: list[str] = field(default_factory=list)
    """Those that were read."""
    files: list[str] = field(default_factory=list)
    """The files of a folder or a pattern, in the order of reading; empty for a single file."""
    separator: str | None = None
    """Of the fields of a row; None for formats that have none."""
    encoding: str | None = None
    """Of the text files; None for other formats."""
    skipped: int = 0
    """Malformed or empty rows that were left out because `data.bad_rows` is skip."""
    skipped_rows: list[int | str] = field(default_factory=list)
    """The first of them, as a user counts; with the file where there are several."""
    said: list[str] = field(default_factory=list)
    """What was said of how it is read: a start that finds its tokens in the cache says it again."""

    def skip(self, row: int | str) -> None:
        """Note a row that is left out."""
        self.skipped += 1
        if len(self.skipped_rows) < _NAMED:
            self.skipped_rows.append(row)

    def say(self, source: str, what: str) -> None:
        """Tell the user about something that was taken because it is likely, for the first file of which it is true."""
        if not any(note.endswith(f": {what}") for note in self.said):
            self.said.append(f"{source}: {what}")
            logger.warning("%s", self.said[-1])

    def choose(self, columns: Sequence[str], used: Sequence[str]) -> None:
        """Note the columns."""
        self.columns, self.used = list(columns), list(used)

    def become(self, other: Facts) -> None:
        """Take over what another reader of the same source has found out."""
        for field_ in dataclasses.fields(self):
            setattr(self, field_.name, getattr(other, field_.name))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


_LISTS = ("List", "LargeList", "Sequence")


def class_names(features: Mapping[str, Any], column: str) -> list[str] | None:
    """Return the names for the integers of a column, also those inside of lists; None where there are none.

    Args:
      features: of a data set of `datasets` or of TFDS, or what `parquet_features` has found.
      column: its name; `a.b` for what is inside of the column `a`.
    """
    feature: Any = features
    for part in [column] if column in features else column.split("."):
        inner = _without_lists(feature)
        feature = inner.get(part) if isinstance(inner, Mapping) else None
    feature = _without_lists(feature)
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        names = feature.get("names") or range(feature.get("num_classes") or 0)
    else:
        names = feature.names if type(feature).__name__ == "ClassLabel" else ()
    return [str(name) for name in names] or None


def _without_lists(feature: Any) -> Any:
    """Return what a feature is made of."""
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") in _LISTS:
            feature = feature.get("feature")
        elif (inner := getattr(feature, "feature", None)) is not None:
            feature = inner
        else:
            return feature


def parquet_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return the features that the datasets library left in the metadata of a parquet file; nothing where there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


LabelKind = Literal["name", "list", "number"]


class Place(NamedTuple):
    """A row of one file of several."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


Row = int | str | Place
"""A row as a user counts it, from 1; of a source that is several files, with the file."""
PART_ROWS = 4096
"""Rows that a reader brings at a time."""
_COMPARED = 1000
"""Names among which a similar one is looked for: a broken header can have millions."""


@dataclass(frozen=True)
class Table:
    """The texts of some rows with their labels, and what is needed to talk about them.

    `rows` says how a user finds each example, counted from 1: the line of a text file in which the row starts (a header
    is row 1), otherwise the position in the parquet file or the split.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: Sequence[Any] | None
    """As the source wrote them."""
    label_names: list[str] | None
    """Names the source itself gives to its integer labels, in order from 0."""
    source: str
    """The file of these rows, where the source is several."""
    rows: Sequence[int]
    facts: Facts = field(default_factory=Facts)
    """What is known of the source as a whole; one object for all of its parts."""
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns that are copied into the answers, as the source wrote them."""

    def __len__(self) -> int:
        return len(self.texts)

    def kept_rows(self) -> list[dict[str, Any]]:
        """Return for each row what goes into its answer."""
        if not self.kept:
            return [{} for _ in self.texts]
        return [dict(zip(self.kept, values, strict=True)) for values in zip(*self.kept.values(), strict=True)]

    def row(self, index: int) -> Row:
        """Return a row that stays clear beside those of other parts."""
        return at_row(self.source, self.rows[index]) if self.facts.files else self.rows[index]

    def stretch(self, low: int, high: int) -> Table:
        """Return rows `low` to `high - 1` of this part."""
        pairs = None if self.pairs is None else self.pairs[low:high]
        labels = None if self.labels is None else self.labels[low:high]
        kept = {name: values[low:high] for name, values in self.kept.items()}
        texts, rows = self.texts[low:high], self.rows[low:high]
        return replace(self, texts=texts, pairs=pairs, labels=labels, rows=rows, kept=kept)


@dataclass(frozen=True)
class Wanted:
    """Which columns a reader must bring; `labelled` None means the label if there is one."""

    text: str
    text_pair: str | None
    label: str
    labelled: bool | None
    labels: LabelKind = "name"
    """What a label is: one name or whole number, a list of them, or a score."""
    separator: str = ","
    """Between the labels of a list that is written as text."""
    kept: tuple[str, ...] = ()
    """Columns that are copied into the answers."""

    label_columns: tuple[str, ...] = ()
    """Several columns of 0 and 1 that together say which labels a text has; `label` is what messages call them."""
    optional: tuple[str, ...] = ()
    """Columns that are copied where they are there."""

    @classmethod
    def of(
        cls,
        data: DataConfig,
        labelled: bool | None,
        labels: LabelKind = "name",
        kept: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
    ) -> Wanted:
        """Take the column names from the configuration."""
        several = tuple(data.label) if isinstance(data.label, list) else ()
        label = data.label if isinstance(data.label, str) else ", ".join(data.label)
        return cls(data.text, data.text_pair, label, labelled, labels, data.label_separator, kept, several, optional)

    def needed(self) -> dict[str, str]:
        """Return the configuration keys of the columns that must be there, with the column names."""
        keys = {"data.text": self.text}
        if self.text_pair is not None:
            keys["data.text_pair"] = self.text_pair
        if self.labelled:
            keys |= {f"data.label{f' {i}' if i else ''}": name for i, name in enumerate(self.marked())}
        return keys

    def marked(self) -> tuple[str, ...]:
        """Return the column of the label, or the columns."""
        return self.label_columns or (self.label,)

    def choose(self, names: Sequence[str], where: str, hint: str = "") -> dict[str, str]:
        """Return which of `names` to read for each name that is asked for: that one, or one that is spelled alike.

        Raises:
          UserError: if a column is not there, or twice; `hint` is added to the message.
        """
        chosen = {}
        for key, asked in self._keys():
            found = find_column(asked, names)
            if not found:
                raise UserError(f"{where}: no column {asked!r} ({key}); {_alternatives(asked, names)}{hint}")
            if len(found) > 1:
                raise UserError(
                    f"{where}: several columns are named {quoted(dict.fromkeys(found))} ({key} is {asked!r}): rename or "
                    "remove all but one"
                )
            chosen[asked] = found[0]
        if self.labelled is None and set(self.marked()) <= set(names):
            chosen |= {name: name for name in self.marked()}
        for asked in self.optional:
            if len(found := find_column(asked, names)) == 1:
                chosen[asked] = found[0]
        return chosen

    def fits(self, names: Sequence[str]) -> bool:
        """Say whether all columns are there that are asked for."""
        return all(find_column(asked, names) for asked in self.columns())

    def columns(self) -> list[str]:
        """Return the names of the columns that must be there."""
        return [asked for _, asked in self._keys()]

    def _keys(self) -> list[tuple[str, str]]:
        return [*self.needed().items(), *(("--keep", name) for name in self.kept)]


def find_column(asked: str, names: Sequence[str]) -> list[str]:
    """Return the columns of a name; where there is none, those whose names differ in case, blanks or Unicode form alone."""
    found = [name for name in names if name == asked]
    return found or [name for name in names[:_COMPARED] if _folded(name) == _folded(asked)]


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _alternatives(name: str, names: Sequence[str]) -> str:
    there = "there are " + quoted(names) if names else "there are none"
    near = nearest(name, names)
    return there + (f"; did you mean {near!r}?" if near else "")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `name` was probably meant to be."""
    folded = {other.casefold(): other for other in islice(names, _COMPARED)}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def quoted(values: Iterable[Any], most: int = 20) -> str:
    """List values for a message, shortened."""
    everything = list(values)
    shown = ", ".join(repr(shorten(v) if isinstance(v, str) else v) for v in everything[:most])
    return shown + (f" and {len(everything) - most} more" if len(everything) > most else "")


def shorten(text: str, most: int = 40) -> str:
    """Cut a text so that a message stays one readable line."""
    return text if len(text) <= most else text[: most - 1] + "…"


def concatenate_tables(parts: Sequence[Table]) -> Table:
    """Put parts of a source behind one another, without their labels."""
    if len(parts) == 1:
        return parts[0]
    chained = chain.from_iterable
    rows: Sequence[Any] = [part.row(index) for part in parts for index in range(len(part))]
    return replace(
        parts[0],
        texts=list(chained(part.texts for part in parts)),
        pairs=None if parts[0].pairs is None else list(chained(part.pairs or () for part in parts)),
        labels=None,
        rows=rows,
        kept={name: list(chained(part.kept[name] for part in parts)) for name in parts[0].kept},
    )


def at_row(source: str, row: Row) -> str:
    """Name a row of a source, the same way in every message."""
    return str(row) if isinstance(row, str | Place) else f"{source}, row {row}"


def check_texts(values: Sequence[Any], column: str) -> tuple[Sequence[Any], dict[int, str]]:
    """Return a column as texts, and what is wrong with the rows that hold no text."""
    try:
        if all(map(str.strip, values)):
            return values, {}
    except TypeError:  # not all are texts
        pass
    texts, wrong = list(values), {}
    for index, value in enumerate(values):
        if type(value) is bytes:
            try:
                texts[index] = value = value.decode()
            except UnicodeDecodeError as error:
                wrong[index] = f"column {column!r} is {not_utf8(error)}: convert the text to UTF-8"
                continue
        if is_missing(value):
            wrong[index] = f"column {column!r} is empty: fill in the text or remove the row"
        elif not isinstance(value, str):
            wrong[index] = f"column {column!r} holds {kind_of(value)} ({shorten(repr(value))}), but it must hold text"
    return texts, wrong


def is_missing(value: Any) -> bool:
    """Say whether nothing stands in a field."""
    if isinstance(value, str | bytes):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def not_utf8(error: UnicodeDecodeError) -> str:
    """Name the first byte that is not UTF-8."""
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at position {error.start + 1})"


def decode(value: bytes, column: str, source: str, row: Row) -> str:
    """Return bytes as text, or say which row is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"column {column!r} is {not_utf8(error)}"
        raise UserError(f"{at_row(source, row)}: {message}: convert the text to UTF-8") from error


def kind_of(value: Any) -> str:
    """Name what a value is, for a message."""
    names = {bool: "true or false", int: "a number", float: "a fraction", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
