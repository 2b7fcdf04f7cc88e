"""Convert the marks of texts between spans and tags of units, for training, metrics and answers.

`align` finds the units, `tag_sets` decides the meaning of tags."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxbert.data.batches import NO_LABEL
from jaxbert.data.items import Lazy
from jaxbert.data.store import entry_of
from jaxbert.data.table import at_row
from jaxbert.errors import UserError, quoted
from jaxbert.tasks.token_classification.align import Units
from jaxbert.tasks.token_classification.read import TaggedText, TaggedTexts
from jaxbert.tasks.token_classification.scheme import BIO, OUTSIDE, Span, spans_of, tags_of
from jaxbert.tasks.token_classification.tag_sets import TagSet, fit_tag_set, spell_as

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class MarkHashes:
    """Hashes of the marks of some texts: all that training needs of them beside the labels of tokens."""

    hashes: np.ndarray | None
    """uint64 [D]: equal if the spans of two texts are equal; None if unknown."""

    def content(self) -> Iterator[np.ndarray]:
        """Yield the arrays that a checksum of the content adds to that of tokens and labels."""
        if self.hashes is not None:
            yield self.hashes


@dataclass(frozen=True)
class Marks(MarkHashes):
    """Texts, their units, and their marks (None if unknown).

    Spans count characters of a text, or given words.
    """

    documents: TaggedTexts
    units: Units
    tags: np.ndarray | None
    """int32 [U]: the number of each unit's tag, -100 for none."""
    spans: Sequence[list[Span]] | None
    """The spans of each text; also None for plain tags."""

    def spans_of(self, tags: list[str | None], document: int) -> list[tuple[Span, np.ndarray]]:
        """Return the spans that the tags of a text's units mark, each with the units that have its tags.

        Units without a tag, which have no token, are skipped: a span may continue after them.
        """
        units, base = self.units, int(self.units.first[document])
        known = [i for i, tag in enumerate(tags) if tag is not None]
        places = base + np.array(known, np.int64)
        return [
            (Span(int(units.starts[places[a]]), int(units.ends[places[b - 1]]), label), places[a:b])
            for a, b, label in spans_of([tags[i] for i in known])
        ]

    def text_of(self, document: int, start: int, end: int) -> str:
        """Return the text from `start` to `end - 1`, in characters or given words."""
        item = self.documents.items[document]
        return item.text[start:end] if item.text is not None else join_words((item.words or [])[start:end])


def fit_tags(documents: TaggedTexts, names: list[str] | None, setting: str = "auto") -> tuple[TaggedTexts, TagSet]:
    """Return the texts with tags in our spelling, and their tag set, sorted or in the order of `names`.

    Raises:
      UserError: for ambiguous tags, and if `names` lacks a tag.
    """
    seen = documents.tags()
    for label in documents.notes["spans"]:
        seen.update((OUTSIDE, *tags_of([Span(0, 2, label)], 2)))
    if names is None:
        if not seen:
            raise UserError(f"{documents.source}: no word has a tag: at least one is needed")
        tag_set = fit_tag_set(seen, documents.source, setting)
        return _respell(documents, tag_set.read_as), tag_set
    if len(set(names)) < len(names):
        raise UserError(f"data.label_names names a tag twice: {quoted(names)}")
    fitted = fit_tag_set(names, "data.label_names", setting)
    tag_set = TagSet(tuple(fitted.read_as.get(name, name) for name in names), fitted.scheme)
    read_as = spell_as(seen, tag_set.names, documents.source)
    missing = {read_as.get(tag, tag) for tag in seen} - set(tag_set.names)
    if missing:
        raise UserError(f"{documents.source}: tags that data.label_names lacks: {quoted(sorted(missing))}: add them")
    return _respell(documents, read_as), tag_set


def spelled(documents: TaggedTexts, tag_set: TagSet) -> TaggedTexts:
    """Return texts with their tags in the spelling of a tag set, if all tags are then known; else unchanged.

    Raises:
      UserError: for marked spans if the tags are plain.
    """
    if tag_set.scheme is None and documents.notes["marked_texts"]:
        raise UserError(
            f"{documents.source}: spans are marked, but the tags known from training ({quoted(tag_set.names, 5)}) mark "
            "none: give words and tags"
        )
    return _respell(documents, spell_as(documents.tags(), tag_set.names, documents.source))


def _respell(documents: TaggedTexts, read_as: dict[str, str]) -> TaggedTexts:
    if not read_as:
        return documents

    def respelled(item: TaggedText) -> TaggedText:
        if item.tags is None:
            return item
        return replace(item, tags=[tag and read_as.get(tag, tag) for tag in item.tags])

    tags = sorted({read_as.get(tag, tag) for tag in documents.tags()})
    entry = None if documents.entry is None else entry_of([documents.entry, sorted(read_as.items())])
    known = {**documents.notes, "tags": tags}
    return replace(documents, items=Lazy(documents.items, respelled), known=known, entry=entry)


def check_tags(documents: TaggedTexts, tag_set: TagSet) -> None:
    """Check that a tag set has the tags of all words.

    Raises:
      UserError: for the first tag that it lacks.
    """
    if not documents.tags() <= set(tag_set.names):
        for item in documents.items:
            _check_known(item, item.tags or (), documents.source, tag_set)


def _check_known(item: TaggedText, tags: Sequence[str | None], source: str, tag_set: TagSet) -> None:
    number = next((i for i, tag in enumerate(tags) if tag is not None and tag not in tag_set.names), None)
    if number is not None:
        row = item.row if item.rows is None else item.rows[number]
        raise UserError(
            f"{at_row(source, row)}: tag {tags[number]!r} is unknown; the tags known from training are "
            f"{quoted(tag_set.names, 40)}: list all tags in data.label_names, or correct it"
        )


def tag_units(documents: TaggedTexts, units: Units, tag_set: TagSet) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each unit's tag, int32 [U], -100 for none, and the numbers of spans that do not fit units.

    The units of texts with spans get the tags of the spans. The numbers, int32 [D, 2], count spans that begin or end inside
    a unit, and spans on no unit.

    Raises:
      UserError: for a tag that is not in the set.
    """
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(tag_set.names)} | {None: NO_LABEL}
    found = np.empty(len(units.starts), np.int32)
    odd = np.zeros((len(documents), 2), np.int32)
    for number, item in enumerate(documents.items):
        own = slice(int(units.first[number]), int(units.first[number + 1]))
        starts, ends = units.starts[own], units.ends[own]
        tags: Sequence[str | None]
        if item.tags is not None:
            tags = item.tags
        else:
            marked = item.spans or []
            spans, exact = _on_units(marked, starts, ends)
            odd[number] = len(spans) - exact, len(marked) - len(spans)
            tags = tags_of(spans, len(starts), tag_set.scheme or BIO)
        try:
            found[own] = [numbers[tag] for tag in tags]
        except KeyError:
            _check_known(item, tags, documents.source, tag_set)
    return found, odd


def say_odd(source: str, odd: np.ndarray) -> None:
    """Warn how many spans do not fit units, if any."""
    inexact, dropped = odd.sum(0, dtype=np.int64).tolist()
    if inexact:
        message = "%s: %d spans begin or end inside a token, and are taught as the tokens they touch"
        logger.warning(message, source, inexact)
    if dropped:
        message = "%s: the tokenizer drops the whole text of %d spans; nothing is taught of them"
        logger.warning(message, source, dropped)


def _on_units(spans: list[Span], starts: np.ndarray, ends: np.ndarray) -> tuple[list[Span], int]:
    """Return the spans in units, and the number of exact ones; a span that begins or ends inside a unit covers all of it.

    A span on no unit is left out.
    """
    found, exact = [], 0
    for start, end, label in spans:
        first, behind = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, end, "left"))
        if first < behind:
            found.append(Span(first, behind, label))
            exact += int(starts[first] == start and ends[behind - 1] == end)
    return found, exact


def marked_spans(documents: TaggedTexts) -> Sequence[list[Span]]:
    """Return the spans of each text, from its spans or its tags."""
    return Lazy(documents.items, lambda item: spans_of(item.tags) if item.tags is not None else item.spans or [])


def join_words(words: list[str]) -> str:
    """Join words by spaces, but without a space between two Chinese or Japanese characters."""
    text = ""
    for word in words:
        close = not text or not word or (_is_wide(text[-1]) and _is_wide(word[0]))
        text += word if close else " " + word
    return text


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
