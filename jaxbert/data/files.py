"""Read a file in the format that its extension names, part by part: so that neither its size nor a limit costs more memory
or time than the rows that are taken.

Which files a source has is `places`' part, how a format is read the part of `delimited` and `json_rows`; parquet is read
here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxbert.data.class_names import class_names, parquet_features
from jaxbert.data.delimited import read_delimited
from jaxbert.data.intake import Intake, Part
from jaxbert.data.json_rows import read_json
from jaxbert.data.places import DELIMITERS, JSON_LINES, extension_of, find_file
from jaxbert.data.streams import Text, opened
from jaxbert.data.table import PART_ROWS
from jaxbert.errors import UserError, foreign_errors


def read_file(name: str, intake: Intake) -> Iterator[Part]:
    """Yield the rows of a file.

    Raises:
      UserError: for a file that is missing, unreadable or malformed as a whole.
    """
    extension = extension_of(name)
    if extension == ".parquet":
        yield from _read_parquet(name, intake)
        return
    with opened(find_file(name), name) as stream:
        text = Text(stream, name, intake.data.encoding, intake.facts)
        if extension in JSON_LINES:
            yield from read_json(text, intake)
        else:
            yield from read_delimited(text, DELIMITERS[extension], intake)


def file_identity(name: str) -> list[str]:
    """Return what two files must share so that their content and its format are the same.

    Raises:
      UserError: for a file that is missing or unreadable.
    """
    return [extension_of(name), checksum_of(find_file(name), name)]


def checksum_of(path: Path, name: str) -> str:
    """Return a checksum of a file, which messages call `name`.

    Raises:
      UserError: if it is unreadable.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def _read_parquet(name: str, intake: Intake) -> Iterator[Part]:
    with _parquet(name) as file:
        schema = file.schema_arrow
        chosen = intake.choose(schema.names, name)
        label_names = class_names(parquet_features(schema.metadata), chosen.get(intake.wanted.label, ""))
        taken = 0
        for batch in _batches(file, name, list(dict.fromkeys(chosen.values()))):
            low = 0
            while low < len(batch):
                if not (room := intake.room):
                    return
                part = batch.slice(low, room)
                with foreign_errors(_UNREADABLE.format(name)):
                    columns = {asked: part.column(column).to_pylist() for asked, column in chosen.items()}
                rows = range(taken + low + 1, taken + low + len(part) + 1)
                yield Part(columns, rows, label_names=label_names)
                low += len(part)
            taken += len(batch)


def features_of(name: str) -> dict[str, Any]:
    """Return what the datasets library has left of its knowledge of the columns in a parquet file."""
    with _parquet(name) as file:
        return parquet_features(file.schema_arrow.metadata)


def parquet_records(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file, numbered from 1."""
    row = 0
    with _parquet(name) as file:
        for batch in _batches(file, name, None):
            with foreign_errors(_UNREADABLE.format(name)):
                records = batch.to_pylist()
            for record in records:
                row += 1
                yield row, record


_UNREADABLE = "{}: not a readable parquet file"
"""Besides its own errors the library raises what Python's str and datetime do with values that are none."""


def _parquet(name: str) -> Any:
    import pyarrow.parquet as pq

    path = find_file(name)
    with foreign_errors(_UNREADABLE.format(name)):
        return pq.ParquetFile(path)


def _batches(file: Any, name: str, columns: list[str] | None) -> Iterator[Any]:
    batches = file.iter_batches(PART_ROWS, columns=columns)
    while True:
        with foreign_errors(_UNREADABLE.format(name)):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
