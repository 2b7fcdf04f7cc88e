"""What is marked in texts, as tags of their units and as spans: for training, for metrics and for answers."""

from __future__ import annotations

import logging
import unicodedata
from dataclasses import dataclass

import numpy as np

from jaxbert.data.table import at_row, quoted
from jaxbert.data.tagging.align import Units
from jaxbert.data.tagging.read import Documents
from jaxbert.data.tagging.scheme import OUTSIDE, Span, find_scheme, spans_of, tags_of
from jaxbert.errors import UserError

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Marks:
    """Texts, their units, and the spans that are marked in them (None where that is not known).

    Spans count characters of a text, or words where words were given.
    """

    documents: Documents
    units: Units
    spans: list[list[Span]] | None

    def spans_of(self, tags: list[str], document: int) -> list[tuple[Span, tuple[int, int]]]:
        """Return the spans that tags of a text's units mark, each with its stretch of all units."""
        units, base = self.units, int(self.units.first[document])
        return [
            (Span(int(units.starts[base + a]), int(units.ends[base + b - 1]), label), (base + a, base + b))
            for a, b, label in spans_of(tags)
        ]

    def text_of(self, document: int, span: Span) -> str:
        """Return what a span marks."""
        item = self.documents.items[document]
        return (
            item.text[span.start : span.end]
            if item.text is not None
            else join_words((item.words or [])[span.start : span.end])
        )


def fit_tags(documents: Documents, names: list[str] | None) -> tuple[str, ...]:
    """Return the tags that a model for these texts distinguishes: sorted, unless `names` gives them.

    Raises:
      UserError: for tags of no scheme, and where `names` lacks one of them.
    """
    seen: set[str] = {OUTSIDE}
    for item in documents.items:
        seen.update(item.tags or ())
        for span in item.spans or ():
            seen.update(tags_of([Span(0, 2, span.label)], 2))
    find_scheme(seen, documents.source)
    if names is None:
        return tuple(sorted(seen))
    find_scheme(names, "data.label_names")
    if len(set(names)) < len(names):
        raise UserError(f"data.label_names names a tag twice: {quoted(names)}")
    if not seen <= set(names):
        missing = quoted(sorted(seen - set(names)))
        raise UserError(f"{documents.source}: tags that data.label_names lacks: {missing}: add them")
    return tuple(names)


def tag_units(documents: Documents, units: Units, names: tuple[str, ...]) -> np.ndarray:
    """Return the index in `names` of each unit's tag, int32 [U]; marked texts get the tags of the spans on their units.

    Raises:
      UserError: for a tag that `names` lacks.
    """
    indices = {name: index for index, name in enumerate(names)}
    found = np.empty(len(units.starts), np.int32)
    inexact = 0
    for number, item in enumerate(documents.items):
        stretch = slice(int(units.first[number]), int(units.first[number + 1]))
        starts, ends = units.starts[stretch], units.ends[stretch]
        if item.tags is not None:
            tags = item.tags
        else:
            spans, exact = _on_units(item.spans or [], starts, ends)
            inexact += len(item.spans or []) - exact
            tags = tags_of(spans, len(starts), find_scheme(names, "the model"))
        unknown = next((tag for tag in tags if tag not in indices), None)
        if unknown is not None:
            row = item.row + (tags.index(unknown) if item.by_line else 0)
            raise UserError(
                f"{at_row(documents.source, row)}: tag {unknown!r} is unknown; the tags known from training are "
                f"{quoted(names, 40)}: list all tags in data.label_names, or correct it"
            )
        found[stretch] = [indices[tag] for tag in tags]
    if inexact:
        message = "%s: %d spans begin or end inside a token, and are taught as the tokens they touch"
        logger.warning(message, documents.source, inexact)
    return found


def _on_units(spans: list[Span], starts: np.ndarray, ends: np.ndarray) -> tuple[list[Span], int]:
    """Return the spans counted in units, which grow where a boundary lies in one; and how many are exact."""
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
