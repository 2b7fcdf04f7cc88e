"""Which label has which index: decided once, from the training data, and kept for everything after.

Whether a label column is one of names or of integers is decided by `label_column`; here both become indices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.label_column import Labels
from jaxbert.data.table import at_row, quoted
from jaxbert.errors import UserError

IntegerLabels = Literal["index", "name", "either"]
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+")


@dataclass(frozen=True)
class LabelSet:
    """The names of the labels, in index order.

    `integers` says what an integer in a label column means: the index itself ("index"), the name of a label ("name":
    training had 1..5, say), or, for a set that comes from a model and not from training data, "either": names where
    every integer of the column is one, otherwise indices.
    """

    names: tuple[str, ...]
    integers: IntegerLabels = "either"

    def __len__(self) -> int:
        return len(self.names)


def meaning_of(labels: Labels, label_set: LabelSet | None) -> str:
    """Say what a value of a source's label column means: "name", "index", "multi-hot position" or "score".

    An integer of a column that has names of its own, or of a model whose names they are, stands for a name.

    Args:
      labels: as they were read.
      label_set: the labels of the task; None where a label is a score.
    """
    if label_set is None:
        return "score"
    values = [member for value in labels.legend.values for member in (value if isinstance(value, list) else [value])]
    integers = any(isinstance(value, int) for value in values)
    if not integers or labels.legend.names or _integers_are_names(set(values), label_set):
        return "name"
    return "index"


def count_labels(encoded: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Return how many examples have each label, in the order of `names`.

    Args:
      encoded: int32 [N], the index of each example's label, or bool [N, C], which labels it has.
      names: all labels.
    """
    counts = np.bincount(encoded, minlength=len(names)) if encoded.ndim == 1 else encoded.sum(0)
    return dict(zip(names, counts.tolist(), strict=True))


def fit_labels(labels: Labels, data: DataConfig, num_labels: int | None) -> LabelSet:
    """Decide names and indices of the labels from the training examples.

    Names are sorted. Integers are indices where they run from 0 without a gap, or where `num_labels` or the source's
    names cover them; other integers become names in numeric order.

    Raises:
      UserError: for a single label, and where the data contradicts `num_labels` or `data.label_names`.
    """
    seen = set(labels.legend.values)
    if len(seen) < 2:
        raise UserError(f"{labels.source}: every label is {min(seen)!r}: at least two different labels are needed")
    if data.label_names is not None and len(set(data.label_names)) < len(data.label_names):
        raise UserError(f"data.label_names names a label twice: {quoted(data.label_names)}")
    integers = {label for label in seen if isinstance(label, int)}
    if integers:
        return _fit_integers(integers, labels, data.label_names, num_labels)
    return _fit_names({str(label) for label in seen}, labels.source, data.label_names, num_labels)


def _fit_integers(seen: set[int], labels: Labels, given: list[str] | None, num_labels: int | None) -> LabelSet:
    own, source = labels.legend.names, labels.source
    count = num_labels or (len(own) if own else max(seen) + 1)
    covered = min(seen) >= 0 and max(seen) < count
    if given is not None:
        _check_given(given, seen, count, labels, num_labels)
        return LabelSet(tuple(given), "index")
    if own is not None:
        if num_labels not in (None, len(own)):
            names = f"{len(own)} labels ({quoted(own)})"
            raise UserError(f"model.num_labels is {num_labels}, but {source} has {names}: remove model.num_labels")
        if not covered:
            raise UserError(f"{source} has labels up to {max(seen)}, but names only {quoted(own)}")
        return LabelSet(tuple(own), "index")
    if covered and (num_labels is not None or len(seen) == count):
        return LabelSet(tuple(f"LABEL_{index}" for index in range(count)), "index")
    _check_count(sorted(seen), source, num_labels)
    return LabelSet(tuple(map(str, sorted(seen))), "name")


def _check_given(given: list[str], seen: set[int], count: int, labels: Labels, num_labels: int | None) -> None:
    own, source = labels.legend.names, labels.source
    if min(seen) < 0 or max(seen) >= count:
        asked = f" below model.num_labels ({num_labels})" if num_labels else ""
        raise UserError(
            f"{source}: data.label_names are the names of the labels 0, 1, 2 and so on{asked}, but the data has "
            f"the labels {quoted(sorted(seen))}"
        )
    if len(given) != count:
        raise UserError(
            f"data.label_names has {len(given)} names, but {source} has {count} labels (0 to {count - 1}); if some "
            f"have no example, set model.num_labels to {len(given)}"
        )
    if own and given != own and set(given) == set(own):
        raise UserError(
            f"data.label_names puts the names that {source} gives to its labels in another order "
            f"({quoted(own)}): remove data.label_names"
        )


def _fit_names(seen: set[str], source: str, given: list[str] | None, num_labels: int | None) -> LabelSet:
    if given is None and all(_NUMBER.fullmatch(name) for name in seen) and any("." in name for name in seen):
        raise UserError(
            f"{source}: the labels are fractional numbers ({quoted(sorted(seen), 5)}): set task: regression, "
            "or, if they are names, list them in data.label_names"
        )
    if given is None:
        _check_count(sorted(seen), source, num_labels)
        return LabelSet(tuple(sorted(seen)), "name")
    if not seen <= set(given) or len(given) != (num_labels or len(seen)):
        raise UserError(
            f"data.label_names ({quoted(given)}) and the labels of {source} ({quoted(sorted(seen))}) differ; if some "
            f"have no example, set model.num_labels to {len(given)}"
        )
    return LabelSet(tuple(given), "name")


def _check_count(seen: Sequence[str | int], source: str, num_labels: int | None) -> None:
    if num_labels is not None and num_labels != len(seen):
        raise UserError(f"model.num_labels is {num_labels}, but {source} has {len(seen)} labels: {quoted(seen)}")


def encode(labels: Labels, label_set: LabelSet) -> np.ndarray:
    """Return the index of each label, int32 [N].

    Raises:
      UserError: for the first label that is not in the set.
    """
    legend = labels.legend
    distinct = set(legend.values)
    by_name = {name: index for index, name in enumerate(label_set.names)}
    as_names = _integers_are_names(distinct, label_set)
    indices = [_index(value, by_name, as_names, label_set, legend.names) for value in legend.values]
    if -1 in indices:
        first = indices.index(-1)  # codes are in the order of the rows
        way = "; if it has no training example, raise model.num_labels" if isinstance(legend.values[first], int) else ""
        raise UserError(
            f"{at_row(labels.source, legend.rows[first])}: label {legend.values[first]!r} is unknown; the labels known "
            f"from training are {quoted(label_set.names)}{way}"
        )
    return np.array(indices, np.int32)[labels.codes]


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
