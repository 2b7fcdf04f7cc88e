"""From the labels of a source to indices of labels that are known.

Whether a number is an index or a name is decided for a source as a whole, from the names that it and the model have; what
has two readings is refused. Which labels there are is the part of `label_fit`, names alone are that of `label_names`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxbert.data.label_column import Labels, as_name, whole_number
from jaxbert.data.label_names import LabelRules, both_lists, find_places, fold, is_generic, numbers_mean
from jaxbert.data.table import quoted
from jaxbert.errors import UserError

IntegerLabels = Literal["index", "name", "position", "either"]
BOOLEANS = ["false", "true"]

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class LabelSet:
    """The names of the labels, in index order.

    `integers` says what an integer in a label column means: the index itself ("index"), the name of a label ("name":
    training had 1..5, say), or in lists whether the label of that place is given ("position": multi-hot). "either" stands
    for a set that comes from a model and not from training data: the names decide.
    """

    names: tuple[str, ...]
    integers: IntegerLabels = "either"
    new_head: bool = False
    """Whether a trained head of the model has none of these, so that another one is drawn."""

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
    values = labels.legend.values
    if labels.legend.marks or (label_set.integers == "position" and any(isinstance(value, dict) for value in values)):
        return "multi-hot position"
    members = [member for value in values for member in (value if isinstance(value, list) else [value])]
    numbers = any(isinstance(member, dict) or whole_number(member) is not None for member in members)
    meant = numbers_mean(label_set.names) if label_set.integers == "either" else label_set.integers
    return "name" if not numbers or labels.legend.names or meant == "name" else "index"


def count_labels(encoded: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Return how many examples have each label, in the order of `names`.

    Args:
      encoded: int32 [N], the index of each example's label, or bool [N, C], which labels it has.
      names: all labels.
    """
    counts = np.bincount(encoded, minlength=len(names)) if encoded.ndim == 1 else encoded.sum(0)
    return dict(zip(names, counts.tolist(), strict=True))


def renamed(labels: Labels, rules: LabelRules) -> Labels:
    """Return labels under the names that the user's map gives them."""
    if not rules.map:
        return labels
    legend = labels.legend

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(member) for member in value]
        spellings = () if isinstance(value, dict) else _spellings(value)
        return next((rules.map[spelling] for spelling in spellings if spelling in rules.map), value)

    if legend.names is None:
        return dataclasses.replace(labels, legend=dataclasses.replace(legend, values=list(map(rename, legend.values))))
    names = [rules.rename(name) for name in legend.names]
    return dataclasses.replace(labels, legend=dataclasses.replace(legend, names=names))


def written_names(labels: Labels) -> set[str]:
    """Return all names of labels in a source, as they were written."""
    if labels.legend.names is not None:
        return set(labels.legend.names)
    values = [member for value in labels.legend.values for member in (value if isinstance(value, list) else [value])]
    return {spelling for value in values if not isinstance(value, dict) for spelling in _spellings(value)}


def _spellings(value: Any) -> tuple[str, ...]:
    """Return a value as it was written, and as a whole number where it is one."""
    number = whole_number(value)
    return (str(value),) if number is None else (str(value), str(number))


def encode(labels: Labels, label_set: LabelSet, rules: LabelRules = LabelRules()) -> np.ndarray:  # noqa: B008 (frozen)
    """Return the index of each label, int32 [N].

    Raises:
      UserError: for the first label that is not in the set, and where a number has two readings.
    """
    labels = renamed(labels, rules)
    legend = labels.legend
    numbers = [whole_number(value) for value in legend.values]
    own = _own_names(labels, label_set, rules) if None not in numbers else None
    meant = "name"
    if own is None and any(number is not None for number in numbers):
        meant = _integers_mean(labels, label_set, rules)
    indices, names = np.full(len(numbers), -1, np.int32), {}
    for code, (value, number) in enumerate(zip(legend.values, numbers, strict=True)):
        if number is None:
            names[code] = as_name(value)
        elif own is not None:
            names[code] = own[number] if 0 <= number < len(own) else str(number)
        elif meant == "index":
            indices[code] = number if 0 <= number < len(label_set) else -1
        else:
            names[code] = str(value) if str(value) in label_set.names else str(number)
    places = find_places(names.values(), label_set.names, labels.source)
    indices[list(names)] = [places.get(name, -1) for name in names.values()]
    if -1 in indices:
        code = int(np.flatnonzero(indices == -1)[0])  # codes are in the order of the rows
        raise UserError(_unknown(labels, code, label_set, own, meant))
    return indices[labels.codes]


def _own_names(labels: Labels, label_set: LabelSet, rules: LabelRules) -> list[str] | None:
    """Return the names that a source gives to its integers; None where it has none, or they are as good as indices."""
    own, known = labels.legend.names, label_set.names
    if (
        own is None
        and rules.names is not None
        and label_set.integers == "name"
        and numbers_mean(rules.names) == "likely"
    ):
        return rules.names  # in order from 0, whatever order the model has
    if own is None or is_generic(own):
        return None
    alike = set(map(fold, own)) <= set(map(fold, known))
    unnamed = is_generic(known) or (own == BOOLEANS and label_set.integers == "index")
    if alike or not unnamed or len(own) != len(known):
        return own
    pairs = ", ".join(f"{name!r} is {other!r}" for name, other in list(zip(own, known, strict=True))[:5])
    logger.warning("%s: its numbers are taken as indices of the model's labels: %s", labels.source, pairs)
    return None


def _integers_mean(labels: Labels, label_set: LabelSet, rules: LabelRules) -> str:
    """Return whether the integers of a source are an "index" or a "name"."""
    if rules.format in ("names", "indices"):
        return "name" if rules.format == "names" else "index"
    if label_set.integers != "either":
        return "name" if label_set.integers == "name" else "index"
    meant = numbers_mean(label_set.names)
    if meant is None:
        code = next(code for code, value in enumerate(labels.legend.values) if whole_number(value) is not None)
        raise UserError(
            f"{labels.place(code)}: label {as_name(labels.legend.values[code])} can be the name of a label or its index, "
            f"for the model's labels are {quoted(label_set.names)}: set data.label_format to names or indices"
        )
    if meant == "likely":
        meant = "index"
        named = ", ".join(f"{index} is {name!r}" for index, name in enumerate(label_set.names[:5]))
        logger.warning("%s: numbers are taken as indices of the model's labels: %s", labels.source, named)
    return meant


def _unknown(labels: Labels, code: int, label_set: LabelSet, own: list[str] | None, meant: str) -> str:
    """Explain why a value is no label."""
    value, known = labels.legend.values[code], label_set.names
    number = whole_number(value)
    shown = repr(str(value)) if number is None else str(number)
    if own is not None and number is not None and 0 <= number < len(own):
        return f"{labels.place(code)}: label {own[number]!r} is unknown: {both_lists(own, known)}"
    start = f"{labels.place(code)}: label {shown} is unknown; the labels known from training are {quoted(known)}"
    if number is None:
        return f"{start}; if it is another name of one of them, say so by data.label_map"
    if meant == "name" and numbers_mean(known) == "likely":
        return f"{start}; if numbers are their indices in this order, set data.label_format to indices"
    if meant == "name":
        return f"{start}: correct it, or remove the row"
    return f"{start}; if it has no training example, raise model.num_labels"


def all_written(sources: Iterable[Labels | None]) -> set[str]:
    """Return all names of labels in some sources."""
    return set().union(*(written_names(labels) for labels in sources if labels is not None))
