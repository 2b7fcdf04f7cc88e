"""Read raw text from any source as a stream of lines with the ends of documents.

Text files are read here; `sources` reads tables, whose records are one document each. `sentences` splits lines into
sentences, and `corpus` tokenizes them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxbert.config import DataConfig, PretrainConfig
from jaxbert.data import memory
from jaxbert.data.files import Text, extension_of, find_file, find_files, opened
from jaxbert.data.sources import SPLITS, Role, file_identity, find_split, open_source
from jaxbert.data.table import Facts, Table

END = ""
"""Follows the last line of each document; no line of a document is empty."""
_HEADING = re.compile(r"\s*((?:=\s*)+)[^=\s](?:.*[^=\s])?\s*((?:=\s*)+)$|\s*(#+)\s+\S")
"""A heading: `= Title =` of wikis, or `# Title` of Markdown."""


@dataclass(frozen=True)
class Documents:
    """The documents of a source that was found and is not read yet."""

    name: str
    """The source's name in messages."""
    lines: Callable[[], Iterator[str]]
    """Read the documents: stripped lines, and `END` after each document."""
    identity: Callable[[], Any]
    """Return plain values that change with the content and the settings for reading; None if it cannot be identified."""


def open_documents(
    spec: str, data: DataConfig, pretrain: PretrainConfig, *, role: Role = "train", limit: int | None = None
) -> Documents:
    """Find the first `limit` documents of a source.

    A .txt file is raw text, unless `data.columns` says that it is a table; a pattern (`texts/*.txt`) or a folder names
    several files, which are read in the order of their names.

    Raises:
      UserError: for a source that is missing or unreachable.
    """
    if spec.startswith(("-", "hf:", "tfds:", memory.PREFIX)) or find_split(spec, role) is not None:
        return _table_documents(spec, data, role, limit)
    found = find_files(spec, SPLITS[role], mixed=True)
    found.say(Facts())
    parts = [_file_documents(name, data, pretrain, role) for name in found.files]

    def lines() -> Iterator[str]:
        return _first_documents(itertools.chain.from_iterable(part.lines() for part in parts), limit)

    def identity() -> Any:
        found = [part.identity() for part in parts]
        return None if None in found else [found, limit]

    return Documents(spec, lines, identity)


def _file_documents(name: str, data: DataConfig, pretrain: PretrainConfig, role: Role) -> Documents:
    if extension_of(name) != ".txt" or data.columns is not None:
        return _table_documents(name, data, role, None)
    find_file(name)

    def identity() -> list[Any]:
        return [file_identity(name), pretrain.documents, data.encoding]

    return Documents(name, partial(_read_text, name, pretrain.documents, data.encoding), identity)


def _table_documents(spec: str, data: DataConfig, role: Role, limit: int | None) -> Documents:
    """Return the records of a table as documents; the second text of a pair follows the first."""
    source = open_source(spec, data, role=role, labelled=False, limit=limit)
    return Documents(
        source.name, lambda: itertools.chain.from_iterable(map(_table_lines, source.parts())), source.identity
    )


def _table_lines(table: Table) -> Iterator[str]:
    for row, text in enumerate(table.texts):
        whole = text if table.pairs is None else f"{text}\n{table.pairs[row]}"
        yield from filter(None, map(str.strip, whole.splitlines()))
        yield END


def _first_documents(lines: Iterator[str], limit: int | None) -> Iterator[str]:
    for line in lines:
        if limit is not None and limit <= 0:
            return
        yield line
        if line == END and limit is not None:
            limit -= 1


def _read_text(name: str, divided: str, encoding: str | None) -> Iterator[str]:
    with opened(find_file(name), name) as stream:
        lines = map(str.strip, Text(stream, name, encoding).strict_lines())
        yield from without_empty(DIVISIONS[divided](lines))


def without_empty(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without empty documents, with an `END` after the last document."""
    inside = False
    for line in lines:
        if line or inside:
            yield line
        inside = line != END
    if inside:
        yield END


def _by_headings(lines: Iterable[str]) -> Iterator[str]:
    """Start a document at each heading of the first level; all headings are left out."""
    for line in lines:
        found = _HEADING.match(line)
        if found is None:
            if line:
                yield line
        elif (found[1] or found[3]).count(found[3][0] if found[3] else "=") == 1:
            yield END


def _by_lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line
        yield END


DIVISIONS: dict[str, Callable[[Iterable[str]], Iterator[str]]] = {
    "blank": iter,  # a blank line is already END
    "heading": _by_headings,
    "line": _by_lines,
    "file": partial(filter, None),
}
