"""The one entry to read examples: chooses the reader by how the user named the source.

`hf:...` is the Hugging Face Hub, `tfds:...` TensorFlow Datasets, `-` standard input, everything else a file. Plain text
(one example a line) is understood here, for prediction; the formats themselves are the readers' part.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

from jaxbert.bucket import to_path
from jaxbert.config import DataConfig
from jaxbert.data.files import (
    LONGEST_ROW,
    check_exists,
    decoded_lines,
    file_identity,
    find_file,
    raw_lines,
    read_file,
    read_json_lines,
)
from jaxbert.data.table import PART_ROWS, LabelKind, Table, Wanted, at_row, build_table
from jaxbert.errors import UserError, foreign_errors

Role = Literal["train", "validation", "test", "predict"]
STDIN = "-"

SPLITS: dict[Role, str] = {"train": "train", "validation": "validation", "test": "test", "predict": "test"}
"""The split that a role reads where none is named."""


@dataclass(frozen=True)
class Source:
    """Examples that were found, and not read yet."""

    name: str
    """As messages name it."""
    wanted: Wanted
    parts: Callable[[], Iterator[Table]]
    """Read it; raises a UserError for what is malformed. Standard input can be read once."""
    identity: Callable[[], Any]
    """Return plain values that change with the content and with how it is read; None where that cannot be told."""


def open_source(
    spec: str,
    data: DataConfig,
    *,
    role: Role,
    labelled: bool | None,
    limit: int | None = None,
    labels: LabelKind = "name",
    kept: tuple[str, ...] = (),
) -> Source:
    """Find a source, of which the first `limit` examples are wanted.

    `labelled` True: every row must have a label. False: labels are not looked at. None: labels are taken where the label
    column is there and filled in every row. `labels` says what a label is, `kept` which columns the tables carry besides.
    `role` is the split that is read where `spec` names none (for "predict" the test split), and lets "predict" read plain
    text.

    Raises:
      UserError: for a source that is missing or unreachable.
    """
    wanted = Wanted.of(data, labelled, labels, kept)
    name = "standard input" if spec == STDIN else spec
    parts, content = _find(spec, name, data, role, wanted, limit)
    settings = [*dataclasses.astuple(wanted), limit, data.columns, data.quoting]
    identity = (lambda: None) if content is None else (lambda: [settings, content()])
    return Source(name, wanted, lambda: _some(parts(), name), identity)


def stdin_lines(name: str) -> Iterator[bytes]:
    """Yield the lines of standard input, each as soon as it is whole.

    Raises:
      UserError: if it is closed or cannot be read.
    """
    if sys.stdin is None:
        raise UserError(f"{name}: is closed: send lines to it, or name a file")
    try:
        yield from raw_lines(sys.stdin.buffer, name)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def stdin_waits() -> bool:
    """Say whether lines of standard input may still be to come: it is a pipe or a terminal, and no file."""
    try:
        return sys.stdin is not None and not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except OSError:  # a stream that another program put in its place
        return False


def check_there(spec: str) -> None:
    """Check that a source is there if it is a file; all else about it is told when it is opened.

    Raises:
      UserError: if it is not.
    """
    if spec != STDIN and not spec.startswith(("hf:", "tfds:")) and not glob.has_magic(spec):
        with foreign_errors(f"{spec}: cannot be read"):
            check_exists(to_path(spec), spec)


def _find(
    spec: str, name: str, data: DataConfig, role: Role, wanted: Wanted, limit: int | None
) -> tuple[Callable[[], Iterator[Table]], Callable[[], list[Any]] | None]:
    """Return how a source is read, and how its content is told from another."""
    if spec == STDIN:
        part_rows = 1 if stdin_waits() else PART_ROWS
        return lambda: read_lines(stdin_lines(name), name, wanted, limit, part_rows), None
    if spec.startswith("hf:"):
        from jaxbert.data import hub

        dataset = hub.open_hub(spec, SPLITS[role])
        return partial(hub.read_hub, dataset, spec, wanted, limit), partial(hub.hub_identity, dataset)
    if spec.startswith("tfds:"):
        from jaxbert.data import tfds

        prepared = tfds.open_tfds(spec, SPLITS[role])
        return partial(tfds.read_tfds, prepared, wanted, limit), prepared.identity
    find_file(spec)
    if role == "predict" and _is_plain_text(spec, data):
        return partial(_read_text, spec, wanted, limit), None
    return partial(read_file, spec, data, wanted, limit), partial(file_identity, spec)


def _some(parts: Iterator[Table], name: str) -> Iterator[Table]:
    """Pass on the parts that are not empty; there must be one."""
    found = False
    for part in parts:
        if len(part):
            found = True
            yield part
    if not found:
        raise UserError(f"{name}: no rows: at least one example is needed")


def _read_text(spec: str, wanted: Wanted, limit: int | None) -> Iterator[Table]:
    try:
        with find_file(spec).open("rb") as stream:
            yield from read_lines(raw_lines(stream, spec), spec, wanted, limit)
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror or error}") from error


def read_lines(
    stream: Iterable[bytes], source: str, wanted: Wanted, limit: int | None = None, part_rows: int = PART_ROWS
) -> Iterator[Table]:
    """Read JSON lines if the first line that is not blank starts with `{`, otherwise one text a line.

    A blank line of plain text is an error, because outputs are matched to inputs by line. A part is yielded when it has
    `part_rows` rows.

    Raises:
      UserError: for a line that is blank or malformed, and where plain text cannot carry what is asked for.
    """
    lines = iter(stream)
    head: list[bytes] = []
    for line in lines:
        head.append(line)
        if line.removeprefix(b"\xef\xbb\xbf").strip():
            break
    if not head:
        raise UserError(f"{source}: empty: at least one example is needed")
    everything = chain(head, lines)
    if head[-1].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return read_json_lines(everything, source, wanted, limit, part_rows)
    return _plain_tables(everything, source, wanted, limit, part_rows)


def _plain_tables(
    lines: Iterable[bytes], source: str, wanted: Wanted, limit: int | None, part_rows: int
) -> Iterator[Table]:
    for name in wanted.kept:
        if name != wanted.text:
            way = "give one JSON object a line"
            raise UserError(f"{source}: one text a line has no column {name!r} (--keep), only {wanted.text!r}: {way}")
    if wanted.text_pair is not None or wanted.labelled:
        missing = "a second text (data.text_pair)" if wanted.text_pair is not None else "labels"
        raise UserError(f"{source}: one text a line has no place for {missing}: give one JSON object a line")
    taken = islice(enumerate(decoded_lines(lines, source), 1), limit)
    while part := list(islice(taken, part_rows)):
        for row, line in part:
            if not line.strip():
                raise UserError(f"{at_row(source, row)}: the line is blank: each line is one example")
        texts = [line.rstrip("\r\n") for _, line in part]
        yield build_table({wanted.text: texts}, wanted, source=source, rows=[row for row, _ in part])


def _is_plain_text(spec: str, data: DataConfig) -> bool:
    """Tell whether a .txt file holds one text a line: its first line has no tab and is not the text column's name."""
    if not spec.lower().endswith(".txt"):
        return False
    try:
        with find_file(spec).open("rb") as stream:
            first = stream.readline(LONGEST_ROW).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror or error}") from error
    return b"\t" not in first and first.strip() != data.text.encode()
