"""From a configuration to tokenized examples: what a run reads before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.config import Config
from jaxbert.data.cache import cache_folder
from jaxbert.data.labels import LabelSet, encode, fit_labels
from jaxbert.data.prepare import prepare
from jaxbert.data.sources import Role, Source, open_source
from jaxbert.data.split import stratified_split
from jaxbert.data.store import Stored
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.train.processes import tokenizing_share
from jaxbert.train.report import Reading


@dataclass(frozen=True)
class Examples:
    """Tokenized examples with their labels (None where there are none)."""

    tokens: Tokens
    labels: np.ndarray | None
    rows: np.ndarray | None = None
    """Where each is in its source; None where they are the source's own, in order."""

    def take(self, indices: np.ndarray) -> Examples:
        """Return the examples at `indices`, in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return Examples(self.tokens.take(indices), labels, self.source_rows(indices))

    def source_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of the source, counted from 0, from which these examples come."""
        return indices if self.rows is None else self.rows[indices]


@dataclass(frozen=True)
class Inputs:
    """The examples of a run, with the labels that its training rows define."""

    train: Examples
    validation: Examples | None
    test: Examples | None
    labels: LabelSet


def read_inputs(config: Config, tokenizer: Any, max_length: int) -> Inputs:
    """Tokenize every data set of a run, split off a validation set when asked, and check all labels.

    The small sets come first, so that a mistake in them is found before a large training set has been read.

    Raises:
      UserError: for anything wrong in the files.
    """
    data, folder = config.data, cache_folder(config.data.cache_dir)
    if data.train is None:
        raise UserError("data.train is missing: name a file, hf:NAME or tfds:NAME with --data.train")

    def find(spec: str | None, role: Role, limit: int | None = None) -> Source | None:
        return None if spec is None else open_source(spec, data, role=role, labelled=True, limit=limit)

    def read(source: Source | None) -> Stored | None:
        return None if source is None else prepare_shown(source, tokenizer, max_length, folder)

    sources = find(data.train, "train", data.limit), find(data.validation, "validation"), find(data.test, "test")
    validation_stored, test_stored, train_stored = read(sources[1]), read(sources[2]), read(sources[0])
    assert train_stored is not None
    assert train_stored.labels is not None
    labels = fit_labels(train_stored.labels, data, config.model.num_labels)
    train = label(train_stored, labels)
    validation = None if validation_stored is None else label(validation_stored, labels)
    test = None if test_stored is None else label(test_stored, labels)
    if data.validation_fraction:
        assert train.labels is not None
        kept, held_out = stratified_split(train.labels, data.validation_fraction, config.train.seed)
        train, validation = train.take(kept), train.take(held_out)
    return Inputs(train, validation, test, labels)


def prepare_shown(source: Source, tokenizer: Any, max_length: int, folder: Path | None = None) -> Stored:
    """Return a source's tokens, from the cache in `folder` where it has them, and show progress where it takes long."""
    with Reading(source.name) as reading:
        return prepare(source, tokenizer, max_length, folder=folder, on_rows=reading.add, share=tokenizing_share())


def label(stored: Stored, labels: LabelSet) -> Examples:
    """Turn the labels of tokenized examples into ids.

    Raises:
      UserError: for a label that is not in the set.
    """
    return Examples(stored.tokens, None if stored.labels is None else encode(stored.labels, labels))


def resolve_max_length(max_length: int | None, positions: int) -> int:
    """Return the longest example in tokens for a model with this many positions.

    Raises:
      UserError: if more is asked for than the model has.
    """
    if max_length is not None and max_length > positions:
        raise UserError(
            f"data.max_length is {max_length}, but the model has {positions} positions: lower it to {positions}"
        )
    return max_length or positions
