"""From a configuration to tokenized examples: what a run reads before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.config import Config, DataConfig
from jaxbert.data.labels import LabelSet, encode, fit_labels
from jaxbert.data.sources import read
from jaxbert.data.split import stratified_split
from jaxbert.data.table import Table
from jaxbert.data.tokens import Tokens, tokenize
from jaxbert.errors import UserError


@dataclass(frozen=True)
class Examples:
    """Tokenized examples with their labels (None where there are none)."""

    tokens: Tokens
    labels: np.ndarray | None


@dataclass(frozen=True)
class Tables:
    """The texts of a run, with the labels that its training rows define."""

    train: Table
    validation: Table | None
    test: Table | None
    labels: LabelSet


def read_tables(config: Config) -> Tables:
    """Read every data set of a run, split off a validation set when asked, and check all labels.

    Raises:
      UserError: for anything wrong in the files.
    """
    data = config.data
    if data.train is None:
        raise UserError("data.train is missing: name a file, hf:NAME or tfds:NAME with --data.train")
    train = read(data.train, data, role="train", labelled=True, limit=data.limit)
    labels = fit_labels(train, data, config.model.num_labels)
    validation = _read_optional(data.validation, data, "validation")
    if data.validation_fraction:
        kept, held_out = stratified_split(
            encode(train.labels or [], labels, train), data.validation_fraction, config.train.seed
        )
        train, validation = train.take(kept), train.take(held_out)
    return Tables(train, validation, _read_optional(data.test, data, "test"), labels)


def _read_optional(spec: str | None, data: DataConfig, role: Any) -> Table | None:
    return None if spec is None else read(spec, data, role=role, labelled=True)


def tokenize_table(table: Table, tokenizer: Any, labels: LabelSet | None, max_length: int) -> Examples:
    """Tokenize a table, and turn its labels into ids where a label set is given."""
    ids = None if labels is None else encode(table.labels or [], labels, table)
    return Examples(tokenize(tokenizer, table.texts, table.pairs, max_length, table.source), ids)


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
