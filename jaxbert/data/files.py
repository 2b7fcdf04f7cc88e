"""Read examples from csv, tsv, JSON lines and parquet files.

Finds the file, its columns and its rows, and names the row of everything that is malformed; nothing is skipped but
blank lines at the end. What a text or a label may be is `table`'s part. Files are read part by part, so that neither
their size nor a limit costs more memory or time than the rows that are taken.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from etils import epath

from jaxbert.bucket import fetched, in_bucket, to_path
from jaxbert.config import DataConfig
from jaxbert.data.class_names import class_names, parquet_features
from jaxbert.data.table import PART_ROWS, Table, Wanted, at_row, build_table, check_unique, nearest, quoted
from jaxbert.errors import UserError, foreign_errors

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
EXTENSIONS = (*DELIMITERS, *JSON_LINES, ".parquet")

LONGEST_ROW = 2**24
"""Bytes of a line, characters of a quoted field: far more than a model reads of a text. What is longer is a file without
line ends, or a quote that nothing closes, and would be held in memory several times before anyone could say so."""


def read_file(name: str, data: DataConfig, wanted: Wanted, limit: int | None = None) -> Iterator[Table]:
    """Yield the first `limit` examples of a file part by part, in the format its extension names.

    Raises:
      UserError: for a file that is missing, unreadable or malformed.
    """
    try:
        path = find_file(name)
        extension = path.suffix.lower()
        if extension == ".parquet":
            yield from _read_parquet(path, name, wanted, limit)
            return
        with path.open("rb") as stream:
            lines = raw_lines(stream, name)
            if extension in JSON_LINES:
                yield from read_json_lines(lines, name, wanted, limit)
            else:
                yield from _read_delimited(lines, name, DELIMITERS[extension], data, wanted, limit)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def file_identity(name: str) -> list[str]:
    """Return what two files must share so that their content and its format are the same.

    Raises:
      UserError: for a file that is missing or unreadable.
    """
    path = find_file(name)
    try:
        with path.open("rb") as stream:
            return [path.suffix.lower(), hashlib.file_digest(stream, "sha256").hexdigest()]
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def find_file(name: str) -> Path:
    """Return the path of a readable kind of file, or say what is there instead."""
    path = existing_file(name)
    if path.suffix.lower() not in EXTENSIONS:
        raise UserError(f"{name}: unknown file type {path.suffix!r}: it must be one of {' '.join(EXTENSIONS)}")
    return path


def existing_file(name: str) -> Path:
    """Return the path of a file of any kind, or say what is there instead; a bucket's is copied once in a process."""
    if in_bucket(name):
        return _copy_of(name)
    path = Path(name).expanduser()
    if path.is_dir():
        inside = [entry for entry in sorted(os.listdir(path)) if Path(entry).suffix.lower() in EXTENSIONS]
        # A .txt next to data files is likely to be a note on them.
        inside.sort(key=lambda entry: entry.lower().endswith(".txt"))
        there = f", for instance {os.path.join(name, inside[0])}" if inside else ""
        raise UserError(f"{name}: is a folder: name a file in it{there}")
    check_exists(path, name)
    return path


@functools.cache
def _copy_of(name: str) -> Path:
    path = to_path(name)
    with foreign_errors(f"{name}: cannot be read"):
        if path.is_dir():
            raise UserError(f"{name}: is a folder: name a file in it")
        check_exists(path, name)
    return fetched(path)


def check_exists(path: Path | epath.Path, name: str) -> None:
    """Raise `UserError` with what may have been meant where nothing is at a path."""
    if not path.exists():
        raise UserError(f"{name}: no such file{'' if in_bucket(path) else _nearest_file(Path(path))}")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    near = nearest(path.name, sorted(os.listdir(path.parent)))
    return f"; did you mean {str(path.with_name(near))!r}?" if near else f" in folder {str(path.parent)!r}"


def raw_lines(stream: BinaryIO, source: str) -> Iterator[bytes]:
    """Yield the lines of a stream.

    Raises:
      UserError: for a line of more than `LONGEST_ROW` bytes.
    """
    row = 1
    while line := stream.readline(LONGEST_ROW + 1):
        if len(line) > LONGEST_ROW:
            raise UserError(
                f"{at_row(source, row)}: longer than {LONGEST_ROW >> 20} MiB: is this a file of text lines?"
            )
        yield line
        row += 1


def decoded_lines(stream: Iterable[bytes], source: str) -> Iterator[str]:
    """Yield lines as text with their ends, without a leading byte-order mark.

    Raises:
      UserError: for the first byte that is not UTF-8.
    """
    for row, line in enumerate(stream, 1):
        try:
            # "utf-8-sig" on every line would take a mark away that belongs to a text.
            yield line.decode("utf-8-sig" if row == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(
                f"{at_row(source, row)}: not UTF-8 (byte 0x{byte:02x} at position {error.start + 1} of the row): "
                "save the file as UTF-8"
            ) from error


def _read_delimited(
    stream: Iterable[bytes], source: str, delimiter: str, data: DataConfig, wanted: Wanted, limit: int | None
) -> Iterator[Table]:
    lines = decoded_lines(stream, source)
    records = _raw_records(lines, delimiter) if data.quoting == "none" else _csv_records(lines, source, delimiter)
    first = next(records, None)
    if first is None:
        raise UserError(f"{source}: the file is empty")
    if not first[1]:
        raise _blank_row(source, 1)
    fields = [field.strip() for field in first[1]]
    if data.columns is None:
        names, counted = fields, f"the header has {len(fields)}"
        check_unique(names, at_row(source, 1))
        chosen = wanted.choose(names, at_row(source, 1), _header_hint(names, wanted, delimiter))
    else:
        names, counted = data.columns, f"data.columns names {len(data.columns)}"
        check_unique(names, "data.columns")
        chosen = wanted.choose(names, "data.columns")
        _check_no_header(fields, names, wanted, source)
        records = _put_back(first, records)
    found = False
    checked = _checked_records(records, len(names), counted, source)
    for columns, rows in _collect(islice(checked, limit), [names.index(name) for name in chosen]):
        found = True
        yield build_table(dict(zip(chosen, columns, strict=True)), wanted, source=source, rows=rows)
    if not found:
        raise UserError(f"{source}: there is a header but no rows; if row 1 is an example, set data.columns")


def _put_back(first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _raw_records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for row, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        yield row, line.split(delimiter) if line else []


def _csv_records(lines: Iterator[str], source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each record starts, and its fields; a blank line has none."""
    csv.field_size_limit(LONGEST_ROW)
    # Without `strict` an opening quote that never closes swallows all the rows after it.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    row = 1
    try:
        for fields in reader:
            yield row, fields
            row = reader.line_num + 1
    except csv.Error as error:
        if "new-line" in str(error):
            problem = "a carriage return inside a field: quote the field, or save the file with ordinary line ends"
        else:
            problem = "a quote opens a field but does not close it; if quotes are plain text, set data.quoting to none"
        raise UserError(f"{at_row(source, row)}: {problem}") from error


def _checked_records(
    records: Iterator[tuple[int, list[str]]], width: int, counted: str, source: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records without the blank lines at the end; all must have `width` fields."""
    blank: int | None = None
    for row, fields in records:
        if not fields:
            blank = blank or row
            continue
        if blank is not None:
            raise _blank_row(source, blank)
        if len(fields) != width:
            raise UserError(_width_problem(fields, width, counted, at_row(source, row)))
        yield row, fields


def _collect(
    records: Iterator[tuple[int, list[str]]], picks: Sequence[int]
) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Yield the picked fields column by column and the row each came from, part by part."""
    while part := list(islice(records, PART_ROWS)):
        yield [[fields[pick] for _, fields in part] for pick in picks], [row for row, _ in part]


def _blank_row(source: str, row: int) -> UserError:
    return UserError(f"{at_row(source, row)}: the row is blank: remove it")


def _width_problem(fields: list[str], width: int, counted: str, where: str) -> str:
    if len(fields) < width:
        return f"{where}: too few fields: found {len(fields)}, but {counted}"
    return (
        f"{where}: too many fields: found {len(fields)}, but {counted}; a text that holds the separator must be quoted"
    )


def _header_hint(header: list[str], wanted: Wanted, delimiter: str) -> str:
    """Say what is probably wrong with a header that lacks a column."""
    if any(name in header for name in wanted.needed().values()):
        return ""
    other, extension = (",", ".csv") if delimiter == "\t" else ("\t", ".tsv")
    if len(header) == 1 and other in header[0]:
        return f"; the fields seem to be separated as in {extension}: rename the file"
    if any(_looks_like_data(field) for field in header):
        return "; row 1 looks like data: if the file has no header, set data.columns to the column names"
    return "; if the file has no header, set data.columns to the column names"


def _looks_like_data(field: str) -> bool:
    return not field or field.lstrip("+-").replace(".", "", 1).isdigit() or len(field) > 40 or field.count(" ") > 2


def _check_no_header(fields: list[str], names: Sequence[str], wanted: Wanted, source: str) -> None:
    first = [field.casefold() for field in fields]
    expected = [name.casefold() for name in names]
    # A text may read "text", but no label reads like its own column.
    label = expected.index(wanted.label.casefold()) if wanted.label.casefold() in expected else None
    if sorted(first) == sorted(expected) or (label is not None and first[label : label + 1] == [expected[label]]):
        raise UserError(
            f"{at_row(source, 1)}: this is a header ({quoted(fields)}), but data.columns is for files without one: "
            "remove data.columns, or this row"
        )


def read_json_lines(
    stream: Iterable[bytes], source: str, wanted: Wanted, limit: int | None = None, part_rows: int = PART_ROWS
) -> Iterator[Table]:
    """Yield one JSON object a line, part by part; the first one says which columns there are."""
    records = islice(json_records(stream, source), limit)
    chosen: list[str] = []
    while part := list(islice(records, part_rows)):
        first_row, first = part[0]
        chosen = chosen or wanted.choose(list(first), at_row(source, first_row))
        columns = {name: [record.get(name) for _, record in part] for name in chosen}
        yield build_table(columns, wanted, source=source, rows=[row for row, _ in part])
    if not chosen:
        raise UserError(f"{source}: the file is empty")


def json_records(stream: Iterable[bytes], source: str) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Yield the line of each JSON object, and the object; blank lines may stand at the end.

    Raises:
      UserError: for a line that is no JSON object.
    """
    blank: int | None = None
    for row, line in enumerate(decoded_lines(stream, source), 1):
        if not line.strip():
            blank = blank or row
            continue
        if blank is not None:
            raise _blank_row(source, blank)
        yield row, _parse_object(line, at_row(source, row))


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        array = line.lstrip().startswith("[")
        way = "a JSON array is not JSON lines: write each of its objects on a line" if array else str(error)
        raise UserError(f"{where}: not a whole JSON object ({way})") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected one JSON object a line, found {quoted([line.strip()])}")
    return record


def _read_parquet(path: Path, source: str, wanted: Wanted, limit: int | None) -> Iterator[Table]:
    import pyarrow.parquet as pq

    # Besides its own errors the library raises what Python's str and datetime do with values that are none.
    unreadable = f"{source}: not a readable parquet file"
    with foreign_errors(unreadable):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    with file:
        check_unique(names, source)
        chosen = wanted.choose(names, source)
        label_names = class_names(parquet_features(file.schema_arrow.metadata), wanted.label)
        batches, taken = file.iter_batches(PART_ROWS, columns=chosen), 0
        while taken != limit:
            with foreign_errors(unreadable):
                if (batch := next(batches, None)) is None:
                    return
                part = batch if limit is None else batch.slice(0, limit - taken)
                columns = {name: part.column(name).to_pylist() for name in chosen}
            rows = range(taken + 1, taken + len(part) + 1)
            yield build_table(columns, wanted, source=source, rows=rows, label_names=label_names)
            taken += len(part)
