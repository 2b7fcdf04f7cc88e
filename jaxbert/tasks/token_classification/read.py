"""Read texts in which words or spans are marked.

There are three layouts: a file with a token and its tag on each line (CoNLL and similar, in `lines`), records with lists of
tokens and tags, and records with a text and its spans; for prediction, also plain texts. `tag_sets` decides the meaning of
tags.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.data.batches import NO_LABEL
from jaxbert.data.files import Text, existing_file, opened
from jaxbert.data.items import ItemSet, ItemSource, hold_items, read_by
from jaxbert.data.records import (
    Keeper,
    Records,
    is_table,
    missing_column,
    open_records,
    records_of,
    text_of,
    wrong_kind,
)
from jaxbert.data.sources import STDIN, Role, checksum_of, name_of, open_source, read_lines, stdin_text, stdin_waits
from jaxbert.data.table import Facts, Intake, Place, Row, Table, Wanted, at_row, row_of
from jaxbert.errors import UserError, quoted, shorten
from jaxbert.tasks.token_classification.lines import read_sentences
from jaxbert.tasks.token_classification.scheme import Span
from jaxbert.tasks.token_classification.tag_sets import clean_tag

_TEXTS = (".txt", ".csv", ".tsv")
"""Extensions of files with plain texts for prediction, but with a token on each line if marks are read."""
_TAG_COLUMNS = ("tags", "ner_tags")


@dataclass(frozen=True)
class TaggedText:
    """A text with spans of its characters, or a list of words with their tags; marks may be missing."""

    row: Row
    """The number of its record, or its first line, from 1."""
    text: str | None = None
    words: list[str] | None = None
    tags: list[str | None] | None = None
    """The tag of each word, None for a word without one."""
    rows: Sequence[int] | None = None
    """The line of each word, if each word has its own line."""
    spans: list[Span] | None = None
    numbered: bool = False
    """Whether the tags were numbers, named by `data.label_names`."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """The columns that are copied to the answer."""

    def pack(self) -> list[Any]:
        """Return plain values."""
        rows: Any = self.rows
        if isinstance(rows, range):
            rows = {"first": rows.start, "count": len(rows)}
        return [self.row, self.text, self.words, self.tags, rows, self.spans, self.numbered]

    @classmethod
    def unpack(cls, values: list[Any]) -> TaggedText:
        """Return the text that `pack` turned into plain values."""
        row, text, words, tags, rows, spans, numbered = values
        rows = range(rows["first"], rows["first"] + rows["count"]) if isinstance(rows, dict) else rows
        spans = None if spans is None else [Span(*span) for span in spans]
        return cls(row_of(row), text, words, tags, rows, spans, numbered)

    def key(self) -> str:
        """Return the text, or the words."""
        return self.text if self.text is not None else "\0".join(self.words or ())

    def group(self) -> None:
        """Return None: each text is its own group."""


@dataclass(frozen=True)
class TaggedTexts(ItemSet[TaggedText]):
    """The texts of a source; all or none of them have marks."""

    form = TaggedText

    @classmethod
    def survey(cls, items: Sequence[TaggedText], notes: dict[str, Any]) -> None:
        """Note the tags and the labels of spans, and whether they are in texts or in lists of words."""
        for name, found in (
            ("tags", {tag for item in items for tag in item.tags or () if tag is not None}),
            ("spans", {span.label for item in items for span in item.spans or ()}),
        ):
            notes[name] = sorted({*notes.get(name, ()), *found})
        notes.setdefault("worded", items[0].words is not None)
        notes["marked_texts"] = notes.get("marked_texts", False) or any(item.spans is not None for item in items)
        notes["numbered"] = notes.get("numbered", False) or any(item.numbered for item in items)
        if notes.get("other") is None:
            other = next((item.row for item in items if (item.words is not None) != notes["worded"]), None)
            notes["other"] = None if other is None else str(other) if isinstance(other, Place) else other

    def tags(self) -> set[str]:
        """Return all tags of words."""
        return set(self.notes["tags"])


def open_tagged_texts(
    spec: str, data: DataConfig, *, role: Role, labelled: bool, limit: int | None = None, kept: tuple[str, ...] = ()
) -> ItemSource[TaggedText]:
    """Find the texts of a source; with `labelled` all must have marks, else marks are not read.

    The columns `kept` are copied to the answers.

    Raises:
      UserError: for a source that is missing or unreachable.
    """
    read, identity = _find(spec, data, role, labelled, kept)
    how = [labelled, read_by(data)]
    return ItemSource(name_of(spec), read, identity, how, "empty: at least one text is needed", limit)


def _find(
    spec: str, data: DataConfig, role: Role, labelled: bool, kept: tuple[str, ...]
) -> tuple[Callable[[Facts], Iterator[TaggedText]], Callable[[], Any]]:
    """Return how a source is read, and how its content is identified."""
    if spec == STDIN:
        return partial(_standard_input, name_of(spec), data, labelled, kept), lambda: None
    if is_table(spec):
        records = open_records(spec, role, data)
        return partial(_from_records, records, data, labelled, kept), records.identity
    if not labelled and Path(spec).suffix.lower() in _TEXTS:
        source = open_source(spec, data, role=role, labelled=False, kept=kept)
        return lambda facts: _from_texts(source.parts(facts)), source.identity
    if kept:
        raise UserError(
            f"{spec}: a file with one token on each line has no columns to copy into answers: leave out --keep"
        )
    existing_file(spec)
    return partial(_token_lines, spec, data, labelled), lambda: checksum_of(existing_file(spec), spec)


def read_tagged_texts(
    spec: str, data: DataConfig, *, role: Role, labelled: bool, limit: int | None = None
) -> TaggedTexts:
    """Read the first `limit` texts of a source.

    Raises:
      UserError: for a missing source or a malformed record.
    """
    return hold_items(TaggedTexts, open_tagged_texts(spec, data, role=role, labelled=labelled, limit=limit))


def _standard_input(
    name: str, data: DataConfig, labelled: bool, kept: tuple[str, ...], facts: Facts
) -> Iterator[TaggedText]:
    text = stdin_text(data, facts)
    if labelled or text.begins_json():
        yield from _from_records(records_of(text, "predict", data), data, labelled, kept, facts)
        return
    wanted = Wanted(data.text, None, "label", False, kept=kept)
    intake = Intake(name, wanted, data, waits=stdin_waits(), skippable=False, facts=facts)
    intake.there = text.lines_there
    yield from _from_texts(intake.tables(read_lines(text, intake), name))
    intake.finish()


def _from_texts(parts: Iterator[Table]) -> Iterator[TaggedText]:
    for part in parts:
        for text, row, kept in zip(part.texts, part.rows, part.kept_rows(), strict=True):
            yield TaggedText(row, text, kept=kept)


def _from_records(
    records: Records, data: DataConfig, labelled: bool, kept: tuple[str, ...], facts: Facts
) -> Iterator[TaggedText]:
    keeper = Keeper(kept)

    def read(record: Mapping[str, Any], row: Row) -> TaggedText:
        document = _from_record(record, row, records, data, labelled)
        return replace(document, kept=keeper.copied(record, records.name, row)) if kept else document

    return records.examples(read, facts)


def _from_record(record: Mapping[str, Any], row: Row, records: Records, data: DataConfig, labelled: bool) -> TaggedText:
    if data.tokens in record:
        return _from_words(record, row, records, data, labelled)
    if data.text not in record:
        raise UserError(
            f"{at_row(records.name, row)}: neither a column {data.tokens!r} (data.tokens) nor {data.text!r} "
            f"(data.text); there are {quoted(record)}"
        )
    text = text_of(record, data.text, "data.text", records.name, row)
    return TaggedText(row, text, spans=_spans(record, text, row, records.name, data) if labelled else None)


def _from_words(record: Mapping[str, Any], row: Row, records: Records, data: DataConfig, labelled: bool) -> TaggedText:
    source, words = records.name, record[data.tokens]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise wrong_kind(words, data.tokens, "a list of words", source, row)
    if not labelled:
        return TaggedText(row, words=words)
    there = [name for name in _TAG_COLUMNS if name in record]
    if data.tag_column is None and len(there) > 1:
        raise UserError(f"{at_row(source, row)}: the tags can be in {quoted(there)}: name one by data.tag_column")
    column = data.tag_column or (there or _TAG_COLUMNS)[0]
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
    names = records.label_names(column)
    numbered = names is None and any(isinstance(tag, int) and tag != NO_LABEL for tag in tags)
    found = [_tag(tag, names or data.label_names, column, source, row) for tag in tags]
    return TaggedText(row, words=words, tags=found, numbered=numbered)


def _tag(tag: Any, names: list[str] | None, column: str, source: str, row: Row) -> str | None:
    if isinstance(tag, str) and (clean := clean_tag(tag)):
        return clean
    if isinstance(tag, int) and tag == NO_LABEL:
        return None
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise UserError(f"{at_row(source, row)}: the tags in {column!r} are numbers: name them by data.label_names")
        if 0 <= tag < len(names):
            return names[tag]
        raise UserError(f"{at_row(source, row)}: tag {tag} in {column!r} has no name; there are {quoted(names)}")
    raise wrong_kind(tag, column, "tags as text, or as numbers", source, row)


def _spans(record: Mapping[str, Any], text: str, row: Row, source: str, data: DataConfig) -> list[Span]:
    """Return the spans of a text in order, without blanks and invisible characters at their ends."""
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
        raise UserError(f"{where}: {shorten(repr(value))} is not a span: write {{start, end, label}}")
    start, end, label = fields
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        raise UserError(f"{where}: {shorten(repr(value))} is not a span: start and end are integers, label is text")
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"{where}: span {start} to {end} is outside its text of {len(text)} characters: count characters from 0, "
            "with the end after the last"
        )
    marked = text[start:end]
    if not marked.strip():
        raise UserError(f"{where}: span {start} to {end} marks blanks only: remove it")
    seen = [at for at, character in enumerate(marked) if not _is_invisible(character)]
    return Span(start + seen[0], start + seen[-1] + 1, label) if seen else Span(start, end, label)


def _is_invisible(character: str) -> bool:
    """Return whether a character is blank, or has no width or meaning, so that tokenizers drop it."""
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co")


def _token_lines(source: str, data: DataConfig, labelled: bool, facts: Facts) -> Iterator[TaggedText]:
    with opened(existing_file(source), source) as stream:
        lines = Text(stream, source, data.encoding, facts).strict_lines()
        for rows, words, tags in read_sentences(lines, source, data, labelled, facts):
            yield TaggedText(rows[0], words=words, tags=tags, rows=rows)
