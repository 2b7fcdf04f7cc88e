"""Read questions with the texts that answer them: SQuAD's nested JSON, or records with a question a row.

An answer must stand in its text where it says. What answers mean for a model is `windows`' part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.data.files import JSON_LINES, existing_file
from jaxbert.data.records import TABLES, is_table, missing_column, open_records, text_of, wrong_kind
from jaxbert.data.sources import STDIN, Role
from jaxbert.data.table import at_row, shorten
from jaxbert.errors import UserError, one_line

_MOST_BYTES = 2**30
"""A nested file is read at once; SQuAD 2.0 takes 42 MB."""


@dataclass(frozen=True)
class Answer:
    """A stretch of the context."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a context, with what answers it: nothing where the context does not, or where that is not known."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Questions:
    """The questions of a source."""

    source: str
    items: list[Question]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Iterable[int]) -> Questions:
        """Return some of them."""
        return Questions(self.source, [self.items[i] for i in indices])


def read_questions(spec: str, data: DataConfig, *, role: Role, labelled: bool, limit: int | None = None) -> Questions:
    """Read the first `limit` questions of a source; answers only if it is `labelled`.

    Raises:
      UserError: for anything missing or malformed, and for an answer that is not where it says.
    """
    name = "standard input" if spec == STDIN else spec
    items = list(islice(_questions(spec, data, role, labelled), limit))
    if not items:
        raise UserError(f"{name}: no questions: at least one is needed")
    return Questions(name, items)


def _questions(spec: str, data: DataConfig, role: Role, labelled: bool) -> Iterator[Question]:
    if not is_table(spec):
        existing_file(spec)
        kinds = " ".join(TABLES)
        raise UserError(f"{spec}: questions are read from SQuAD's JSON or from records: it must be one of {kinds}")
    if Path(spec).suffix.lower() in JSON_LINES and not spec.startswith("hf:"):
        nested = _nested(existing_file(spec), spec)
        if nested is not None:
            yield from _from_squad(nested, spec, labelled)
            return
    records = open_records(spec, role)
    with closing(records.rows) as rows:
        for row, record in rows:
            yield _from_record(record, row, records.name, data, labelled)


def _nested(path: Path, source: str) -> list[Any] | None:
    """Return what a nested file holds under `data`; None for a file whose first line is a whole object without it."""
    try:
        with path.open("rb") as stream:
            head = stream.readline(_MOST_BYTES)
            rest = b"" if _is_record(head) else stream.read(_MOST_BYTES + 1 - len(head))
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from error
    if len(head) + len(rest) > _MOST_BYTES:
        raise UserError(f"{source}: larger than {_MOST_BYTES >> 20} MiB: write a JSON object a line")
    try:
        content = json.loads((head + rest).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if rest.strip() and not head.strip().endswith(b"}"):
            raise UserError(f"{source}: neither SQuAD's JSON nor an object a line ({one_line(error)})") from error
        return None  # the reader of lines says in which row what is wrong
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        return content["data"]
    return None


def _is_record(line: bytes) -> bool:
    try:
        return "data" not in json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError, TypeError):
        return False


def _from_squad(articles: list[Any], source: str, labelled: bool) -> Iterator[Question]:
    for number, paragraph in enumerate(_inner(articles, "paragraphs", source), 1):
        context = paragraph.get("context")
        where = f"{source}, paragraph {number}"
        if not isinstance(context, str) or not context.strip():
            raise UserError(f"{where}: no text under 'context'")
        for entry in _inner([paragraph], "qas", where):
            name = str(entry.get("id", ""))
            question = entry.get("question")
            if not isinstance(question, str) or not question.strip():
                raise UserError(f"{where}, question {name!r}: no text under 'question'")
            answers = entry.get("answers", []) if labelled and not entry.get("is_impossible") else []
            found = _answers(answers, context, f"{source}, question {name!r}")
            yield Question(name, question, context, found)


def _inner(outer: list[Any], key: str, where: str) -> Iterator[Mapping[str, Any]]:
    for item in outer:
        inner = item.get(key) if isinstance(item, dict) else None
        if not isinstance(inner, list) or not all(isinstance(entry, dict) for entry in inner):
            raise UserError(f"{where}: no list of objects under {key!r}: SQuAD's JSON has data, paragraphs and qas")
        yield from inner


def _from_record(record: Mapping[str, Any], row: int, source: str, data: DataConfig, labelled: bool) -> Question:
    question = text_of(record, data.question, "data.question", source, row)
    context = text_of(record, data.context, "data.context", source, row)
    name = str(record.get("id", row))
    if not labelled:
        return Question(name, question, context)
    if data.answers not in record:
        raise missing_column(record, data.answers, "data.answers", source, row)
    answers = record[data.answers]
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise wrong_kind(answers, data.answers, "lists `text` and `answer_start` of one length", source, row)
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    return Question(name, question, context, _answers(answers, context, f"{at_row(source, row)}, question {name!r}"))


def _answers(answers: Any, context: str, where: str) -> tuple[Answer, ...]:
    """Check each answer against its context."""
    if not isinstance(answers, list):
        raise UserError(f"{where}: the answers are {shorten(repr(answers))}, but they must be a list")
    found = []
    for answer in answers:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise UserError(f"{where}: {shorten(repr(answer))} is no answer: write {{text, answer_start}}")
        if start < 0 or context[start : start + len(text)] != text:
            there = repr(shorten(context[start : start + len(text)])) if 0 <= start < len(context) else "nothing"
            raise UserError(
                f"{where}: the answer {shorten(text)!r} is not at {start} of its context, where {there} "
                "stands: correct answer_start, counted in characters from 0"
            )
        found.append(Answer(text, start))
    return tuple(found)
