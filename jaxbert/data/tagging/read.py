"""Read texts in which words or spans are marked.

Three layouts: a file with a token and its tag on each line (CoNLL and its kin), records with lists of tokens and tags, and
records with a text and the spans that are marked in it. For prediction, also plain texts. What tags mean is `scheme`'s
part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.data.files import decoded_lines, existing_file, json_records, raw_lines
from jaxbert.data.records import Records, is_table, missing_column, open_records, text_of, wrong_kind
from jaxbert.data.sources import STDIN, Role, open_source, read_lines, stdin_lines, stdin_waits
from jaxbert.data.table import PART_ROWS, Wanted, at_row, quoted, shorten
from jaxbert.data.tagging.scheme import Span
from jaxbert.errors import UserError

_TEXTS = (".txt", ".csv", ".tsv")
"""Files that hold texts where nothing is marked, and a token a line where something is."""
_TAG_COLUMNS = ("tags", "ner_tags")
_NEW_DOCUMENT = "-DOCSTART-"
_SEPARATORS = " \t\r\n"  # a wide space may be a token


@dataclass(frozen=True)
class Document:
    """A text or a list of words, with what is marked in it: tags of the words, or spans of the text's characters."""

    row: int
    """The row where it begins, as a user counts."""
    text: str | None = None
    words: list[str] | None = None
    tags: list[str] | None = None
    by_line: bool = False
    """Whether each word has a row of its own."""
    spans: list[Span] | None = None


@dataclass(frozen=True)
class Documents:
    """What a source holds; all or none are marked."""

    source: str
    items: list[Document]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Iterable[int]) -> Documents:
        """Return some of them."""
        return Documents(self.source, [self.items[i] for i in indices])


def read_documents(spec: str, data: DataConfig, *, role: Role, labelled: bool, limit: int | None = None) -> Documents:
    """Read the first `limit` texts of a source; with `labelled` all must be marked, else marks are not looked at.

    Raises:
      UserError: for anything missing or malformed.
    """
    name = "standard input" if spec == STDIN else spec
    items = list(islice(_documents(spec, name, data, role, labelled), limit))
    if not items:
        raise UserError(f"{name}: empty: at least one text is needed")
    return Documents(name, items)


def _documents(spec: str, name: str, data: DataConfig, role: Role, labelled: bool) -> Iterator[Document]:
    if spec == STDIN:
        return _standard_input(name, data, labelled)
    if is_table(spec):
        return _from_records(open_records(spec, role), data, labelled)
    if not labelled and Path(spec).suffix.lower() in _TEXTS:
        source = open_source(spec, data, role="predict", labelled=False)
        return (Document(row, text) for part in source.parts() for text, row in zip(part.texts, part.rows, strict=True))
    return _token_lines(existing_file(spec), name, data, labelled)


def _standard_input(name: str, data: DataConfig, labelled: bool) -> Iterator[Document]:
    lines = stdin_lines(name)
    first = next(lines, b"")
    lines = chain([first], lines)
    if labelled or first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        yield from _from_records(Records(name, json_records(lines, name)), data, labelled)
        return
    part_rows = 1 if stdin_waits() else PART_ROWS
    for part in read_lines(lines, name, Wanted(data.text, None, data.label, False), part_rows=part_rows):
        yield from (Document(row, text) for text, row in zip(part.texts, part.rows, strict=True))


def _from_records(records: Records, data: DataConfig, labelled: bool) -> Iterator[Document]:
    with closing(records.rows) as rows:
        for row, record in rows:
            yield _from_record(record, row, records, data, labelled)


def _from_record(record: Mapping[str, Any], row: int, records: Records, data: DataConfig, labelled: bool) -> Document:
    if data.tokens in record:
        return _from_words(record, row, records, data, labelled)
    if data.text not in record:
        raise UserError(
            f"{at_row(records.name, row)}: neither a column {data.tokens!r} (data.tokens) nor {data.text!r} "
            f"(data.text); there are {quoted(record)}"
        )
    text = text_of(record, data.text, "data.text", records.name, row)
    return Document(row, text, spans=_spans(record, text, row, records.name, data) if labelled else None)


def _from_words(record: Mapping[str, Any], row: int, records: Records, data: DataConfig, labelled: bool) -> Document:
    source, words = records.name, record[data.tokens]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise wrong_kind(words, data.tokens, "a list of words", source, row)
    if not labelled:
        return Document(row, words=words)
    column = data.tag_column or next((name for name in _TAG_COLUMNS if name in record), _TAG_COLUMNS[0])
    if column not in record:
        raise missing_column(record, column, "data.tag_column", source, row)
    tags = record[column]
    if not isinstance(tags, list):
        raise wrong_kind(tags, column, "a list of tags", source, row)
    if len(tags) != len(words):
        raise UserError(
            f"{at_row(source, row)}: {len(words)} words in {data.tokens!r}, but {len(tags)} tags in {column!r}: give "
            "each word one tag"
        )
    names = records.label_names(column) or data.label_names
    return Document(row, words=words, tags=[_tag(tag, names, column, source, row) for tag in tags])


def _tag(tag: Any, names: list[str] | None, column: str, source: str, row: int) -> str:
    if isinstance(tag, str) and tag:
        return tag
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise UserError(f"{at_row(source, row)}: the tags in {column!r} are numbers: name them by data.label_names")
        if 0 <= tag < len(names):
            return names[tag]
        raise UserError(f"{at_row(source, row)}: tag {tag} in {column!r} has no name; there are {quoted(names)}")
    raise wrong_kind(tag, column, "tags as text, or as numbers", source, row)


def _spans(record: Mapping[str, Any], text: str, row: int, source: str, data: DataConfig) -> list[Span]:
    """Return the marked spans in order, without the blanks at their ends."""
    if data.spans not in record:
        raise missing_column(record, data.spans, "data.spans", source, row)
    values, where = record[data.spans], at_row(source, row)
    if not isinstance(values, list):
        raise wrong_kind(values, data.spans, "a list of {start, end, label}", source, row)
    spans = sorted(_span(value, text, where) for value in values)
    for one, other in pairwise(spans):
        if other.start < one.end:
            shown = " and ".join(f"{s.label} {shorten(text[s.start : s.end])!r} at {s.start}" for s in (one, other))
            raise UserError(f"{where}: two spans overlap ({shown}): a character can be in one span only; remove one")
    return spans


def _span(value: Any, text: str, where: str) -> Span:
    fields = [value.get(key) for key in Span._fields] if isinstance(value, dict) else value
    if not isinstance(fields, list) or len(fields) != 3:
        raise UserError(f"{where}: {shorten(repr(value))} is no span: write {{start, end, label}}")
    start, end, label = fields
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        raise UserError(f"{where}: {shorten(repr(value))} is no span: start and end are integers, label is text")
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"{where}: span {start} to {end} is outside its text of {len(text)} characters: count characters from 0, "
            "with the end behind the last"
        )
    marked = text[start:end]
    if not marked.strip():
        raise UserError(f"{where}: span {start} to {end} marks blanks only: remove it")
    return Span(start + len(marked) - len(marked.lstrip()), end - len(marked) + len(marked.rstrip()), label)


def _token_lines(path: Path, source: str, data: DataConfig, labelled: bool) -> Iterator[Document]:
    try:
        with path.open("rb") as stream:
            yield from _sentences(decoded_lines(raw_lines(stream, source), source), source, data.tag_column, labelled)
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from error


def _sentences(lines: Iterable[str], source: str, tag_column: str | None, labelled: bool) -> Iterator[Document]:
    """Put the lines between blank ones together; the columns are those of the first line."""
    width, at, begin = 0, -1, 0
    words: list[str] = []
    tags: list[str] = []
    separator = re.compile("[ \t]+")
    for row, line in enumerate(chain(lines, [""]), 1):
        line = line.strip(_SEPARATORS)
        if not line or line.startswith(_NEW_DOCUMENT):
            if words:
                yield Document(begin, words=words, tags=tags if labelled else None, by_line=True)
            words, tags = [], []
            continue
        if not width and "\t" in line:
            separator = re.compile("\t")
        fields = separator.split(line)
        if not width:
            width = len(fields)
            at = _tag_index(tag_column, width, at_row(source, row)) if labelled else 0
        if len(fields) != width:
            raise UserError(
                f"{at_row(source, row)}: {len(fields)} columns, but the rows above have {width}: each line is a token "
                "and its tag, with a blank line between sentences"
            )
        begin = begin if words else row
        words.append(fields[0])
        tags.append(fields[at])


def _tag_index(tag_column: str | None, width: int, where: str) -> int:
    if width < 2:
        raise UserError(f"{where}: one column, but a token and its tag are needed, separated by a space or a tab")
    if tag_column is None:
        return width - 1
    if not tag_column.isdecimal() or not 2 <= int(tag_column) <= width:
        raise UserError(
            f"data.tag_column is {tag_column!r}, but in files with a token a line it is a number from 2 to {width} "
            f"({where} has so many columns)"
        )
    return int(tag_column) - 1
