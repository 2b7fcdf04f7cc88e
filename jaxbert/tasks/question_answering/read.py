"""Read questions with their contexts and answers: SQuAD's nested JSON, or one record for each question.

The context must have an answer's text at the answer's start. `windows` finds the tokens of an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.data.files import existing_file
from jaxbert.data.items import ItemSet, ItemSource, hold_items, read_by
from jaxbert.data.label_lists import MARKS
from jaxbert.data.records import TABLES, Items, Keeper, is_table, missing_column, open_records, text_of, wrong_kind
from jaxbert.data.sources import Role, name_of
from jaxbert.data.table import Facts, Problem, Row, at_row, is_missing, row_of
from jaxbert.errors import UserError, shorten


@dataclass(frozen=True)
class Answer:
    """An answer: its text, and its first character in the context."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a context, with its answers; without any if the context has none or they are not read."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    row: Row = field(default=0, compare=False)
    """The number of its record, from 1."""
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The columns that are copied to the answer."""

    def pack(self) -> list[Any]:
        """Return plain values for JSON."""
        return [
            self.id,
            self.question,
            self.context,
            [[answer.text, answer.start] for answer in self.answers],
            self.row,
        ]

    @classmethod
    def unpack(cls, values: list[Any]) -> Question:
        """Return the question that `pack` turned into plain values."""
        name, question, context, answers, row = values
        return cls(name, question, context, tuple(Answer(*answer) for answer in answers), row_of(row))

    def key(self) -> str:
        """Return the question and its context."""
        return f"{self.question.strip()}\0{self.context}"

    def group(self) -> str:
        """Return the context, whose questions must all be in one of training and validation."""
        return self.context


@dataclass(frozen=True)
class Questions(ItemSet[Question]):
    """The questions of a source."""

    form = Question

    @classmethod
    def survey(cls, items: Sequence[Question], notes: dict[str, Any]) -> None:
        """Note whether a question has no answer."""
        notes["unanswered"] = notes.get("unanswered", False) or any(not item.answers for item in items)


def open_questions(
    spec: str, data: DataConfig, *, role: Role, labelled: bool, limit: int | None = None, kept: tuple[str, ...] = ()
) -> ItemSource[Question]:
    """Find the questions of a source; answers are read only if `labelled`. The columns `kept` are copied to predictions.

    Raises:
      UserError: for a source that is missing or unreachable.
    """
    if not is_table(spec):
        existing_file(spec)
        kinds = " ".join(TABLES)
        raise UserError(f"{spec}: questions are read from SQuAD's JSON or from records: it must be one of {kinds}")
    records = open_records(spec, role, data)

    def read(facts: Facts) -> Iterator[Question]:
        flat = dataclasses.replace(records, begin=lambda facts: _flat(records.begin(facts), data))
        keeper = Keeper(kept)

        def question(record: Mapping[str, Any], row: Row) -> Question:
            found = _from_record(record, row, records.name, data, labelled)
            return dataclasses.replace(found, kept=keeper.copied(record, records.name, row)) if kept else found

        return flat.examples(question, facts)

    how = [labelled, read_by(data)]
    return ItemSource(name_of(spec), read, records.identity, how, "no questions: at least one is needed", limit)


def read_questions(spec: str, data: DataConfig, *, role: Role, labelled: bool, limit: int | None = None) -> Questions:
    """Read the first `limit` questions of a source; answers only if `labelled`.

    Raises:
      UserError: for a missing source, a malformed record, or an answer that is not at its place in the context.
    """
    return hold_items(Questions, open_questions(spec, data, role=role, labelled=labelled, limit=limit))


def _flat(items: Items, data: DataConfig) -> Items:
    """Yield a record for each question; the questions of SQuAD's articles are numbered from 1."""
    number = 0
    for source, row, record in items:
        if isinstance(record, Problem) or "paragraphs" not in record or data.context in record:
            yield source, row, record
            continue
        for paragraph in _inner([record], "paragraphs", at_row(source, row)):
            for entry in _inner([paragraph], "qas", at_row(source, row)):
                number += 1
                answers = {data.answers: entry.get("answers", [])}
                texts = {data.question: entry.get("question"), data.context: paragraph.get("context")}
                yield source, number, {**entry, "id": entry.get("id", number), **texts, **answers}


def _inner(outer: list[Any], key: str, where: str) -> Iterator[Mapping[str, Any]]:
    for item in outer:
        inner = item.get(key) if isinstance(item, dict) else None
        if not isinstance(inner, list) or not all(isinstance(entry, dict) for entry in inner):
            raise UserError(f"{where}: no list of objects under {key!r}: SQuAD's JSON has data, paragraphs and qas")
        yield from inner


def _from_record(record: Mapping[str, Any], row: Row, source: str, data: DataConfig, labelled: bool) -> Question:
    question = text_of(record, data.question, "data.question", source, row)
    context = text_of(record, data.context, "data.context", source, row)
    name = str(record.get("id", row))
    if not labelled:
        return Question(name, question, context, row=row)
    if data.answers not in record:
        raise missing_column(record, data.answers, "data.answers", source, row)
    answers = [] if _is_impossible(record, row, source) else record[data.answers]
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise wrong_kind(answers, data.answers, "lists `text` and `answer_start` of one length", source, row)
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    found = _answers(answers, context, f"{at_row(source, row)}, question {name!r}")
    return Question(name, question, context, found, row)


def _is_impossible(record: Mapping[str, Any], row: Row, source: str) -> bool:
    """Return what a record says of `is_impossible`; where it says nothing, the question has an answer."""
    value = record.get("is_impossible")
    if is_missing(value):
        return False
    mark = MARKS.get(str(value).strip().lower())
    if mark is None:
        raise wrong_kind(value, "is_impossible", "true or false", source, row)
    return mark


def _answers(answers: Any, context: str, where: str) -> tuple[Answer, ...]:
    """Check each answer against its context."""
    if not isinstance(answers, list):
        raise UserError(f"{where}: the answers are {shorten(repr(answers))}, but they must be a list")
    found = []
    for answer in answers:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise UserError(f"{where}: {shorten(repr(answer))} is not an answer: write {{text, answer_start}}")
        if start < 0 or context[start : start + len(text)] != text:
            there = repr(shorten(context[start : start + len(text)])) if 0 <= start < len(context) else "nothing"
            raise UserError(
                f"{where}: the answer {shorten(text)!r} is not at {start} of its context, where {there} "
                "stands: correct answer_start, counted in characters from 0"
            )
        found.append(Answer(text, start))
    return tuple(found)
