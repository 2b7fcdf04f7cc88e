"""From tagged texts to examples: which tags there are, in which order, and what an overview says of them."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from itertools import pairwise

import numpy as np

from jaxbert.data.batches import NO_LABEL
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.label_fit import Head, say_replaced
from jaxbert.data.labels import count_labels
from jaxbert.data.overview import Labelling, View, view_items
from jaxbert.data.seen import hash_rows
from jaxbert.data.table import at_row, quoted
from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.align import Aligned, By
from jaxbert.tasks.token_classification.marks import Marks, marked_spans, spelled, tag_units
from jaxbert.tasks.token_classification.read import Documents
from jaxbert.tasks.token_classification.scheme import OUTSIDE
from jaxbert.tasks.token_classification.tag_sets import TagSet, spell_as

logger = logging.getLogger("jaxbert")


def units_of(documents: Documents) -> By:
    """Return what has a tag in plain texts, as the training texts are: their words, or their tokens."""
    worded = [document.words is not None for document in documents.items]
    if any(worded) and not all(worded):
        row = documents.items[worded.index(not worded[0])].row
        raise UserError(
            f"{at_row(documents.source, row)}: a text with spans among lists of words, or the reverse: write all "
            "training texts in one way"
        )
    return "word" if worded[0] else "token"


def as_head(tag_set: TagSet, head: Head, source: str) -> TagSet:
    """Return the tags in the order of a trained head that has the same, so that it keeps its meaning.

    Raises:
      UserError: where it has as many, of which some are others.
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
    logger.warning("%s: the tags are in the order of %s, whose head goes on: %s", source, head.model, quoted(names))
    return dataclasses.replace(tag_set, names=names)


def check_count(names: tuple[str, ...], expected: int | None, source: str) -> None:
    """Check `model.num_labels` against the tags.

    Raises:
      UserError: if it is another number.
    """
    if expected not in (None, len(names)):
        raise UserError(
            f"model.num_labels is {expected}, but {source} has {len(names)} tags: remove it, or list all tags in "
            "data.label_names"
        )


def view_marks(name: str, marks: Marks, lengths: np.ndarray, tag_set: TagSet, max_length: int) -> View:
    """Return what an overview says of a set of texts: its spans, or its tags where they are plain."""
    documents, units, tags = marks.documents, marks.units, marks.tags
    assert tags is not None
    if marks.spans is not None:
        spans = Counter(span.label for found in marks.spans for span in found)
        counts = {label: spans[label] for label in sorted(spans)}
    else:
        counts = count_labels(tags[tags >= 0], tag_set.names)
    stretches = [tags[low:high] for low, high in pairwise(units.first.tolist())]
    labels = Labelling("span" if tag_set.scheme else "tag", counts, keys=hash_rows(stretches))
    texts = [item.text if item.text is not None else "\0".join(item.words or ()) for item in documents.items]
    rows = [item.row for item in documents.items]
    return view_items(
        name, documents.source, texts, lengths, rows, labels, max_length, unit="texts", facts=documents.facts
    )


def make_examples(
    tag_set: TagSet, documents: Documents, aligned: Aligned, *, labelled: bool, in_windows: bool
) -> Examples:
    """Make examples of texts; in training, each window of a long text is an example of its own."""
    if labelled:
        documents = spelled(documents, tag_set)
    units = aligned.units
    tags = tag_units(documents, units, tag_set) if labelled else None
    spans = marked_spans(documents) if labelled and tag_set.scheme else None
    return Examples(
        aligned.tokens,
        rows=None if in_windows else np.repeat(np.arange(len(documents)), np.diff(aligned.first_windows)),
        token_labels=None if tags is None else units.scatter(tags, NO_LABEL),
        windows=Windows(aligned.first_windows) if in_windows else None,
        extra=Marks(documents, units, tags, spans),
    )
