"""Which label has which index: decided once, from the training data, and kept for everything after.

Whether a label column is one of names or of integers is decided by `table`; here both become indices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.table import Table, quoted
from jaxbert.errors import UserError

_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+")


@dataclass(frozen=True)
class LabelSet:
    """The names of the labels, in index order.

    `integers` says what an integer in a label column means: the index itself ("index"), the name of a label ("name":
    training had 1..5, say), or, for a set that comes from a model and not from training data, "either": names where
    every integer of the column is one, otherwise indices.
    """

    names: tuple[str, ...]
    integers: Literal["index", "name", "either"] = "either"

    def __len__(self) -> int:
        return len(self.names)


def fit_labels(table: Table, data: DataConfig, num_labels: int | None) -> LabelSet:
    """Decide names and indices of the labels from the training examples.

    Names are sorted. Integers are indices where they run from 0 without a gap, or where `num_labels` or the source's
    names cover them; other integers become names in numeric order.

    Raises:
      UserError: for a single label, and where the data contradicts `num_labels` or `data.label_names`.
    """
    labels = _labels_of(table)
    if len(set(labels)) < 2:
        raise UserError(f"{table.source}: every label is {labels[0]!r}: at least two different labels are needed")
    if data.label_names is not None and len(set(data.label_names)) < len(data.label_names):
        raise UserError(f"data.label_names names a label twice: {quoted(data.label_names)}")
    integers = {label for label in labels if isinstance(label, int)}
    if integers:
        return _fit_integers(integers, table, data.label_names, num_labels)
    return _fit_names({str(label) for label in labels}, table, data.label_names, num_labels)


def _labels_of(table: Table) -> list[str | int]:
    if table.labels is None:
        raise UserError(f"{table.source}: no labels: name their column by data.label")
    return table.labels


def _fit_integers(seen: set[int], table: Table, given: list[str] | None, num_labels: int | None) -> LabelSet:
    count = num_labels or (len(table.label_names) if table.label_names else max(seen) + 1)
    covered = min(seen) >= 0 and max(seen) < count
    if given is not None:
        _check_given(given, seen, count, table, num_labels)
        return LabelSet(tuple(given), "index")
    if table.label_names is not None:
        if num_labels not in (None, len(table.label_names)):
            names = f"{len(table.label_names)} labels ({quoted(table.label_names)})"
            raise UserError(
                f"model.num_labels is {num_labels}, but {table.source} has {names}: remove model.num_labels"
            )
        if not covered:
            raise UserError(f"{table.source} has labels up to {max(seen)}, but names only {quoted(table.label_names)}")
        return LabelSet(tuple(table.label_names), "index")
    if covered and (num_labels is not None or len(seen) == count):
        return LabelSet(tuple(f"LABEL_{index}" for index in range(count)), "index")
    _check_count(sorted(seen), table, num_labels)
    return LabelSet(tuple(map(str, sorted(seen))), "name")


def _check_given(given: list[str], seen: set[int], count: int, table: Table, num_labels: int | None) -> None:
    if min(seen) < 0 or max(seen) >= count:
        asked = f" below model.num_labels ({num_labels})" if num_labels else ""
        raise UserError(
            f"{table.source}: data.label_names are the names of the labels 0, 1, 2 and so on{asked}, but the data has "
            f"the labels {quoted(sorted(seen))}"
        )
    if len(given) != count:
        raise UserError(
            f"data.label_names has {len(given)} names, but {table.source} has {count} labels (0 to {count - 1}); if some "
            f"have no example, set model.num_labels to {len(given)}"
        )
    if table.label_names and given != table.label_names and set(given) == set(table.label_names):
        raise UserError(
            f"data.label_names puts the names that {table.source} gives to its labels in another order "
            f"({quoted(table.label_names)}): remove data.label_names"
        )


def _fit_names(seen: set[str], table: Table, given: list[str] | None, num_labels: int | None) -> LabelSet:
    if given is None and all(_NUMBER.fullmatch(name) for name in seen) and any("." in name for name in seen):
        raise UserError(
            f"{table.source}: the labels are fractional numbers ({quoted(sorted(seen), 5)}): regression is not supported; "
            "if they are names, list them in data.label_names"
        )
    if given is None:
        _check_count(sorted(seen), table, num_labels)
        return LabelSet(tuple(sorted(seen)), "name")
    if not seen <= set(given) or len(given) != (num_labels or len(seen)):
        raise UserError(
            f"data.label_names ({quoted(given)}) and the labels of {table.source} ({quoted(sorted(seen))}) differ; if some "
            f"have no example, set model.num_labels to {len(given)}"
        )
    return LabelSet(tuple(given), "name")


def _check_count(seen: Sequence[str | int], table: Table, num_labels: int | None) -> None:
    if num_labels is not None and num_labels != len(seen):
        raise UserError(f"model.num_labels is {num_labels}, but {table.source} has {len(seen)} labels: {quoted(seen)}")


def encode(labels: Sequence[str | int], label_set: LabelSet, table: Table) -> np.ndarray:
    """Return the index of each label, int32 [len(labels)]; `table` is where the labels come from, for messages.

    Raises:
      UserError: for the first label that is not in the set.
    """
    distinct = set(labels)
    by_name = {name: index for index, name in enumerate(label_set.names)}
    as_names = _integers_are_names(distinct, label_set)
    index_of = {label: _index(label, by_name, as_names, label_set, table.label_names) for label in distinct}
    indices = np.fromiter((index_of[label] for label in labels), np.int32, count=len(labels))
    unknown = np.flatnonzero(indices < 0)
    if unknown.size:
        first = int(unknown[0])
        way = "; if it has no training example, raise model.num_labels" if isinstance(labels[first], int) else ""
        raise UserError(
            f"{table.where(first)}: label {labels[first]!r} is unknown; the labels known from training are "
            f"{quoted(label_set.names)}{way}"
        )
    return indices


def _integers_are_names(distinct: set[str | int], label_set: LabelSet) -> bool:
    integers = {str(label) for label in distinct if isinstance(label, int)}
    return label_set.integers == "name" or (label_set.integers == "either" and integers <= set(label_set.names))


def _index(
    label: str | int, by_name: dict[str, int], as_names: bool, label_set: LabelSet, source_names: list[str] | None
) -> int:
    """Return a label's index, -1 if there is none."""
    if isinstance(label, str) and label in by_name:
        return by_name[label]
    if isinstance(label, str) and (as_names or not label.isdecimal()):
        return -1
    number = int(label)
    # A source that knows the same names may number them in its own order.
    if source_names and set(source_names) <= set(by_name):
        return by_name[source_names[number]] if 0 <= number < len(source_names) else -1
    if as_names:
        return by_name.get(str(number), -1)
    return number if 0 <= number < len(label_set) else -1
