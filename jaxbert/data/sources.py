"""Open a source of texts: find the data that the user names, and choose its reader.

`hf:...` is the Hugging Face Hub, `tfds:...` TensorFlow Datasets, `memory:...` rows that a Python program holds, `-` standard
input; any other name is a file, whose extension names its format. Files are read part by part, so that only the records that
are used cost memory and time. Parquet is read here, and for prediction plain text (one example a line); `delimited` and
`json_rows` read the other formats."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from jaxbert.bucket import fetched, to_path
from jaxbert.config import DataConfig
from jaxbert.data import hub, memory, tfds
from jaxbert.data.delimited import SEPARATORS, read_delimited
from jaxbert.data.files import (
    DELIMITERS,
    JSON_LINES,
    FoundFiles,
    Text,
    check_there,
    divided,
    extension_of,
    find_file,
    find_files,
    opened,
)
from jaxbert.data.hub import class_names, parquet_features
from jaxbert.data.json_rows import array_elements, json_lines, parts_of, read_json_parts, until_filled
from jaxbert.data.table import PART_ROWS, Facts, Intake, LabelKind, Problem, RawPart, Table, Wanted
from jaxbert.errors import UserError, foreign_errors


def read_file(name: str, intake: Intake) -> Iterator[RawPart]:
    """Yield the records of a file part by part.

    Raises:
      UserError: for a file that is missing, unreadable or completely malformed.
    """
    extension = extension_of(name)
    if extension == ".parquet":
        yield from _read_parquet(name, intake)
        return
    with opened(find_file(name), name) as stream:
        text = Text(stream, name, intake.data.encoding, intake.facts)
        if extension in JSON_LINES:
            yield from read_json_parts(text, intake)
        else:
            yield from read_delimited(text, DELIMITERS[extension], intake)


def file_identity(name: str) -> list[str]:
    """Return the format and the checksum of a file; both are equal for two files with the same content and format.

    Raises:
      UserError: for a file that is missing or unreadable.
    """
    return [extension_of(name), checksum_of(find_file(name), name)]


def checksum_of(path: Path, name: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal; messages call the file `name`.

    Raises:
      UserError: if the file is unreadable.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def _read_parquet(name: str, intake: Intake) -> Iterator[RawPart]:
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
                yield RawPart(columns, rows, label_names=label_names)
                low += len(part)
            taken += len(batch)


def features_of(name: str) -> dict[str, Any]:
    """Return the column types that the datasets library wrote into a parquet file; empty if it wrote none."""
    with _parquet(name) as file:
        return parquet_features(file.schema_arrow.metadata)


def parquet_records(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of a parquet file, numbered from 1."""
    row = 0
    with _parquet(name) as file:
        for batch in _batches(file, name, None):
            with foreign_errors(_UNREADABLE.format(name)):
                records = batch.to_pylist()
            for record in records:
                row += 1
                yield row, record


_UNREADABLE = "{}: not a readable parquet file"
"""The message for errors of pyarrow, and of Python's str and datetime, which reject some damaged values."""


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


Role = Literal["train", "validation", "test", "predict", "unlabelled"]
_PLAIN = ("predict", "unlabelled")
"""The roles of sources that may be plain text."""
STDIN = "-"
STDIN_NAME = "standard input"
"""The name of standard input in messages."""

SPLITS: dict[Role, str] = {
    "train": "train",
    "validation": "validation",
    "test": "test",
    "predict": "test",
    "unlabelled": "train",
}
"""The split that each role reads if the user names none."""


@dataclass(frozen=True)
class Source:
    """The examples of a source that was found and is not read yet."""

    name: str
    """The source's name in messages."""
    wanted: Wanted
    parts: Callable[..., Iterator[Table]]
    """Read the source, `parts(facts=None)`, and note findings in `facts`; raises UserError for malformed records. Standard
    input can be read only once."""
    identity: Callable[[], Any]
    """Return plain values that change with the content and the settings for reading; None if it cannot be identified."""


def open_source(
    spec: str,
    data: DataConfig,
    *,
    role: Role,
    labelled: bool | None,
    limit: int | None = None,
    labels: LabelKind = "name",
    kept: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    keys: Mapping[str, str] | None = None,
) -> Source:
    """Find a source, to read its first `limit` examples.

    Args:
      spec: the source, as the user names it.
      data: the settings for reading.
      role: the split to read if `spec` names none (for "predict" the test split, for "unlabelled" that of training); these
        two may also be plain text.
      labelled: True: every record must have a label. False: labels are not read. None: labels are read if the label column
        exists and is filled in every record.
      limit: the number of wanted examples; None for all.
      labels: the kind of the labels.
      kept: further columns that the tables carry.
      optional: columns that the tables carry if they exist.
      keys: the setting that names a column, for messages, where it is not the usual one.

    Raises:
      UserError: for a source that is missing or unreachable.
    """
    if role == "predict":
        check_rows(data)
    wanted = Wanted.of(data, labelled, labels, kept, optional, keys)
    name = name_of(spec)
    waits = spec == STDIN and stdin_waits()
    begin = partial(Intake, name, wanted, data, limit, waits=waits, skippable=role != "predict")
    read, content = _find(spec, data, role)
    how = (data.columns, data.separator, data.quoting, data.quote, data.encoding, data.bad_rows)
    compared = [getattr(wanted, part.name) for part in dataclasses.fields(wanted) if part.compare]
    settings = [*compared, limit, *how]
    identity = (lambda: None) if content is None else (lambda: [settings, content()])
    return Source(name, wanted, lambda facts=None: _whole(read, begin(facts=facts)), identity)


def _whole(read: Callable[[Intake], Iterator[Table]], intake: Intake) -> Iterator[Table]:
    """Yield the parts of a source; raise `UserError` if it has no records."""
    found = False
    for part in read(intake):
        found = True
        yield part
    intake.finish()
    if not found:
        raise UserError(f"{intake.name}: no rows: at least one example is needed")


def name_of(spec: str) -> str:
    """Return the name of a source in messages.

    Raises:
      UserError: for rows in memory that are no longer held.
    """
    return STDIN_NAME if spec == STDIN else memory.find_held(spec).name if spec.startswith(memory.PREFIX) else spec


def check_rows(data: DataConfig) -> None:
    """Check the settings of prediction: it gives an answer for each record, and leaves none out.

    Raises:
      UserError: if the configuration leaves bad records out.
    """
    if data.bad_rows == "skip":
        raise UserError(
            "bad_rows is skip, but predict gives an answer for each row: leave it out, and correct the rows"
        )


def stdin_text(data: DataConfig, facts: Facts | None = None) -> Text:
    """Return standard input as text.

    Raises:
      UserError: if it is closed or cannot be read.
    """
    name = STDIN_NAME
    if sys.stdin is None:
        raise UserError(f"{name}: is closed: send lines to it, or name a file")
    try:
        return Text(sys.stdin.buffer, name, data.encoding, facts)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def stdin_waits() -> bool:
    """Return whether standard input is a pipe or a terminal, whose lines may arrive later, and not a file."""
    try:
        return sys.stdin is not None and not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except OSError:  # another program replaced the stream
        return False


def refuse_stdin(specs: Iterable[str], what: str) -> None:
    """Refuse standard input where `what` reads a source twice.

    Raises:
      UserError: if one of the sources is standard input.
    """
    if STDIN in specs:
        raise UserError(
            f"{STDIN_NAME} can be read only once, but {what} reads twice: write it to a file, and name that"
        )


def check_source(spec: str) -> None:
    """Check that a source exists if it is a file; everything else is checked when it is opened.

    Raises:
      UserError: if the file does not exist.
    """
    if spec != STDIN and not spec.startswith(("hf:", "tfds:", memory.PREFIX)):
        check_there(spec)


def _find(
    spec: str, data: DataConfig, role: Role
) -> tuple[Callable[[Intake], Iterator[Table]], Callable[[], Any] | None]:
    """Return the function that reads a source, and the one that identifies its content (None if that is impossible)."""
    if spec == STDIN:
        return partial(_read_stdin, data), None
    if spec.startswith(memory.PREFIX):
        held = memory.find_held(spec)
        return lambda intake: intake.tables(held.parts(intake), held.name), None
    if spec.startswith("tfds:"):
        prepared = tfds.open_tfds(spec, SPLITS[role])
        return lambda intake: intake.tables(tfds.read_tfds(prepared, intake), spec), prepared.identity
    split = find_split(spec, role)
    if split is not None:
        return lambda intake: intake.tables(hub.read_hub(split, intake), spec), split.identity
    found = find_files(spec, SPLITS[role])
    for name in found.files:
        find_file(name)
    plain = role in _PLAIN and any(extension_of(name) == ".txt" for name in found.files)
    if plain and role == "predict":
        return partial(_read_files, found, role), None
    identity = lambda: [*(["texts"] if plain else []), *(file_identity(name) for name in found.files)]  # noqa: E731
    return partial(_read_files, found, role), identity


def find_split(spec: str, role: Role) -> hub.Split | None:
    """Return the split of a Hub dataset or of a folder that `save_to_disk` wrote; None for any other source.

    Raises:
      UserError: if it is missing or unreachable.
    """
    if spec.startswith("hf:"):
        return hub.open_hub(spec, SPLITS[role])
    with foreign_errors(f"{spec}: cannot be read"):
        place, asked = divided(spec)
        path = to_path(place)
        if not path.is_dir() or not hub.is_saved(path):
            return None
        folder = fetched(path)
    return hub.open_saved(folder, place, asked, SPLITS[role])


def _read_files(found: FoundFiles, role: Role, intake: Intake) -> Iterator[Table]:
    found.say(intake.facts)
    for name in found.files:
        if not intake.room:
            return
        read = _read_text if role in _PLAIN and _is_plain_text(name, intake.data) else read_file
        yield from intake.tables(read(name, intake), name)


def _read_stdin(data: DataConfig, intake: Intake) -> Iterator[Table]:
    text = stdin_text(data, intake.facts)
    intake.there = text.lines_there
    yield from intake.tables(read_lines(text, intake), text.source)


def _read_text(name: str, intake: Intake) -> Iterator[RawPart]:
    with opened(find_file(name), name) as stream:
        yield from read_lines(Text(stream, name, intake.data.encoding, intake.facts), intake)


def read_lines(text: Text, intake: Intake) -> Iterator[RawPart]:
    """Read JSON if the first line that is not blank begins an object or an array of objects, otherwise one text a line.

    A blank line of plain text is an error, because outputs are matched to inputs by line.

    Raises:
      UserError: for a source without lines, and for plain text if further columns are wanted.
    """
    lines, source = text.lines(), text.source
    try:
        begin = list(until_filled(lines))
        if not begin:
            raise UserError(f"{source}: empty: at least one example is needed")
        first, everything = begin[-1].lstrip(), chain(begin, lines)
        if first.startswith("{"):
            yield from parts_of(json_lines(everything, text.bad), source, intake)
        elif _ARRAY.match(first):
            intake.facts.say(source, "read as a JSON array")
            yield from parts_of(array_elements(everything, source), source, intake)
        else:
            yield from _plain_parts(everything, text, intake)
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from error


_ARRAY = re.compile(r"\[\s*(\{|$)")


def _plain_parts(lines: Iterator[str], text: Text, intake: Intake) -> Iterator[RawPart]:
    wanted, source = intake.wanted, text.source
    for name in wanted.kept:
        if name != wanted.text:
            way = "give one JSON object on each line"
            raise UserError(
                f"{source}: lines of plain text have no column {name!r} (--keep), only {wanted.text!r}: {way}"
            )
    if wanted.text_pair is not None or wanted.labelled:
        missing = "second text (data.text_pair)" if wanted.text_pair is not None else "labels"
        raise UserError(f"{source}: lines of plain text have no {missing}: give one JSON object on each line")
    numbered = enumerate(lines, 1)
    while (room := intake.room) and (part := list(islice(numbered, room))):
        problems = [Problem(row, text.bad.pop(row)) for row, _ in part if row in text.bad]
        wrong = {problem.row for problem in problems}
        what = "the line is blank: each line is one example"
        problems += [Problem(row, what) for row, line in part if not line.strip() and row not in wrong]
        good = [(row, line.rstrip("\r\n")) for row, line in part if line.strip() and row not in wrong]
        yield RawPart({wanted.text: [line for _, line in good]}, [row for row, _ in good], problems)


def _is_plain_text(name: str, data: DataConfig) -> bool:
    """Return whether a .txt file holds one text a line: its first line has no tab, and is not the header of a table."""
    if extension_of(name) != ".txt" or data.separator is not None:
        return False
    with opened(find_file(name), name) as stream:
        first, *second = [*islice(Text(stream, name, data.encoding).lines(), 2)] or [""]
    for separator in SEPARATORS:
        fields, *others = [[field.strip() for field in line.split(separator)] for line in (first, *second)]
        if data.text in fields and all(len(other) == len(fields) for other in others if len(fields) > 1):
            return False
    return "\t" not in first
