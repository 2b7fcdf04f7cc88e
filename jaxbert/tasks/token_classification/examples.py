"""Turn tagged texts into examples: the order of the tags, the stored columns, and the view for an overview.

`tag_sets` decides the meaning of tags, `align` cuts texts into windows."""

from __future__ import annotations

import dataclasses
import logging
from itertools import pairwise
from typing import Any

import numpy as np

from jaxbert.data.batches import NO_LABEL
from jaxbert.data.examples import Examples
from jaxbert.data.items import Encoder
from jaxbert.data.labels import Head, count_labels, say_replaced
from jaxbert.data.overview import Labelling, View, view_items
from jaxbert.data.store import Stored, StoredColumn
from jaxbert.data.table import at_row
from jaxbert.data.tokens import Encoded, hash_rows, hash_texts
from jaxbert.errors import UserError, quoted
from jaxbert.tasks.token_classification.align import By, Units, align
from jaxbert.tasks.token_classification.marks import MarkHashes, Marks, marked_spans, say_odd, tag_units
from jaxbert.tasks.token_classification.read import TaggedTexts
from jaxbert.tasks.token_classification.scheme import OUTSIDE, label_of
from jaxbert.tasks.token_classification.tag_sets import TagSet, spell_as

logger = logging.getLogger("jaxbert")


def units_of(documents: TaggedTexts) -> By:
    """Return the units of plain texts that fit the training texts: words or tokens.

    Raises:
      UserError: if only some texts are lists of words.
    """
    if documents.notes["other"] is not None:
        raise UserError(
            f"{at_row(documents.source, documents.notes['other'])}: a text with spans among lists of words, or the reverse: "
            "write all training texts in one way"
        )
    return "word" if documents.notes["worded"] else "token"


def as_head(tag_set: TagSet, head: Head, source: str) -> TagSet:
    """Return the tags in the order of a trained head with the same tags, so that the head keeps its meaning.

    Raises:
      UserError: if the head has the same number of tags, but only some of the same tags.
    """
    spelling = spell_as(head.names, tag_set.names, head.model) if tag_set.scheme else {}
    names = tuple(spelling.get(name, name) for name in head.names)
    if len(names) != len(tag_set.names) or names == tag_set.names:
        return tag_set
    if Head(names, head.model).has_none_of(tag_set.names, but=OUTSIDE):
        say_replaced(head, tag_set.names, source, "tags")
        return dataclasses.replace(tag_set, new_head=True)
    if set(names) != set(tag_set.names):
        raise UserError(
            f"{head.model} has a trained head for other tags: {source} has {quoted(tag_set.names)}, {head.model} "
            f"{quoted(names)}: set model.head to new, for a head without its training"
        )
    logger.warning(
        "%s: the tags are in the order of %s, whose head is trained further: %s", source, head.model, quoted(names)
    )
    return dataclasses.replace(tag_set, names=names)


def check_count(names: tuple[str, ...], expected: int | None, source: str) -> None:
    """Check that `model.num_labels`, if set, is the number of tags.

    Raises:
      UserError: if it is another number.
    """
    if expected not in (None, len(names)):
        raise UserError(
            f"model.num_labels is {expected}, but {source} has {len(names)} tags: remove it, or list all tags in "
            "data.label_names"
        )


COLUMNS = {
    "units": StoredColumn("<i4"),
    "unit_starts": StoredColumn("<i4"),
    "unit_ends": StoredColumn("<i4"),
    "of_tokens": StoredColumn("<i8", counts_in="unit_starts"),
}
"""The columns of `Units`."""
MARKED = {
    "unit_tags": StoredColumn("<i4"),
    "token_labels": StoredColumn("<i4"),
    "span_labels": StoredColumn("<i4"),
    "mark_hashes": StoredColumn("<u8", (2,)),
    "odd": StoredColumn("<i4", (2,)),
}
"""The columns of marks: the tag of each unit and of each token, the number of each span's label, hashes of each text's tags
and of its spans, and the counts for `say_odd`."""


def make_tag_encoder(
    tokenizer: Any, max_length: int, *, stride: int, by: By, tag_set: TagSet | None = None
) -> Encoder[TaggedTexts]:
    """Return the encoder of texts; with a tag set, marks are encoded too."""

    def encode(documents: TaggedTexts) -> Encoded:
        aligned = align(documents, tokenizer, max_length, stride=stride, by=by)
        units, tokens = aligned.units, aligned.tokens
        columns = {
            "units": np.diff(units.first),
            "unit_starts": units.starts,
            "unit_ends": units.ends,
            "of_tokens": units.of_tokens,
        }
        if tag_set is not None:
            columns |= _marked(documents, units, tag_set)
        windows = np.diff(aligned.first_windows).astype(np.int32)
        return Encoded(tokens.ids, tokens.lengths, tokens.first_lengths, 0, windows, aligned.lengths, columns)

    def say(documents: TaggedTexts, stored: Stored) -> None:
        if tag_set is not None:
            say_odd(documents.source, stored.columns["odd"])

    settings = ["tags", stride, by, None if tag_set is None else [tag_set.names, tag_set.scheme]]
    return Encoder(COLUMNS | (MARKED if tag_set else {}), settings, encode, say)


def _marked(documents: TaggedTexts, units: Units, tag_set: TagSet) -> dict[str, np.ndarray]:
    """Return the columns of marks of texts in memory."""
    tags, odd = tag_units(documents, units, tag_set)
    numbers = {label: number for number, label in enumerate(span_labels(tag_set))}
    spans = list(marked_spans(documents)) if tag_set.scheme else [[] for _ in documents.items]
    written = hash_texts([repr([tuple(span) for span in own]) for own in spans])
    by_text = [tags[low:high] for low, high in pairwise(units.first.tolist())]
    return {
        "unit_tags": tags,
        "token_labels": units.scatter(tags, NO_LABEL),
        "span_labels": np.array([numbers.get(span.label, -1) for own in spans for span in own], np.int32),
        "mark_hashes": np.stack([hash_rows(by_text), written], axis=1),
        "odd": odd,
    }


def span_labels(tag_set: TagSet) -> list[str]:
    """Return the labels of spans that the tags of a scheme can mark, sorted."""
    return sorted({label_of(tag) for tag in tag_set.names if tag != OUTSIDE})


def view_marks(name: str, stored: Stored, tag_set: TagSet, max_length: int) -> View:
    """Return the view of a set of texts, with its spans, or with its tags if they are plain."""
    columns = stored.columns
    if tag_set.scheme is None:
        tags = columns["unit_tags"]
        counts = count_labels(tags[tags >= 0], tag_set.names)
    else:
        names = span_labels(tag_set)
        known = columns["span_labels"][columns["span_labels"] >= 0]
        numbers = np.bincount(known, minlength=len(names)).tolist()
        counts = {label: count for label, count in zip(names, numbers, strict=True) if count}
    labels = Labelling("span" if tag_set.scheme else "tag", counts, keys=columns["mark_hashes"][:, 0])
    return view_items(name, stored, labels, max_length, unit="texts")


def make_tag_examples(documents: TaggedTexts, stored: Stored, tag_set: TagSet, *, in_windows: bool) -> Examples:
    """Return texts as examples; without `in_windows`, as in training, each window is an example of its own."""
    columns, windows, tokens = stored.columns, stored.windows, stored.tokens
    assert windows is not None
    tags, labels = columns.get("unit_tags"), columns.get("token_labels")
    hashes = None if tags is None else columns["mark_hashes"][:, 1]
    if not in_windows:
        return Examples(tokens, rows=windows.rows(), token_labels=labels, extra=MarkHashes(hashes))
    first_tokens = np.append(tokens.begins, len(tokens.ids))[windows.first]
    first = np.concatenate([[0], np.cumsum(columns["units"], dtype=np.int64)])
    units = Units(first, columns["unit_starts"], columns["unit_ends"], columns["of_tokens"], first_tokens)
    spans = marked_spans(documents) if tags is not None and tag_set.scheme else None
    return Examples(tokens, token_labels=labels, windows=windows, extra=Marks(hashes, documents, units, tags, spans))


UNKNOWN = -1
"""The value of `token_labels` where a unit's tag is not known."""


def unmarked_examples(stored: Stored) -> Examples:
    """Return texts without marks as examples to train on, each window as one; a unit's token has the label `UNKNOWN`."""
    assert stored.windows is not None
    labels = np.where(stored.columns["of_tokens"] >= 0, UNKNOWN, NO_LABEL).astype(np.int32)
    return Examples(stored.tokens, rows=stored.windows.rows(), token_labels=labels)
