"""The one shape in which labelled text arrives, part by part, and the checks every source shares.

A reader brings columns of raw values, a few thousand rows at a time, which `intake` checks. Where the values come from is
the readers' part (`files`, `hub`, `tfds`), what the labels mean `label_column`'s.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from jaxbert.config import DataConfig
from jaxbert.data.facts import Facts
from jaxbert.errors import UserError

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


def together(parts: Sequence[Table]) -> Table:
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
