"""The records behind examples, as they stand in the source: texts and any other columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.config import Config
from jaxbert.data.examples import Examples
from jaxbert.data.overview import TRAIN
from jaxbert.data.sources import Role, open_source
from jaxbert.data.table import Row
from jaxbert.errors import UserError
from jaxbert.tasks.reading import named_sets, set_name, training_spec
from jaxbert.tasks.text import TextTask


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


def _source_of(config: Config, name: str) -> tuple[Role, str]:
    """Return the role and the source of a set; a validation set that was split off comes from the training data."""
    data = config.data
    roles: tuple[tuple[Role, str | dict[str, str] | None], ...] = (("validation", data.validation), ("test", data.test))
    for role, specs in roles:
        for own, spec in named_sets(specs, role).items():
            if set_name(role, own) == name:
                return role, spec
    return "train", training_spec(data)
