"""Convert spans to tags and tags to spans. `tag_sets` reads the tags of a source.

A tag is `O`, or a letter for the position in a span, a hyphen and the span's label (`B-PER`); a letter alone marks spans
without a label. Spans are counted as in the CoNLL scripts and seqeval's default mode, so that every sequence of tags has a
meaning, even one that no scheme allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
NO_LABEL = "_"
_COMMON = {"M": "I", "L": "E", "U": "S"}
"""Letters that the schemes write differently: inside, last, single."""


class Span(NamedTuple):
    """Units `start` to `end - 1` and their label; a unit is a character, a word or a token."""

    start: int
    end: int
    label: str


class Scheme(NamedTuple):
    """The letters of the first, the inner and the last unit of a span, and of a span of one unit."""

    name: str
    first: str
    inner: str
    last: str
    single: str

    @property
    def letters(self) -> set[str]:
        """All letters of the scheme."""
        return set(self[1:])


BIO = Scheme("BIO", *"BIIB")
SCHEMES = (BIO, Scheme("BIOES", *"BIES"), Scheme("BMES", *"BMES"), Scheme("BILOU", *"BILU"))
"""IOB1, which writes B only between adjacent spans, has the tags of BIO and is read as BIO."""


def label_of(tag: str) -> str:
    """Return the label of a tag that is not `O`."""
    return tag[2:] or NO_LABEL


def spans_of(tags: Sequence[str | None]) -> list[Span]:
    """Return the spans that tags mark, in order; None counts as `O`."""
    spans: list[Span] = []
    begin, last, last_label = 0, OUTSIDE, ""
    for i, tag in enumerate([*tags, OUTSIDE]):
        tag = tag or OUTSIDE
        letter = _COMMON.get(tag[0], tag[0])
        label = "" if letter == OUTSIDE else label_of(tag)
        if last != OUTSIDE and (last in "ES" or letter in "BSO" or label != last_label):
            spans.append(Span(begin, i, last_label))
        if letter != OUTSIDE and (letter in "BS" or last in "ESO" or label != last_label):
            begin = i
        last, last_label = letter, label
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: Scheme = BIO) -> list[str]:
    """Return the tags of `length` units for spans that do not overlap."""
    tags = [OUTSIDE] * length
    for start, end, label in spans:
        letters = (
            [scheme.first, *[scheme.inner] * (end - start - 2), scheme.last] if end - start > 1 else [scheme.single]
        )
        tags[start:end] = [letter if label == NO_LABEL else f"{letter}-{label}" for letter in letters]
    return tags
