"""Read questions with their choices from any source with a record for each question.

A record has a question, a context or none, and at least two choices: a list in one column, or one column for each. The label
is the right choice's number from 0, its number from 1, its letter or its text; the training examples decide. `task` makes
tokens and predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.items import ItemSet, ItemSource, hold_items, read_by
from jaxbert.data.label_column import read_list, whole_number
from jaxbert.data.sources import Role, Source, open_source
from jaxbert.data.table import BadRows, Facts, Place, Problem, Row, Table, at_row, is_missing, row_of
from jaxbert.errors import UserError, kind_of, shorten

Meaning = Literal["number from 0", "number from 1", "letter", "text"]
"""The meaning of a value in the label column."""
_DEFAULT_CONTEXT = DataConfig.context


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its choices."""

    context: str | None
    question: str
    choices: tuple[str, ...]
    label: Any = None
    """The right choice, as written in the source; None if labels are not read."""
    row: Row = 0
    kept: Mapping[str, Any] = field(default_factory=dict)
    """The columns that are copied to the answer."""

    def pack(self) -> list[Any]:
        """Return plain values for JSON."""
        return [self.context, self.question, self.choices, self.label, self.row]

    @classmethod
    def unpack(cls, values: list[Any]) -> ChoiceQuestion:
        """Return the question that `pack` turned into plain values."""
        context, question, choices, label, row = values
        return cls(context, question, tuple(choices), label, row_of(row))

    def key(self) -> str:
        """Return context, question and choices, without the label."""
        return "\0".join([self.context or "", self.question, *self.choices])

    def group(self) -> str:
        """Return the text whose questions must all be in one of training and validation."""
        return self.question if self.context is None else self.context

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield the two texts of each choice: the context or the question, and the text that completes it."""
        for choice in self.choices:
            yield (self.question, choice) if self.context is None else (self.context, f"{self.question} {choice}")


@dataclass(frozen=True)
class ChoiceQuestions(ItemSet[ChoiceQuestion]):
    """The questions of a source, or of a part of it."""

    form = ChoiceQuestion

    @classmethod
    def survey(cls, items: Sequence[ChoiceQuestion], notes: dict[str, Any]) -> None:
        """Count how many labels fit each meaning, and how many questions have the same answer in two meanings."""
        found = {name: [reading(item.label, item) for item in items] for name, reading in _READINGS.items()}
        fits = notes.setdefault("fits", dict.fromkeys(_READINGS, 0))
        same = notes.setdefault("same", {f"{a}, {b}": 0 for a, b in combinations(_READINGS, 2)})
        for name, choices in found.items():
            fits[name] += sum(choice is not None for choice in choices)
        for a, b in combinations(_READINGS, 2):
            same[f"{a}, {b}"] += sum(one == other for one, other in zip(found[a], found[b], strict=True))

    def content(self) -> Iterator[np.ndarray]:
        """Yield nothing: the checksum of tokens, labels and numbers of choices is enough."""
        return iter(())


def open_choice_questions(
    spec: str, data: DataConfig, *, role: Role, limit: int | None = None, kept: tuple[str, ...] = ()
) -> ItemSource[ChoiceQuestion]:
    """Find questions, with labels unless for prediction; the columns `kept` are copied to the answers.

    The question is the text column of its source; context, choices and label are further columns.

    Raises:
      UserError: for a source that is missing or unreachable.
    """
    columns = tuple(dict.fromkeys((*_choice_columns(data), *kept)))
    optional = (data.context,) if data.context == _DEFAULT_CONTEXT and data.context not in columns else ()
    columns += () if optional or data.context in columns else (data.context,)
    named = dataclasses.replace(data, text=data.question, text_pair=None)
    source = open_source(
        spec, named, role=role, labelled=role != "predict", limit=limit, kept=columns, optional=optional
    )

    return ItemSource(
        name=source.name,
        read=lambda facts: _questions(source, data, role, kept, facts),
        identity=source.identity,
        settings=read_by(data),
        empty="no questions: at least one is needed",
    )


def read_choice_questions(spec: str, data: DataConfig, *, role: Role, limit: int | None = None) -> ChoiceQuestions:
    """Read the first `limit` questions of a source with their labels.

    Raises:
      UserError: for a missing source or a malformed record.
    """
    return hold_items(ChoiceQuestions, open_choice_questions(spec, data, role=role, limit=limit))


def _choice_columns(data: DataConfig) -> list[str]:
    return [data.choices] if isinstance(data.choices, str) else data.choices


def _questions(
    source: Source, data: DataConfig, role: Role, kept: tuple[str, ...], facts: Facts
) -> Iterator[ChoiceQuestion]:
    """Yield the good records; the first bad one ends the program, unless bad records are left out."""
    bad: BadRows | None = None
    for table in _named(source.parts(facts), data):
        bad = bad or BadRows(source.name, data, facts, skippable=role != "predict", counted=False)
        if data.context not in table.kept:
            what = f"no column {data.context!r} (data.context): each choice is read with its question alone"
            facts.say(source.name, what)
        for index in range(len(table)):
            try:
                question = _question(table, index, data, kept)
            except UserError as error:
                bad.note(table.source, Problem(table.rows[index], str(error)))
                if bad.ends:
                    break
                continue
            bad.good(table.source)
            yield question
        bad.raise_first(all_counted=False)
    if bad is not None:
        bad.finish()


def _named(parts: Iterator[Table], data: DataConfig) -> Iterator[Table]:
    """Yield the parts of a source; a message names the columns of questions by their own keys."""
    keys = {data.context: "data.context", **dict.fromkeys(_choice_columns(data), "data.choices")}
    try:
        yield from parts
    except UserError as error:
        message = str(error).replace("(data.text)", "(data.question)")
        for column, key in keys.items():
            message = message.replace(f"no column {column!r} (--keep)", f"no column {column!r} ({key})")
        raise UserError(message) from error


def _question(table: Table, index: int, data: DataConfig, kept: tuple[str, ...]) -> ChoiceQuestion:
    """Return a record as a question.

    Raises:
      UserError: for malformed choices, without the number of the record.
    """
    context = table.kept[data.context][index] if data.context in table.kept else None
    if context is not None and not isinstance(context, str):
        raise UserError(f"column {data.context!r} holds {kind_of(context)}, but it must hold text")
    columns = _choice_columns(data)
    values = [table.kept[name][index] for name in columns]
    choices = _listed(values[0], columns[0]) if isinstance(data.choices, str) else _of_columns(values, columns)
    if len(choices) < 2:
        raise UserError(
            f"a question needs at least two choices, here are {len(choices)} (data.choices): add the others"
        )
    return ChoiceQuestion(
        context=None if context is None or not context.strip() else context,
        question=table.texts[index],
        choices=choices,
        label=None if table.labels is None else _label(table, index),
        row=Place(table.source, table.rows[index]) if table.facts.files else table.rows[index],
        kept={name: table.kept[name][index] for name in kept},
    )


def _label(table: Table, index: int) -> Any:
    """Return a label as it was written, or the source's own name for its number, if that name is no number."""
    assert table.labels is not None
    value, names = table.labels[index], table.label_names
    if not isinstance(value, str | int | float):
        raise UserError(f"the label column holds {kind_of(value)} ({shorten(str(value))}): write text or a number")
    number = None if names is None else whole_number(value)
    if names is None or number is None or not 0 <= number < len(names):
        return value
    return value if all(whole_number(name) is not None for name in names) else names[number]


def _listed(value: Any, column: str) -> tuple[str, ...]:
    """Return the choices in a list, which may be written as text."""
    found = read_list(value.strip()) if isinstance(value, str) else value
    if isinstance(found, Mapping) and isinstance(found.get("text"), list):  # {text: [...], label: [...]}, as ARC has it
        found = found["text"]
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        shown = shorten(repr(value))
        raise UserError(
            f"column {column!r} holds {shown}, but it must hold a list of choices: if each choice has a column of its own, "
            "name the columns with data.choices: [A, B, ...]"
        )
    return tuple(_text(member, column) for member in found)


def _of_columns(values: list[Any], columns: list[str]) -> tuple[str, ...]:
    """Return the choices of several columns; the last ones may be empty."""
    there = [not is_missing(value) for value in values]
    count = there.index(False) if False in there else len(there)
    if any(there[count:]):
        later = columns[there.index(True, count)]
        raise UserError(f"column {columns[count]!r} is empty, but {later!r} is not: fill in the choice")
    return tuple(_text(value, name) for value, name in zip(values[:count], columns, strict=False))


def _text(value: Any, column: str) -> str:
    if is_missing(value):
        raise UserError(f"column {column!r} holds an empty choice: write its text")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"column {column!r} holds {kind_of(value)} as a choice: write its text")
    return str(value)


def _number(label: Any, first: int, question: ChoiceQuestion) -> int | None:
    number = None if isinstance(label, bool) else whole_number(label)
    return None if number is None or not 0 <= number - first < len(question.choices) else number - first


def _letter(label: Any, question: ChoiceQuestion) -> int | None:
    text = str(label).strip().upper()
    number = ord(text) - ord("A") if len(text) == 1 else -1
    return number if 0 <= number < len(question.choices) else None


def _place(label: Any, question: ChoiceQuestion) -> int | None:
    found = [i for i, choice in enumerate(question.choices) if choice.strip() == str(label).strip()]
    return found[0] if len(found) == 1 else None


_READINGS: dict[Meaning, Callable[[Any, ChoiceQuestion], int | None]] = {
    "number from 0": lambda label, question: _number(label, 0, question),
    "number from 1": lambda label, question: _number(label, 1, question),
    "letter": _letter,
    "text": _place,
}
MEANINGS: dict[str, Meaning] = {name: name for name in _READINGS}
"""The possible meanings of a label, by name."""


def fit_meaning(questions: ChoiceQuestions) -> Meaning:
    """Return the one meaning that fits the labels of all training questions.

    Raises:
      UserError: if none fits, or two fit and give different choices.
    """
    fits, same = (questions.notes[name] for name in ("fits", "same"))
    certain = [name for name in _READINGS if fits[name] == len(questions)]
    if certain and all(same[f"{a}, {b}"] == len(questions) for a, b in combinations(certain, 2)):
        return certain[0]
    read = {name: [reading(item.label, item) for item in questions.items] for name, reading in _READINGS.items()}
    fitting = [name for name, found in read.items() if None not in found]
    if not fitting:
        best = max(read, key=lambda name: sum(index is not None for index in read[name]))
        raise _unknown(questions, read[best].index(None), best)
    for name in fitting:
        if read[name] != read[fitting[0]]:
            index = next(i for i, (a, b) in enumerate(zip(read[name], read[fitting[0]], strict=True)) if a != b)
            item = questions.items[index]
            raise UserError(
                f"{at_row(questions.source, item.row)}: the label {shorten(repr(item.label))} can be a {fitting[0]} or a "
                f"{name}, and all labels of the source fit both: write letters (A, B, ...) or the text of the right choice"
            )
    raise AssertionError("the readings that fit agree")


def right_choices(questions: ChoiceQuestions, meaning: Meaning) -> list[int]:
    """Return the index of the right choice of each question, from 0.

    Raises:
      UserError: for a label that names none of its question's choices.
    """
    found = [_READINGS[meaning](item.label, item) for item in questions.items]
    if None in found:
        raise _unknown(questions, found.index(None), meaning)
    return [index for index in found if index is not None]


def _unknown(questions: ChoiceQuestions, index: int, meaning: Meaning) -> UserError:
    item = questions.items[index]
    return UserError(
        f"{at_row(questions.source, item.row)}: the label {shorten(repr(item.label))} is no {meaning} of the question's "
        f"{len(item.choices)} choices: correct it"
    )
