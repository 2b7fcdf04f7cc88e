"""Reading texts in which words or spans are marked: `task: token_classification`."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import NO_LABEL
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.label_fit import Head, say_replaced
from jaxbert.data.labels import count_labels
from jaxbert.data.long_texts import Reading
from jaxbert.data.overview import TRAIN, Labelling, Overview, View, lower_cases, view_items
from jaxbert.data.seen import hash_rows
from jaxbert.data.split import split_groups
from jaxbert.data.table import at_row, quoted
from jaxbert.data.tagging.align import Aligned, By, align
from jaxbert.data.tagging.marks import Marks, fit_tags, marked_spans, spelled, tag_units
from jaxbert.data.tagging.read import Documents, read_documents, stream_documents
from jaxbert.data.tagging.scheme import OUTSIDE
from jaxbert.data.tagging.tag_sets import TagSet, reopen_tag_set, spell_as
from jaxbert.errors import UserError
from jaxbert.tasks.base import Task
from jaxbert.tasks.token_classification import TokenClassification, make_tagging
from jaxbert.train.inputs import named_sets, set_name, training_spec
from jaxbert.train.kinds.base import Inputs, settings_of, with_settings
from jaxbert.train.kinds.token_kinds import ItemFeed, reading_of, refuse, shared_tokens
from jaxbert.train.start import label_names, with_labels

logger = logging.getLogger("jaxbert")


class TokenClassificationKind:
    """A tag for each word, or for each token."""

    def read(self, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets; the training texts decide which tags there are."""
        data = config.data
        refuse(config)
        validation = {
            name: read_documents(spec, data, role="validation", labelled=True)
            for name, spec in named_sets(data.validation, "validation").items()
        }
        test = {
            name: read_documents(spec, data, role="test", labelled=True)
            for name, spec in named_sets(data.test, "test").items()
        }
        train = read_documents(training_spec(data), data, role="train", labelled=True, limit=data.limit)
        by = _units_of(train)
        train, tag_set = fit_tags(train, data.label_names, data.tag_scheme)
        if head is not None:
            tag_set = as_head(tag_set, head, train.source)
        _check_count(tag_set.names, config.model.num_labels, train.source)
        if data.validation_fraction:
            kept, held_out = split_groups(np.arange(len(train)), data.validation_fraction, config.train.seed)
            train, validation = train.take(kept), {"validation": train.take(held_out)}
        task = make_tagging(tag_set, by, config.train.label_smoothing, reading_of(config, max_length))

        views: list[View] = []

        def examples(name: str, documents: Documents, *, in_windows: bool = True) -> Examples:
            aligned = _align(task, documents, tokenizer, max_length)
            found = _examples(task, documents, aligned, labelled=True, in_windows=in_windows)
            views.append(_view(name, found.extra, aligned.lengths, task, max_length))
            return found

        return Inputs(
            train=examples(TRAIN, train, in_windows=False),
            validation={name: examples(set_name("validation", name), found) for name, found in validation.items()},
            test={name: examples(set_name("test", name), found) for name, found in test.items()},
            task=task,
            overview=Overview(views, lower_cases(tokenizer)),
            new_head=tag_set.new_head,
        )

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Add the tags."""
        assert isinstance(task, TokenClassification)
        named = with_labels(bert_config, task.tag_names)
        scheme = "plain" if task.scheme is None else task.scheme.name
        return with_settings(named, "token_classification", by=task.by, reading=task.reading.to_dict(), scheme=scheme)

    def reopen(self, bert_config: BertConfig) -> TokenClassification:
        """Take the tags."""
        settings = settings_of(bert_config)
        tag_set = reopen_tag_set(label_names(bert_config), settings.get("scheme"))
        by: By = "token" if settings.get("by") == "token" else "word"
        return make_tagging(tag_set, by, 0.0, Reading.of(settings.get("reading")))

    def reading_length(self, task: Task) -> int | None:
        """Return the length of windows in training."""
        assert isinstance(task, TokenClassification)
        return task.reading.max_length

    def read_for(self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source; tags that are numbers without names are the model's own."""
        assert isinstance(task, TokenClassification)
        named = dataclasses.replace(data, label_names=data.label_names or list(task.tag_names))
        documents = read_documents(spec, named, role="test", labelled=True)
        if any(item.numbered for item in documents.items) and data.label_names is None:
            logger.warning("%s: the tags are numbers, and are read as the model's tags, in order", documents.source)
        aligned = _align(task, documents, tokenizer, max_length)
        return _examples(task, documents, aligned, labelled=True, in_windows=True)

    def feed(
        self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> ItemFeed:
        """Open one source."""
        assert isinstance(task, TokenClassification)

        def tokenize(parts: Sequence[Documents]) -> Examples:
            documents = dataclasses.replace(parts[0], items=[item for part in parts for item in part.items])
            aligned = _align(task, documents, tokenizer, max_length)
            return _examples(task, documents, aligned, labelled=False, in_windows=True)

        return ItemFeed(spec, stream_documents(spec, data, kept), tokenize)


def _units_of(documents: Documents) -> By:
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


def _check_count(names: tuple[str, ...], expected: int | None, source: str) -> None:
    if expected not in (None, len(names)):
        raise UserError(
            f"model.num_labels is {expected}, but {source} has {len(names)} tags: remove it, or list all tags in "
            "data.label_names"
        )


def _align(task: TokenClassification, documents: Documents, tokenizer: Any, max_length: int) -> Aligned:
    """Tokenize texts."""
    return align(documents, tokenizer, max_length, stride=shared_tokens(task.reading, max_length), by=task.by)


def _view(name: str, marks: Marks, lengths: np.ndarray, task: TokenClassification, max_length: int) -> View:
    """Return what an overview says of a set of texts: its spans, or its tags where they are plain."""
    documents, units, tags = marks.documents, marks.units, marks.tags
    assert tags is not None
    if marks.spans is not None:
        spans = Counter(span.label for found in marks.spans for span in found)
        counts = {label: spans[label] for label in sorted(spans)}
    else:
        counts = count_labels(tags[tags >= 0], task.tag_names)
    stretches = [tags[low:high] for low, high in pairwise(units.first.tolist())]
    labels = Labelling("span" if task.scheme else "tag", counts, keys=hash_rows(stretches))
    texts = [item.text if item.text is not None else "\0".join(item.words or ()) for item in documents.items]
    rows = [item.row for item in documents.items]
    return view_items(
        name, documents.source, texts, lengths, rows, labels, max_length, unit="texts", facts=documents.facts
    )


def _examples(
    task: TokenClassification, documents: Documents, aligned: Aligned, *, labelled: bool, in_windows: bool
) -> Examples:
    """Make examples of texts; in training, each window of a long text is an example of its own."""
    if labelled:
        documents = spelled(documents, task.tag_set)
    units = aligned.units
    tags = tag_units(documents, units, task.tag_set) if labelled else None
    spans = marked_spans(documents) if labelled and task.scheme else None
    return Examples(
        aligned.tokens,
        rows=None if in_windows else np.repeat(np.arange(len(documents)), np.diff(aligned.first_windows)),
        token_labels=None if tags is None else units.scatter(tags, NO_LABEL),
        windows=Windows(aligned.first_windows) if in_windows else None,
        extra=Marks(documents, units, tags, spans),
    )
