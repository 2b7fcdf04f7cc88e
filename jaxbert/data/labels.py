"""Decide the labels that training examples define, their order, and the index of each label for the model.

The meaning of integers is decided for a complete source. `label_lists` handles lists of labels."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np

from jaxbert.data.label_column import (
    LabelRules,
    Labels,
    as_name,
    both_lists,
    find_places,
    fold,
    is_generic,
    numbers_mean,
    read_list,
    whole_number,
)
from jaxbert.errors import UserError, quoted

_NUMBER = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+")
_PADDED = re.compile(r"-?0[0-9]+")
_EMPTY = {"nan", "<na>", "nat", "null", "#n/a", "#value!", "#ref!", "#name?", "#div/0!"}
"""Texts that programs write for a cell without a value, in lower case."""

MOST_LABELS = 2**17

logger = logging.getLogger("jaxbert")


class Head(NamedTuple):
    """The trained head of a model that is trained further."""

    names: tuple[str, ...]
    """The names of its labels, in index order."""
    model: str
    """The model's name in messages."""

    def has_none_of(self, names: Sequence[str], *, but: str = "") -> bool:
        """Return whether none of `names` is a label of this head, in any spelling; the label `but` does not count."""
        return not ({fold(name) for name in names} & {fold(name) for name in self.names}) - {fold(but)}


def fit_labels(labels: Labels, rules: LabelRules, num_labels: int | None, head: Head | None = None) -> LabelSet:
    """Decide names and indices of the labels from the training examples.

    Names are sorted, or in the order of a trained head. Integers are indices if they run from 0 without a gap, or if
    `num_labels` or the source's names cover them; other integers become names in numeric order.

    Raises:
      UserError: for a single label, if the data contradicts `num_labels` or `data.label_names`, and if labels have two
        possible meanings.
    """
    if head is not None:
        rules = _with_names_of(head, labels, rules, num_labels)
        own = labels.vocabulary.names is not None
        return keep_head(fit_labels(labels, rules, num_labels), labels.source, rules, head, own=own)
    labels = renamed(labels, rules)
    vocabulary, given = labels.vocabulary, rules.names
    numbers = [whole_number(value) for value in vocabulary.values]
    seen = {as_name(v) if number is None else number for v, number in zip(vocabulary.values, numbers, strict=True)}
    if len(seen) < 2:
        raise UserError(f"{labels.source}: every label is {min(seen)!r}: at least two different labels are needed")
    if given is not None and len(set(given)) < len(given):
        raise UserError(f"data.label_names names a label twice: {quoted(given)}")
    integers = {number for number in numbers if number is not None}
    if len(integers) < len(seen) or rules.format == "names":
        if rules.format == "indices":
            code = next((i for i, number in enumerate(numbers) if number is None), 0)
            _refuse_index(labels, code, "a whole number")
        if vocabulary.names is None or len(integers) < len(seen):
            return _fit_names(labels, rules, num_labels)
    if vocabulary.names is not None and not (given and (is_generic(vocabulary.names) or vocabulary.names == BOOLEANS)):
        return _fit_own(integers, labels, given, num_labels)
    if rules.format == "indices" and min(integers) < 0:
        _refuse_index(labels, numbers.index(min(integers)), "0 or more")
    if given is not None:
        return _fit_given(integers, labels, rules, num_labels)
    return _fit_integers(integers, labels, rules, num_labels)


def _with_names_of(head: Head, labels: Labels, rules: LabelRules, num_labels: int | None) -> LabelRules:
    """Use a head's names as `data.label_names` if they are `num_labels` names and include all labels of the data."""
    if rules.names is not None or num_labels != len(head.names) or is_generic(head.names):
        return rules
    vocabulary = renamed(labels, rules).vocabulary
    numbers = [whole_number(value) for value in vocabulary.values]
    if vocabulary.names is None and None not in numbers and numbers_mean(head.names) != "name":
        return rules
    seen = vocabulary.names or [as_name(value) for value in vocabulary.values]
    known = set(map(fold, head.names))
    return rules._replace(names=list(head.names)) if {fold(name) for name in seen} <= known else rules


def _refuse_index(labels: Labels, code: int, expected: str) -> NoReturn:
    value = labels.vocabulary.values[code]
    raise UserError(
        f"{labels.place(code)}: label {value!r} is not an index, which is {expected} (data.label_format is indices): "
        "correct it"
    )


def _fit_own(seen: set[int], labels: Labels, given: list[str] | None, num_labels: int | None) -> LabelSet:
    """Return the labels of a source that names its integers."""
    own, source = labels.vocabulary.names or [], labels.source
    if min(seen) < 0 or max(seen) >= len(own):
        raise UserError(f"{source} has labels up to {max(seen)}, but names only {quoted(own)}")
    names = tuple(dict.fromkeys(own))  # the user's map may give two one name
    if given is not None:
        places = find_places(names, given, source)
        if len(places) < len(names):
            raise UserError(
                f"data.label_names differs from the names that {source} gives to its labels: remove data.label_names, or "
                f"rename by data.label_map: {both_lists(names, given, 'data.label_names')}"
            )
        if len(given) != (num_labels or len(names)):
            raise UserError(_say_count(given, source, len(names)))
        in_order = [places[name] for name in own] == list(range(len(given)))
        return LabelSet(tuple(given), "index" if in_order else "name")
    if num_labels not in (None, len(names)):
        raise UserError(
            f"model.num_labels is {num_labels}, but {source} has {len(names)} labels ({quoted(names)}): remove "
            "model.num_labels"
        )
    return LabelSet(names, "index" if len(names) == len(own) else "name")


def _say_count(given: list[str], source: str, count: int) -> str:
    return (
        f"data.label_names has {len(given)} names, but {source} has {count} labels (0 to {count - 1}); if some "
        f"have no example, set model.num_labels to {len(given)}"
    )


def _fit_given(seen: set[int], labels: Labels, rules: LabelRules, num_labels: int | None) -> LabelSet:
    """Decide whether `data.label_names` has the integers as names, or names for the integers in order from 0."""
    given, source = rules.names or [], labels.source
    count = num_labels or max(seen) + 1
    meant = "index" if rules.format == "indices" else numbers_mean(given)
    covered = min(seen) >= 0 and max(seen) < count
    named = set(map(str, seen)) <= set(given)
    if meant is None and named and covered:
        raise UserError(
            f"{labels.place(0)}: label {as_name(labels.vocabulary.values[0])} can be a name or an index beside "
            f"data.label_names {quoted(given)}: set data.label_format to names or indices"
        )
    if meant == "name" or (meant is None and named):
        return _fit_names(labels, rules, num_labels)
    if not covered:
        asked = f" below model.num_labels ({num_labels})" if num_labels else ""
        raise UserError(
            f"{source}: data.label_names are the names of the labels 0, 1, 2 and so on{asked}, but the data has "
            f"the labels {quoted(sorted(seen))}"
        )
    if len(given) != count:
        raise UserError(_say_count(given, source, count))
    return LabelSet(tuple(given), "index")


def _fit_integers(seen: set[int], labels: Labels, rules: LabelRules, num_labels: int | None) -> LabelSet:
    """Decide whether integers without names are indices or names."""
    source, indices = labels.source, rules.format == "indices"
    count = num_labels or max(seen) + 1
    covered = min(seen) >= 0 and max(seen) < count
    if indices and count > MOST_LABELS:
        raise UserError(
            f"{source} has the index {max(seen)}, but there can be {MOST_LABELS} labels (data.label_format)"
        )
    if covered and (num_labels is not None or indices or len(seen) == count):
        if lacking := sorted(set(range(count)) - seen):
            because = "as data.label_format says" if indices else f"below model.num_labels ({num_labels})"
            message = "%s: the labels %s are indices, %s; no example has %s"
            logger.warning(message, source, _some(sorted(seen)), because, _some(lacking))
        return LabelSet(tuple(f"LABEL_{index}" for index in range(count)), "index")
    if indices:
        raise UserError(f"model.num_labels is {num_labels}, but {source} has the index {max(seen)}: raise it")
    _check_count(sorted(seen), source, num_labels)
    message = "%s: the numbers %s are taken as names of %d labels, for they are not 0, 1, 2 and so on"
    logger.warning(message, source, _some(sorted(seen)), len(seen))
    return LabelSet(tuple(map(str, sorted(seen))), "name")


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown}, ... {numbers[-1]}"


def _fit_names(labels: Labels, rules: LabelRules, num_labels: int | None) -> LabelSet:
    given, source = rules.names, labels.source
    values = labels.vocabulary.values
    numbers = [whole_number(value) for value in values]
    written = rules.format == "names" or None in numbers
    names = [as_name(value) if written else str(number) for value, number in zip(values, numbers, strict=True)]
    seen = sorted(set(names), key=lambda name: (whole_number(name) or 0, name) if None not in numbers else (0, name))
    if given is None:
        if rules.format != "names":
            _check_readings(labels, names)
        _check_count(seen, source, num_labels)
        return LabelSet(tuple(seen), "name")
    places = find_places(seen, given, source)
    if len(places) < len(seen) or len(given) != (num_labels or len(seen)):
        raise UserError(
            f"data.label_names ({quoted(given)}) and the labels of {source} ({quoted(seen)}) differ; if some "
            f"have no example, set model.num_labels to {len(given)}"
        )
    return LabelSet(tuple(given), "name")


def _check_readings(labels: Labels, names: list[str]) -> None:
    """Raise `UserError` for names that are likely numbers, lists or empty cells, or for one name in two spellings."""
    fractional = [code for code, name in enumerate(names) if "." in name or "," in name]
    if fractional and all(_NUMBER.fullmatch(name) for name in names):
        raise UserError(
            f"{labels.place(fractional[0])}: the labels are fractional numbers ({quoted(sorted(names), 5)}): set task: "
            "regression, or, if they are names, list them in data.label_names"
        )
    as_written = "if it is the name of a label, set data.label_format to names"
    for code, name in enumerate(names):
        if name.lower() in _EMPTY:
            raise UserError(f"{labels.place(code)}: label {name!r} means a missing value: remove the row; {as_written}")
        if name[:1] in ("[", "(", "{") and read_list(name) is not None:
            raise UserError(
                f"{labels.place(code)}: label {name!r} is a list: if a text has several labels, set task: multi_label; "
                f"{as_written}"
            )
    _check_mixture(labels, names)
    first: dict[str, int] = {}
    for code, name in enumerate(names):
        other = first.setdefault(fold(name), code)
        if names[other] != name:
            raise UserError(
                f"{labels.place(code)}: label {name!r} differs only in its spelling from {names[other]!r} "
                f"({labels.place(other)}): to make them one, set data.label_map to {{{name}: {names[other]}}}; if they are "
                "two, set data.label_format to names"
            )


def _check_mixture(labels: Labels, names: list[str]) -> None:
    """Raise `UserError` for whole numbers mixed with other names; numbers padded with zeros are always names."""
    whole = np.array([whole_number(value) is not None for value in labels.vocabulary.values])
    other = np.array([not is_whole and not _PADDED.fullmatch(n) for is_whole, n in zip(whole, names, strict=True)])
    if not (whole.any() and other.any()):
        return
    counts = np.bincount(labels.codes, minlength=len(names))
    rare = whole if counts[whole].sum() < counts[other].sum() else other
    code = int(np.flatnonzero(rare)[0])
    kinds = ("a number", "names") if rare is whole else ("no whole number", "numbers")
    most = quoted([name for name, is_rare in zip(names, rare, strict=True) if not is_rare], 5)
    raise UserError(
        f"{labels.place(code)}: label {names[code]!r} is {kinds[0]}, but most labels are {kinds[1]} ({most}): correct it or "
        "remove the row; if all are names, set data.label_format to names"
    )


def _check_count(seen: Sequence[str | int], source: str, num_labels: int | None) -> None:
    if num_labels is not None and num_labels != len(seen):
        raise UserError(f"model.num_labels is {num_labels}, but {source} has {len(seen)} labels: {quoted(seen)}")


def say_replaced(head: Head, names: Sequence[str], source: str, what: str = "labels", hint: str = "") -> None:
    """Warn that a trained head has none of the labels or tags, so that a new head is drawn."""
    message = "%s: none of the %s %s is one of %s's (%s): a new head is drawn%s"
    logger.warning(message, source, what, quoted(names, 5), head.model, quoted(head.names, 5), hint)


def keep_head(
    label_set: LabelSet, source: str, rules: LabelRules, head: Head, *, named: bool = False, own: bool = False
) -> LabelSet:
    """Return the labels of a training set in the order of a trained head, if the head has the same names.

    Args:
      label_set: the labels of the training data alone.
      source: the name of the training data in messages.
      rules: the settings for labels.
      head: the trained head. If it has another number of labels, or none of these, a new head is drawn, and the labels keep
        their order.
      named: whether the source itself names the positions of its multi-hot lists.
      own: whether the data set itself names its integers, so that other names are a mistake.

    Raises:
      UserError: if only some names are the head's, or the labels cannot be matched to the head's.
    """
    known, names = head.names, label_set.names
    if len(known) != len(names):
        if set(map(fold, names)) < set(map(fold, known)):
            message = "%s has %d of the %d labels of %s: to keep its head, set model.num_labels to %d"
            logger.warning(message, source, len(names), len(known), head.model, len(known))
        return label_set
    if is_generic(names) and (is_generic(known) or rules.format in ("indices", "multi_hot")):
        return dataclasses.replace(label_set, names=names if is_generic(known) else known)
    new = "or set model.head to new, for a head without its training"
    if is_generic(names):
        raise UserError(
            f"{source}: its numbers may or may not be indices of the labels of {head.model}, {quoted(known)}: set "
            f"data.label_format to {'multi_hot' if label_set.integers == 'position' else 'indices'}, {new}"
        )
    if is_generic(known) and label_set.integers != "name":
        logger.warning("%s: its numbers are taken as indices of the labels of %s", source, head.model)
        return label_set
    places = find_places(names, known, source)
    if not own and head.has_none_of(names):
        say_replaced(head, names, source, hint="; data.label_map may rename them to keep it")
        return dataclasses.replace(label_set, new_head=True)
    if len(places) < len(names):
        raise UserError(
            f"{head.model} has a trained head for other labels: {both_lists(names, known, head.model)}; {new}"
        )
    in_order = list(places.values()) == list(range(len(known)))
    if not in_order and label_set.integers == "position" and not named:
        raise UserError(
            f"{source}: data.label_names has the labels of {head.model} in another order ({quoted(known)}), which lists of "
            f"0 and 1 must follow: write the columns in its order, {new}"
        )
    if in_order:
        return dataclasses.replace(label_set, names=known)
    logger.warning(
        "%s: the labels are in the order of %s, whose head is trained further: %s", source, head.model, quoted(known)
    )
    return LabelSet(known, "name" if label_set.integers == "index" else label_set.integers)


IntegerLabels = Literal["index", "name", "position", "either"]
BOOLEANS = ["false", "true"]


@dataclass(frozen=True)
class LabelSet:
    """The names of the labels, in index order.

    `integers` is the meaning of an integer in a label column: the index itself ("index"), the name of a label ("name":
    training had 1..5, for instance), or in multi-hot lists whether the label at that position is given ("position").
    "either" is for labels of a model without this record: the names decide.
    """

    names: tuple[str, ...]
    integers: IntegerLabels = "either"
    new_head: bool = False
    """Whether the model's trained head has none of these labels, so that a new head is drawn."""

    def __len__(self) -> int:
        return len(self.names)


def meaning_of(labels: Labels, label_set: LabelSet | None) -> str:
    """Return the meaning of the values in a label column: "name", "index", "multi-hot position" or "score".

    An integer stands for a name if the source names its integers, or the integers are the names of the model's labels.

    Args:
      labels: the labels as read.
      label_set: the labels of the task; None for scores.
    """
    if label_set is None:
        return "score"
    values = labels.vocabulary.values
    if labels.vocabulary.marks or (
        label_set.integers == "position" and any(isinstance(value, dict) for value in values)
    ):
        return "multi-hot position"
    members = [member for value in values for member in (value if isinstance(value, list) else [value])]
    numbers = any(isinstance(member, dict) or whole_number(member) is not None for member in members)
    meant = numbers_mean(label_set.names) if label_set.integers == "either" else label_set.integers
    return "name" if not numbers or labels.vocabulary.names or meant == "name" else "index"


def count_labels(encoded: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Return how many examples have each label, in the order of `names`.

    Args:
      encoded: int32 [N], the index of each example's label, or bool [N, C], whether each example has each label.
      names: all labels.
    """
    counts = np.bincount(encoded, minlength=len(names)) if encoded.ndim == 1 else encoded.sum(0)
    return dict(zip(names, counts.tolist(), strict=True))


def renamed(labels: Labels, rules: LabelRules) -> Labels:
    """Return labels with the names of the user's map."""
    if not rules.map:
        return labels
    vocabulary = labels.vocabulary

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(member) for member in value]
        spellings = () if isinstance(value, dict) else _spellings(value)
        return next((rules.map[spelling] for spelling in spellings if spelling in rules.map), value)

    if vocabulary.names is None:
        return dataclasses.replace(
            labels, vocabulary=dataclasses.replace(vocabulary, values=list(map(rename, vocabulary.values)))
        )
    names = [rules.rename(name) for name in vocabulary.names]
    return dataclasses.replace(labels, vocabulary=dataclasses.replace(vocabulary, names=names))


def written_names(labels: Labels) -> set[str]:
    """Return all names of labels in a source, as they were written."""
    if labels.vocabulary.names is not None:
        return set(labels.vocabulary.names)
    values = [
        member for value in labels.vocabulary.values for member in (value if isinstance(value, list) else [value])
    ]
    return {spelling for value in values if not isinstance(value, dict) for spelling in _spellings(value)}


def _spellings(value: Any) -> tuple[str, ...]:
    """Return a value as it was written, and as a whole number if it is one."""
    number = whole_number(value)
    return (str(value),) if number is None else (str(value), str(number))


def encode(labels: Labels, label_set: LabelSet, rules: LabelRules = LabelRules()) -> np.ndarray:  # noqa: B008 (frozen)
    """Return the index of each label, int32 [N].

    Raises:
      UserError: for the first label that is not in the set, and if a number has two possible meanings.
    """
    labels = renamed(labels, rules)
    vocabulary = labels.vocabulary
    numbers = [whole_number(value) for value in vocabulary.values]
    own = _own_names(labels, label_set, rules) if None not in numbers else None
    meant = "name"
    if own is None and any(number is not None for number in numbers):
        meant = _integers_mean(labels, label_set, rules)
    indices, names = np.full(len(numbers), -1, np.int32), {}
    for code, (value, number) in enumerate(zip(vocabulary.values, numbers, strict=True)):
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
        code = int(np.flatnonzero(indices == -1)[0])  # codes are in the order of the records
        raise UserError(_unknown(labels, code, label_set, own, meant))
    return indices[labels.codes]


def _own_names(labels: Labels, label_set: LabelSet, rules: LabelRules) -> list[str] | None:
    """Return a source's names for its integers; None if it has none, or the integers can be taken as indices."""
    own, known = labels.vocabulary.names, label_set.names
    if (
        own is None
        and rules.names is not None
        and rules.format != "names"
        and label_set.integers == "name"
        and numbers_mean(rules.names) == "likely"
    ):
        return rules.names  # in order from 0, whatever the order of the model
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
        code = next(code for code, value in enumerate(labels.vocabulary.values) if whole_number(value) is not None)
        raise UserError(
            f"{labels.place(code)}: label {as_name(labels.vocabulary.values[code])} can be the name of a label or its "
            f"index, for the model's labels are {quoted(label_set.names)}: set data.label_format to names or indices"
        )
    if meant == "likely":
        meant = "index"
        named = ", ".join(f"{index} is {name!r}" for index, name in enumerate(label_set.names[:5]))
        logger.warning("%s: numbers are taken as indices of the model's labels: %s", labels.source, named)
    return meant


def _unknown(labels: Labels, code: int, label_set: LabelSet, own: list[str] | None, meant: str) -> str:
    """Return the message for a value that is no known label."""
    value, known = labels.vocabulary.values[code], label_set.names
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
