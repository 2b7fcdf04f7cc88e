"""Read examples that are more than texts and a label, record by record: lists of words, marked spans, answers.

Finds JSON, parquet files, Hub datasets and standard input, as `sources` does for texts, and gives each record its number.
The caller checks the content of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from jaxbert.config import DataConfig
from jaxbert.data import memory, tfds
from jaxbert.data.files import JSON_LINES, FoundFiles, Text, extension_of, find_file, find_files, opened
from jaxbert.data.hub import Split, class_names
from jaxbert.data.json_rows import json_records
from jaxbert.data.sources import (
    SPLITS,
    STDIN,
    STDIN_NAME,
    Role,
    check_rows,
    features_of,
    file_identity,
    find_split,
    parquet_records,
    stdin_text,
    stdin_waits,
)
from jaxbert.data.table import BadRows, Facts, Place, Problem, Row, at_row, find_column
from jaxbert.errors import UserError, kind_of, nearest, quoted, shorten

TABLES = (*JSON_LINES, ".parquet")

Example = TypeVar("Example")
Items = Generator[tuple[str, int, "dict[str, Any] | Problem"], None, None]
"""The file of each record, its number there, and the record."""


@dataclass(frozen=True)
class Records:
    """The records of a source that was found and is not read yet."""

    name: str
    """The source's name in messages."""
    begin: Callable[[Facts], Items]
    """Start reading; findings about the source are noted."""
    data: DataConfig
    role: Role
    identity: Callable[[], Any]
    """Return plain values that change with the content; None if it cannot be identified."""
    features: Mapping[str, Any] = field(default_factory=dict)
    """The column types of a Hub dataset, of TFDS or of a parquet file that the datasets library wrote; else empty."""

    def label_names(self, column: str) -> list[str] | None:
        """Return the source's names for the integers in a column of lists, or in a field `a.b` of such lists."""
        return class_names(self.features, column)

    def examples(self, read: Callable[[Mapping[str, Any], Row], Example], facts: Facts) -> Iterator[Example]:
        """Yield the example of each record.

        Args:
          read: returns the example of a record and its number; raises UserError for a malformed record.
          facts: where findings about the source are noted.

        Raises:
          UserError: for the first bad record, unless bad records are left out.
        """
        # After a bad record of a pipe, the next one may take long to arrive.
        counted = self.name != STDIN_NAME or not stdin_waits()
        bad = BadRows(self.name, self.data, facts, skippable=self.role != "predict", counted=counted)
        try:
            with closing(self.begin(facts)) as items:
                yield from self._read(items, read, bad)
        except GeneratorExit:  # the caller needs no more
            bad.say_skipped()
            raise
        bad.finish()

    def _read(self, items: Items, read: Callable[[Mapping[str, Any], Row], Example], bad: BadRows) -> Iterator[Example]:
        file = self.name
        while not bad.enough and (item := _next(items, bad)) is not None:
            source, row, record = item
            if source != file:
                bad.end_file()
                file = source
            if isinstance(record, Problem):
                bad.note(source, record)
                continue
            name = row if source == self.name else Place(source, row)
            try:
                example = read(record, name)
            except UserError as error:
                what = str(error).removeprefix(at_row(self.name, name)).lstrip(":, ")
                bad.note(source, Problem(row, what), str(error))
                continue
            bad.good(source)
            if not bad.ends:
                yield example
        bad.end_file()
        if bad.enough:
            bad.raise_first(all_counted=False)


def _next(items: Items, bad: BadRows) -> tuple[str, int, dict[str, Any] | Problem] | None:
    try:
        return next(items, None)
    except UserError:
        bad.raise_first(all_counted=False)
        raise


def is_table(spec: str) -> bool:
    """Return whether a source holds records, by its name or by the files in a folder."""
    if spec == STDIN or spec.startswith(("hf:", "tfds:", memory.PREFIX)) or extension_of(spec) in TABLES:
        return True
    try:
        return find_split(spec, "train") is not None or extension_of(find_files(spec, "train").files[0]) in TABLES
    except UserError:  # raised again where it is opened
        return False


def open_records(spec: str, role: Role, data: DataConfig) -> Records:
    """Find the records of a source.

    Raises:
      UserError: for a source that is missing or of another kind; while it is read, for a malformed one.
    """
    if role == "predict":
        check_rows(data)
    if spec == STDIN:
        return Records(STDIN_NAME, partial(_in_stdin, data), data, role, lambda: None)
    if spec.startswith("tfds:"):
        prepared = tfds.open_tfds(spec, SPLITS[role])
        features = dict(prepared.builder.info.features.items())
        return Records(spec, lambda _: tfds.tfds_records(prepared), data, role, prepared.identity, features)
    if spec.startswith(memory.PREFIX):
        held = memory.find_held(spec)
        return Records(held.name, lambda _: held.records(), data, role, lambda: None, held.features)
    split = find_split(spec, role)
    if split is not None:
        return Records(spec, partial(_in_split, split, spec), data, role, split.identity, split.rows.features)
    found = find_files(spec, SPLITS[role])
    for name in found.files:
        find_file(name)
    features = features_of(found.files[0]) if extension_of(found.files[0]) == ".parquet" else {}
    return Records(
        spec,
        partial(_in_files, found, data),
        data,
        role,
        lambda: [file_identity(name) for name in found.files],
        features,
    )


def records_of(text: Text, role: Role, data: DataConfig) -> Records:
    """Return the records of a JSON text."""
    return Records(text.source, lambda facts: _in_text(text, data, facts), data, role, lambda: None)


def _in_stdin(data: DataConfig, facts: Facts) -> Items:
    yield from _in_text(stdin_text(data, facts), data, facts)


def _in_split(split: Split, spec: str, facts: Facts) -> Items:
    split.say(facts)
    for row, record in enumerate(split.rows, 1):
        yield spec, row, record


def _in_files(found: FoundFiles, data: DataConfig, facts: Facts) -> Items:
    found.say(facts)
    for name in found.files:
        if extension_of(name) == ".parquet":
            for row, record in parquet_records(name):
                yield name, row, record
            continue
        with opened(find_file(name), name) as stream:
            yield from _in_text(Text(stream, name, data.encoding, facts), data, facts)


def _in_text(text: Text, data: DataConfig, facts: Facts) -> Items:
    known = (data.text, data.tokens, data.question, data.context)
    for row, record in json_records(text, known, facts):
        yield text.source, row, record


class Keeper:
    """Copy columns of records to answers; the first record decides the columns."""

    def __init__(self, kept: Sequence[str]) -> None:
        self._kept = kept
        self._columns: dict[str, str] | None = None

    def copied(self, record: Mapping[str, Any], source: str, row: Row) -> dict[str, Any]:
        """Return the columns of a record that are copied to its answer.

        Raises:
          UserError: if the first record lacks a column.
        """
        if self._columns is None:
            found = {asked: find_column(asked, list(record)) for asked in self._kept}
            for asked, names in found.items():
                if len(names) != 1:
                    raise missing_column(record, asked, "--keep", source, row)
            self._columns = {asked: names[0] for asked, names in found.items()}
        return {asked: record.get(name) for asked, name in self._columns.items()}


def missing_column(record: Mapping[str, Any], column: str, key: str, source: str, row: Row) -> UserError:
    """Return the error for a record that lacks a column."""
    near = nearest(column, record)
    hint = f"; did you mean {near!r}?" if near else ""
    return UserError(f"{at_row(source, row)}: no column {column!r} ({key}); there are {quoted(record)}{hint}")


def text_of(record: Mapping[str, Any], column: str, key: str, source: str, row: Row) -> str:
    """Return the text in a column.

    Raises:
      UserError: if the column is missing, or its value is empty or no text.
    """
    if column not in record:
        raise missing_column(record, column, key, source, row)
    value = record[column]
    if not isinstance(value, str):
        raise wrong_kind(value, column, "text", source, row)
    if not value.strip():
        raise UserError(f"{at_row(source, row)}: column {column!r} is empty: fill in the text or remove the row")
    return value


def wrong_kind(value: Any, column: str, expected: str, source: str, row: Row) -> UserError:
    """Return the error for a value of a wrong kind."""
    found = "nothing" if value is None else "text" if isinstance(value, str) else kind_of(value)
    shown = shorten(repr(value))
    return UserError(f"{at_row(source, row)}: column {column!r} holds {found} ({shown}), but it must hold {expected}")
