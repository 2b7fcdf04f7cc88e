"""The records behind examples, as they stand in the source: texts and any other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.config import Config
from jaxbert.data.examples import Examples
from jaxbert.data.overview import TRAIN
from jaxbert.data.sources import Role, open_source
from jaxbert.data.table import Row
from jaxbert.errors import UserError
from jaxbert.tasks.reading import TextTask, named_sets, set_name, training_spec
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.train.inference import Finished


@dataclass(frozen=True)
class Record:
    """One record of a source of texts."""

    row: Row
    """Its number in the source, from 1, as messages name it."""
    text: str
    pair: str | None
    """The second text, for pairs."""
    columns: dict[str, Any]
    """The values of the other columns that were asked for."""


def read_records(
    config: Config, task: TextTask, name: str, examples: Examples, indices: np.ndarray, columns: Sequence[str] = ()
) -> list[Record]:
    """Read the records of some examples of a run's set again, in the order of `indices`.

    Args:
      config: the configuration of the run.
      task: its task.
      name: the name of the set in the data table: `train`, `validation`, `validation.en`, `test`.
      examples: the set.
      indices: the examples, [n].
      columns: further columns to read.

    Raises:
      UserError: if the source is not there any more, has fewer rows, or lacks a column.
    """
    data = config.data
    wanted = examples.source_rows(np.asarray(indices)).tolist()
    role, spec = _source_of(config, name)
    source = open_source(
        spec,
        data,
        role=role,
        labelled=True,
        limit=data.limit if role == TRAIN else None,
        labels=task.label_kind,
        kept=tuple(columns),
    )
    rising, found, first = np.unique(wanted), dict[int, Record](), 0
    for part in source.parts():
        kept = part.kept_rows()
        low, high = np.searchsorted(rising, [first, first + len(part)])
        for place in (rising[low:high] - first).tolist():
            pair = None if part.pairs is None else part.pairs[place]
            found[first + place] = Record(part.row(place), part.texts[place], pair, kept[place])
        first += len(part)
    if len(found) < len(rising):
        raise UserError(f"{source.name}: has {first:,} rows, fewer than in the run: give the same data")
    return [found[row] for row in wanted]


def read_columns(finished: Finished, name: str, examples: Examples, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Read columns of all examples of a run's set, of any task: for each column a value for each example.

    Raises:
      UserError: if the source is not there any more, has other rows, or lacks a column.
    """
    config, model = finished.config, finished.model
    if isinstance(model.task, TextTask):
        records = read_records(config, model.task, name, examples, np.arange(len(examples)), columns)
        return {column: [record.columns[column] for record in records] for column in columns}
    _, spec = _source_of(config, name)
    found: dict[Row, Mapping[str, Any]] = {}
    for part in model.open_inputs(spec, config.data, tuple(columns)).parts():
        found |= zip((item.row for item in part.items), part.kept_rows(), strict=True)
    items = items_in(examples)
    if any(item.row not in found for item in items):
        raise UserError(f"{spec}: rows of the run do not exist any more: give the same data")
    return {column: [found[item.row][column] for item in items] for column in columns}


def read_texts(finished: Finished, name: str) -> tuple[list[Row], list[str]]:
    """Return the row and the text of each example of a run's set, of any task; the texts of a pair are two lines.

    Raises:
      UserError: if the source is not there any more, or has fewer rows.
    """
    examples, task = finished.outcomes[name].examples, finished.model.task
    if isinstance(task, TextTask):
        records = read_records(finished.config, task, name, examples, np.arange(len(examples)))
        texts = [record.text if record.pair is None else f"{record.text}\n{record.pair}" for record in records]
        return [record.row for record in records], texts
    items = items_in(examples)
    if isinstance(task, TokenClassification):
        return [item.row for item in items], [
            " ".join(item.words) if item.text is None else item.text for item in items
        ]
    return [item.row for item in items], [item.key().strip("\0").replace("\0", "\n") for item in items]


def items_in(examples: Examples) -> Sequence[Any]:
    """Return the tagged texts, questions or choices behind examples, as their task read them."""
    extra = examples.extra
    return getattr(extra, "documents", getattr(extra, "questions", extra)).items


def _source_of(config: Config, name: str) -> tuple[Role, str]:
    """Return the role and the source of a set; a validation set that was split off comes from the training data."""
    data = config.data
    roles: tuple[tuple[Role, str | dict[str, str] | None], ...] = (("validation", data.validation), ("test", data.test))
    for role, specs in roles:
        for own, spec in named_sets(specs, role).items():
            if set_name(role, own) == name:
                return role, spec
    return "train", training_spec(data)
