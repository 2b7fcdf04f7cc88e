"""The one shape in which labelled text arrives, part by part, and the checks every source shares.

A reader brings columns of raw values, a few thousand rows at a time; `build_table` checks the texts or says which row is
wrong. Where the values come from is the readers' part (`files`, `hub`, `tfds`), what the labels mean `label_column`'s.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from itertools import islice, takewhile
from typing import Any, Literal, NoReturn

from jaxbert.config import DataConfig
from jaxbert.data.facts import Facts
from jaxbert.errors import UserError

LabelKind = Literal["name", "list", "number"]
Row = int | str
"""A row as a user counts it, from 1. Of a source that is several files, with the file: "b.csv, row 5"."""
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
    file: str = ""
    """Where the source is several files: this one, below the source's folder."""
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns that are copied into the answers, as the source wrote them."""

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, index: int) -> Row:
        """Return a row that stays clear beside those of other parts: `at_row` takes it with the whole source's name."""
        return f"{self.file}, row {self.rows[index]}" if self.file else self.rows[index]

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

    @classmethod
    def of(
        cls, data: DataConfig, labelled: bool | None, labels: LabelKind = "name", kept: tuple[str, ...] = ()
    ) -> Wanted:
        """Take the column names from the configuration."""
        several = tuple(data.label) if isinstance(data.label, list) else ()
        label = data.label if isinstance(data.label, str) else ", ".join(data.label)
        return cls(data.text, data.text_pair, label, labelled, labels, data.label_separator, kept, several)

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

    def choose(self, names: Sequence[str], where: str, hint: str = "") -> list[str]:
        """Return which of `names` to read.

        Raises:
          UserError: if a column is not there; `hint` is added to the message.
        """
        for key, name in [*self.needed().items(), *(("--keep", name) for name in self.kept)]:
            if name not in names:
                raise UserError(f"{where}: no column {name!r} ({key}); {_alternatives(name, names)}{hint}")
        chosen = dict.fromkeys([*self.needed().values(), *self.kept])
        if self.labelled is None and set(self.marked()) <= set(names):
            chosen |= dict.fromkeys(self.marked())
        return list(chosen)


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


def at_row(source: str, row: Row) -> str:
    """Name a row of a source, the same way in every message."""
    return f"{source}, row {row}" if isinstance(row, int) else folder_of(source) + row


def folder_of(source: str) -> str:
    """Return a folder with a slash behind it; of a pattern, the part before its first wildcard."""
    fixed = takewhile(lambda part: not has_magic(part), source.rstrip("/").split("/"))
    return "".join(f"{part}/" for part in fixed)


def check_unique(names: Sequence[str], where: str) -> None:
    """Refuse two columns of one name; nameless ones (an exported index) cannot be asked for and may repeat."""
    twice = sorted(name for name, times in Counter(names).items() if name and times > 1)
    if twice:
        raise UserError(f"{where}: several columns are named {quoted(twice)}: rename or remove all but one")


def build_table(
    columns: Mapping[str, Sequence[Any]],
    wanted: Wanted,
    *,
    source: str,
    rows: Sequence[int],
    label_names: list[str] | None = None,
    facts: Facts | None = None,
) -> Table:
    """Check the texts of raw columns and make a table of them; `label_names` are the source's own.

    Raises:
      UserError: for the first row whose text is empty or of a wrong type.
    """
    pairs = None if wanted.text_pair is None else _texts(columns[wanted.text_pair], wanted.text_pair, source, rows)
    has_labels = wanted.labelled is not False and set(wanted.marked()) <= columns.keys()
    labels: Sequence[Any] | None = None
    if has_labels:
        several = [columns[name] for name in wanted.label_columns]
        labels = list(zip(*several, strict=True)) if several else columns[wanted.label]
    return Table(
        texts=_texts(columns[wanted.text], wanted.text, source, rows),
        pairs=pairs,
        labels=labels,
        label_names=label_names if has_labels else None,
        source=source,
        rows=rows,
        facts=facts or Facts(),
        kept={name: columns[name] for name in wanted.kept},
    )


def _texts(values: Sequence[Any], column: str, source: str, rows: Sequence[int]) -> list[str]:
    texts = []
    for value, row in zip(values, rows, strict=True):
        if type(value) is bytes:
            value = decode(value, column, source, row)
        if type(value) is not str or not value.strip():
            _refuse_text(value, column, at_row(source, row))
        texts.append(value)
    return texts


def decode(value: bytes, column: str, source: str, row: Row) -> str:
    """Return bytes as text, or say which row is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        byte = value[error.start]
        message = f"column {column!r} is not UTF-8 (byte 0x{byte:02x} at position {error.start + 1})"
        raise UserError(f"{at_row(source, row)}: {message}: convert the text to UTF-8") from error


def _refuse_text(value: Any, column: str, where: str) -> NoReturn:
    if value is None or isinstance(value, str):
        raise UserError(f"{where}: column {column!r} is empty: fill in the text or remove the row")
    raise UserError(
        f"{where}: column {column!r} holds {kind_of(value)} ({shorten(repr(value))}), but it must hold text"
    )


def kind_of(value: Any) -> str:
    """Name what a value is, for a message."""
    names = {bool: "true or false", int: "a number", float: "a fraction", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
