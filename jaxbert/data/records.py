"""Examples that are more than texts and a label, one record at a time: lists of words, marked spans, answers.

Finds JSON lines, parquet files, Hub datasets and standard input, as `sources` does for texts, and says in which row each
record is. What a record must hold is the caller's part.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxbert.data import hub
from jaxbert.data.class_names import class_names, parquet_features
from jaxbert.data.files import JSON_LINES, existing_file, json_records, raw_lines
from jaxbert.data.sources import SPLITS, STDIN, Role, stdin_lines
from jaxbert.data.table import PART_ROWS, at_row, kind_of, nearest, quoted, shorten
from jaxbert.errors import UserError, foreign_errors

TABLES = (*JSON_LINES, ".parquet")

Rows = Generator[tuple[int, dict[str, Any]], None, None]


@dataclass(frozen=True)
class Records:
    """The records of a source, each with its row as a user counts it."""

    name: str
    """As messages name it."""
    rows: Rows
    """Whoever reads them closes them, as a mistake in one leaves a file open."""
    features: Mapping[str, Any] = field(default_factory=dict)
    """What a Hub dataset, or a parquet file of the datasets library, knows of its columns."""

    def label_names(self, column: str) -> list[str] | None:
        """Return the names that the source gives to the integers in a column of lists, or in a field `a.b` of such lists."""
        return class_names(self.features, column)


def is_table(spec: str) -> bool:
    """Say whether a source holds records, by how it is named."""
    return spec == STDIN or spec.startswith(("hf:", "tfds:")) or Path(spec).suffix.lower() in TABLES


def open_records(spec: str, role: Role) -> Records:
    """Find the records of a source.

    Raises:
      UserError: for a source that is missing, of another kind or malformed, the latter while it is read.
    """
    if spec == STDIN:
        name = "standard input"
        return Records(name, json_records(stdin_lines(name), name))
    if spec.startswith("tfds:"):
        raise UserError(f"{spec}: this task reads files and hf: datasets: export the data set as JSON lines")
    if spec.startswith("hf:"):
        dataset = hub.open_hub(spec, SPLITS[role])
        return Records(spec, (numbered for numbered in enumerate(dataset, 1)), dataset.features)
    path = existing_file(spec)
    if path.suffix.lower() == ".parquet":
        return Records(spec, _parquet_rows(path, spec), _parquet_features(path, spec))
    return Records(spec, _file_rows(path, spec))


def _file_rows(path: Path, name: str) -> Rows:
    try:
        with path.open("rb") as stream:
            yield from json_records(raw_lines(stream, name), name)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def _parquet_features(path: Path, name: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    with foreign_errors(f"{name}: not a readable parquet file"):
        return parquet_features(pq.read_schema(path).metadata)


def _parquet_rows(path: Path, name: str) -> Rows:
    import pyarrow.parquet as pq

    row, unreadable = 0, f"{name}: not a readable parquet file"
    with foreign_errors(unreadable):
        file = pq.ParquetFile(path)
    with file:
        parts = file.iter_batches(PART_ROWS)
        while True:
            with foreign_errors(unreadable):
                part = next(parts, None)
                records = [] if part is None else part.to_pylist()
            if part is None:
                return
            for record in records:
                row += 1
                yield row, record


def missing_column(record: Mapping[str, Any], column: str, key: str, source: str, row: int) -> UserError:
    """Return the error for a record that lacks a column."""
    near = nearest(column, record)
    hint = f"; did you mean {near!r}?" if near else ""
    return UserError(f"{at_row(source, row)}: no column {column!r} ({key}); there are {quoted(record)}{hint}")


def text_of(record: Mapping[str, Any], column: str, key: str, source: str, row: int) -> str:
    """Return the text in a column.

    Raises:
      UserError: if it is missing, empty or no text.
    """
    if column not in record:
        raise missing_column(record, column, key, source, row)
    value = record[column]
    if not isinstance(value, str):
        raise wrong_kind(value, column, "text", source, row)
    if not value.strip():
        raise UserError(f"{at_row(source, row)}: column {column!r} is empty: fill in the text or remove the row")
    return value


def wrong_kind(value: Any, column: str, expected: str, source: str, row: int) -> UserError:
    """Return the error for a value of a wrong kind."""
    found = "nothing" if value is None else "text" if isinstance(value, str) else kind_of(value)
    shown = shorten(repr(value))
    return UserError(f"{at_row(source, row)}: column {column!r} holds {found} ({shown}), but it must hold {expected}")
