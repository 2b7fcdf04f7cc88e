"""What is marked in texts, as tags of their units and as spans: for training, for metrics and for answers."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxbert.data.batches import NO_LABEL
from jaxbert.data.table import at_row, quoted
from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.align import Units
from jaxbert.tasks.token_classification.read import Documents
from jaxbert.tasks.token_classification.scheme import BIO, OUTSIDE, Span, spans_of, tags_of
from jaxbert.tasks.token_classification.tag_sets import TagSet, fit_tag_set, spell_as

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Marks:
    """Texts, their units, and what is marked in them (None where that is not known).

    Spans count characters of a text, or words where words were given.
    """

    documents: Documents
    units: Units
    tags: np.ndarray | None
    """int32 [U]: the number of each unit's tag, -100 for none."""
    spans: list[list[Span]] | None
    """Those of each text; None for plain tags too."""

    def content(self) -> Iterator[str]:
        """Yield what is marked in the texts, for a checksum."""
        if self.tags is not None:
            yield self.tags.tobytes().hex()
        yield from (repr([tuple(span) for span in spans]) for spans in self.spans or ())

    def spans_of(self, tags: list[str | None], document: int) -> list[tuple[Span, np.ndarray]]:
        """Return the spans that tags of a text's units mark, each with the units that speak for it.

        Units without a tag, which have no token, are passed over: a span may go on behind them.
        """
        units, base = self.units, int(self.units.first[document])
        known = [i for i, tag in enumerate(tags) if tag is not None]
        places = base + np.array(known, np.int64)
        return [
            (Span(int(units.starts[places[a]]), int(units.ends[places[b - 1]]), label), places[a:b])
            for a, b, label in spans_of([tags[i] for i in known])
        ]

    def text_of(self, document: int, start: int, end: int) -> str:
        """Return a stretch of a text."""
        item = self.documents.items[document]
        return item.text[start:end] if item.text is not None else join_words((item.words or [])[start:end])


def fit_tags(documents: Documents, names: list[str] | None, setting: str = "auto") -> tuple[Documents, TagSet]:
    """Return the tags that a model for these texts distinguishes, sorted unless `names` gives them, and the texts with them.

    Raises:
      UserError: for tags of which it is not clear what they mean, and where `names` lacks one of them.
    """
    seen = documents.tags()
    for item in documents.items:
        for span in item.spans or ():
            seen.update((OUTSIDE, *tags_of([Span(0, 2, span.label)], 2)))
    if names is None:
        if not seen:
            raise UserError(f"{documents.source}: nothing is marked: at least one word must be")
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


def spelled(documents: Documents, tag_set: TagSet) -> Documents:
    """Return texts whose tags are written as in a tag set, as far as that is another spelling of all of them.

    Raises:
      UserError: for marked spans where tags are plain.
    """
    if tag_set.scheme is None and any(item.spans is not None for item in documents.items):
        raise UserError(
            f"{documents.source}: spans are marked, but the tags known from training ({quoted(tag_set.names, 5)}) mark "
            "none: give words and tags"
        )
    return _respell(documents, spell_as(documents.tags(), tag_set.names, documents.source))


def _respell(documents: Documents, read_as: dict[str, str]) -> Documents:
    if not read_as:
        return documents
    items = [
        item if item.tags is None else replace(item, tags=[tag and read_as.get(tag, tag) for tag in item.tags])
        for item in documents.items
    ]
    return replace(documents, items=items)


def tag_units(documents: Documents, units: Units, tag_set: TagSet) -> np.ndarray:
    """Return the index of each unit's tag, int32 [U], -100 for none; marked texts get the tags of the spans on their units.

    Raises:
      UserError: for a tag that is not in the set.
    """
    indices: dict[str | None, int] = {name: index for index, name in enumerate(tag_set.names)} | {None: NO_LABEL}
    found = np.empty(len(units.starts), np.int32)
    inexact = dropped = 0
    for number, item in enumerate(documents.items):
        stretch = slice(int(units.first[number]), int(units.first[number + 1]))
        starts, ends = units.starts[stretch], units.ends[stretch]
        tags: Sequence[str | None]
        if item.tags is not None:
            tags = item.tags
        else:
            marked = item.spans or []
            spans, exact = _on_units(marked, starts, ends)
            inexact, dropped = inexact + len(spans) - exact, dropped + len(marked) - len(spans)
            tags = tags_of(spans, len(starts), tag_set.scheme or BIO)
        unknown = next((tag for tag in tags if tag not in indices), None)
        if unknown is not None:
            row = item.row if item.rows is None else item.rows[tags.index(unknown)]
            raise UserError(
                f"{at_row(documents.source, row)}: tag {unknown!r} is unknown; the tags known from training are "
                f"{quoted(tag_set.names, 40)}: list all tags in data.label_names, or correct it"
            )
        found[stretch] = [indices[tag] for tag in tags]
    if inexact:
        message = "%s: %d spans begin or end inside a token, and are taught as the tokens they touch"
        logger.warning(message, documents.source, inexact)
    if dropped:
        message = "%s: the tokenizer drops the whole text of %d spans; nothing is taught of them"
        logger.warning(message, documents.source, dropped)
    return found


def _on_units(spans: list[Span], starts: np.ndarray, ends: np.ndarray) -> tuple[list[Span], int]:
    """Return the spans counted in units, which grow where a boundary lies in one; and how many are exact.

    A span on no unit is left out.
    """
    found, exact = [], 0
    for start, end, label in spans:
        first, behind = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, end, "left"))
        if first < behind:
            found.append(Span(first, behind, label))
            exact += int(starts[first] == start and ends[behind - 1] == end)
    return found, exact


def marked_spans(documents: Documents) -> list[list[Span]]:
    """Return the spans of marked texts, whether they were written as spans or as tags."""
    return [spans_of(item.tags) if item.tags is not None else item.spans or [] for item in documents.items]


def join_words(words: list[str]) -> str:
    """Put words together with spaces, but without where both neighbours are Chinese or Japanese characters."""
    text = ""
    for word in words:
        close = not text or not word or (_is_wide(text[-1]) and _is_wide(word[0]))
        text += word if close else " " + word
    return text


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
