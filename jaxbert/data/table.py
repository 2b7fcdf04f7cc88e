"""The table in which all labelled texts arrive, part by part, and the checks that all sources share.

Readers (`sources`, `hub`, `tfds`) yield columns of raw values, a few thousand records at a time, and `intake` makes tables
of them. `labels` decides the meaning of the labels."""

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
    """The findings about a source; its reader adds to them, and all parts of the source share one object."""

    columns: list[str] = field(default_factory=list)
    """All columns of the source, in order."""
    used: list[str] = field(default_factory=list)
    """The columns that were read."""
    files: list[str] = field(default_factory=list)
    """The files of a folder or a pattern, in the order of reading; empty for a single file."""
    separator: str | None = None
    """The separator of fields; None for formats without one."""
    encoding: str | None = None
    """The encoding of text files; None for other formats."""
    skipped: int = 0
    """The number of malformed or empty records that were left out because `data.bad_rows` is skip."""
    skipped_rows: list[int | str] = field(default_factory=list)
    """The first left-out records, counted from 1; with the file if the source is several files."""
    said: list[str] = field(default_factory=list)
    """The remarks on the reading, which a start that takes its tokens from the cache repeats."""

    def skip(self, row: int | str) -> None:
        """Note a record that is left out."""
        self.skipped += 1
        if len(self.skipped_rows) < _NAMED:
            self.skipped_rows.append(row)

    def say(self, source: str, what: str) -> None:
        """Tell the user about a guess, only for the first file to which it applies."""
        if not any(note.endswith(f": {what}") for note in self.said):
            self.said.append(f"{source}: {what}")
            logger.warning("%s", self.said[-1])

    def choose(self, columns: Sequence[str], used: Sequence[str]) -> None:
        """Note all columns, and the columns that are read."""
        self.columns, self.used = list(columns), list(used)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


_LISTS = ("List", "LargeList", "Sequence")


def class_names(features: Mapping[str, Any], column: str) -> list[str] | None:
    """Return the names for the integers of a column, or inside its lists; None if there are none.

    Args:
      features: the features of a data set of `datasets` or of TFDS, or the result of `parquet_features`.
      column: the name of the column; `a.b` for the field `b` inside the column `a`.
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
    """Return the feature inside all lists."""
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
    """Return the features that the datasets library wrote to the metadata of a parquet file; empty if there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


LabelKind = Literal["name", "list", "number"]


class Place(NamedTuple):
    """A record of a source that is several files."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


Row = int | str | Place
"""The number of a record, from 1; with the file if the source is several files."""


def row_of(value: Any) -> Row:
    """Return a record number that was stored as JSON, in which a `Place` is a list."""
    return Place(*value) if isinstance(value, list) else value


PART_ROWS = 4096
"""The most records in one part."""
_COMPARED = 1000
"""The most names that are compared to find a similar one: a broken header can have millions."""


@dataclass(frozen=True)
class Table:
    """The texts of some examples with their labels, and their places in the source, for messages.

    `rows` are the numbers of the examples, from 1: in a text file the line in which the record starts (a header is row 1),
    otherwise the position in the parquet file or the split.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: Sequence[Any] | None
    """The labels as written in the source."""
    label_names: list[str] | None
    """The source's own names for its integer labels, in order from 0."""
    source: str
    """The name of the source, or of the file of these examples if the source is several files."""
    rows: Sequence[int]
    facts: Facts = field(default_factory=Facts)
    """The findings about the complete source; one object for all of its parts."""
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns that are copied to the answers, as written in the source."""

    def __len__(self) -> int:
        return len(self.texts)

    def kept_rows(self) -> list[dict[str, Any]]:
        """Return the columns that are copied to the answer of each example."""
        if not self.kept:
            return [{} for _ in self.texts]
        return [dict(zip(self.kept, values, strict=True)) for values in zip(*self.kept.values(), strict=True)]

    def row(self, index: int) -> Row:
        """Return the number of an example; with its file if the source is several files."""
        return at_row(self.source, self.rows[index]) if self.facts.files else self.rows[index]

    def stretch(self, low: int, high: int) -> Table:
        """Return the examples `low` to `high - 1` of this part."""
        pairs = None if self.pairs is None else self.pairs[low:high]
        labels = None if self.labels is None else self.labels[low:high]
        kept = {name: values[low:high] for name, values in self.kept.items()}
        texts, rows = self.texts[low:high], self.rows[low:high]
        return replace(self, texts=texts, pairs=pairs, labels=labels, rows=rows, kept=kept)


@dataclass(frozen=True)
class Wanted:
    """The columns that a reader must read; `labelled` None means the label if there is one."""

    text: str
    text_pair: str | None
    label: str
    labelled: bool | None
    labels: LabelKind = "name"
    """The kind of a label: one name or whole number, a list of them, or a score."""
    separator: str = ","
    """The separator of labels in a list that is written as text."""
    kept: tuple[str, ...] = ()
    """Columns that are copied to the answers."""

    label_columns: tuple[str, ...] = ()
    """Several columns of 0 and 1, one for each label; `label` is their name in messages."""
    optional: tuple[str, ...] = ()
    """Columns that are copied if they exist."""

    @classmethod
    def of(
        cls,
        data: DataConfig,
        labelled: bool | None,
        labels: LabelKind = "name",
        kept: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
    ) -> Wanted:
        """Return the wanted columns, with the names from the configuration."""
        several = tuple(data.label) if isinstance(data.label, list) else ()
        label = data.label if isinstance(data.label, str) else ", ".join(data.label)
        return cls(data.text, data.text_pair, label, labelled, labels, data.label_separator, kept, several, optional)

    def needed(self) -> dict[str, str]:
        """Return the required columns: configuration key to column name."""
        keys = {"data.text": self.text}
        if self.text_pair is not None:
            keys["data.text_pair"] = self.text_pair
        if self.labelled:
            keys |= {f"data.label{f' {i}' if i else ''}": name for i, name in enumerate(self.marked())}
        return keys

    def marked(self) -> tuple[str, ...]:
        """Return the names of the label column or columns."""
        return self.label_columns or (self.label,)

    def choose(self, names: Sequence[str], where: str, hint: str = "") -> dict[str, str]:
        """Return, for each wanted column, the one of `names` to read: the same name, or one in another spelling.

        Raises:
          UserError: if a column is missing or ambiguous; `hint` is added to the message.
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
        """Return whether all required columns are among `names`."""
        return all(find_column(asked, names) for asked in self.columns())

    def columns(self) -> list[str]:
        """Return the names of the required columns."""
        return [asked for _, asked in self._keys()]

    def _keys(self) -> list[tuple[str, str]]:
        return [*self.needed().items(), *(("--keep", name) for name in self.kept)]


def find_column(asked: str, names: Sequence[str]) -> list[str]:
    """Return the columns with this name; if there is none, those that differ only in case, blanks or Unicode form."""
    found = [name for name in names if name == asked]
    return found or [name for name in names[:_COMPARED] if _folded(name) == _folded(asked)]


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _alternatives(name: str, names: Sequence[str]) -> str:
    there = "there are " + quoted(names) if names else "there are none"
    near = nearest(name, names)
    return there + (f"; did you mean {near!r}?" if near else "")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is most similar to `name`; None if none is similar."""
    folded = {other.casefold(): other for other in islice(names, _COMPARED)}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def quoted(values: Iterable[Any], most: int = 20) -> str:
    """Return a list of at most `most` values for a message, each shortened."""
    everything = list(values)
    shown = ", ".join(repr(shorten(v) if isinstance(v, str) else v) for v in everything[:most])
    return shown + (f" and {len(everything) - most} more" if len(everything) > most else "")


def shorten(text: str, most: int = 40) -> str:
    """Cut a text to `most` characters, so that a message stays one readable line."""
    return text if len(text) <= most else text[: most - 1] + "…"


def concatenate_tables(parts: Sequence[Table]) -> Table:
    """Concatenate parts of a source, without their labels."""
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
    """Return the name of a record of a source, the same in every message."""
    return str(row) if isinstance(row, str | Place) else f"{source}, row {row}"


def check_texts(values: Sequence[Any], column: str) -> tuple[Sequence[Any], dict[int, str]]:
    """Return a column as texts, and the problem of each index without a text."""
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
    """Return whether a value is missing: None, a blank text or NaN."""
    if isinstance(value, str | bytes):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def not_utf8(error: UnicodeDecodeError) -> str:
    """Describe the first byte that is not UTF-8, for a message."""
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at position {error.start + 1})"


def decode(value: bytes, column: str, source: str, row: Row) -> str:
    """Return UTF-8 bytes as text, or raise `UserError` with the record."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"column {column!r} is {not_utf8(error)}"
        raise UserError(f"{at_row(source, row)}: {message}: convert the text to UTF-8") from error


def kind_of(value: Any) -> str:
    """Return the kind of a value, for a message."""
    names = {bool: "true or false", int: "a number", float: "a fraction", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
