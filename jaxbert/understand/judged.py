"""What a model answered for each example of a labelled set beside what is right, for every task.

Comparisons read it. The answers are those of `Outcome`; here they get a form in which those of two models can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.table import Row
from jaxbert.errors import UserError
from jaxbert.tasks.base import Outcome
from jaxbert.tasks.question_answering.squad_scores import exact_and_f1, has_chinese
from jaxbert.tasks.text import TextTask
from jaxbert.train.inference import Finished
from jaxbert.understand.paired import Measure, f1_measure, mean_measure, pearson_measure, quotient
from jaxbert.understand.records import read_records

_MOST_LABELS = 1000
"""The most labels for which the macro mean of F1 is compared: its resamples need three numbers for each label."""


@dataclass(frozen=True)
class Judged:
    """The examples of a set with a model's answers; every list has N entries."""

    rows: list[Row]
    """The number of each record in its source, from 1."""
    texts: list[str]
    expected: list[Any]
    """The right answers: a label, a tuple of labels or tags, a number, the number of a choice, a tuple of texts."""
    given: list[Any]
    """The model's answers, in the same form; a single text for a question."""
    measures: list[Measure]
    """The metrics whose difference to another model's is tested, the main one first."""
    right: np.ndarray | None
    """Whether each answer is completely right, bool [N]; None for numbers."""
    distance: np.ndarray
    """How wrong each answer is, float64 [N]: the missing probability of the right answer, or the size of the error."""


def judge(finished: Finished, name: str) -> Judged:
    """Judge the answers of a run's exported model for one of its sets.

    Raises:
      UserError: if the task has no answers to compare, or the texts cannot be read again.
    """
    outcome, task = finished.outcomes[name], finished.model.task
    judges = {
        "classification": _classification,
        "multi_label": _multi_label,
        "regression": _regression,
        "multiple_choice": _multiple_choice,
        "token_classification": _tags,
        "question_answering": _answers,
    }
    if task.name not in judges:
        raise UserError(f"{finished.folder.path} is a run of the task {task.name}, whose answers cannot be compared")
    rows, texts = _texts_of(finished, name)
    expected, given, measures, right, distance = judges[task.name](outcome)
    return Judged(rows, texts, expected, given, measures, right, distance)


_Found = tuple[list[Any], list[Any], list[Measure], np.ndarray | None, np.ndarray]


def _texts_of(finished: Finished, name: str) -> tuple[list[Row], list[str]]:
    """Return the row and the text of each example."""
    outcome, task = finished.outcomes[name], finished.model.task
    examples = outcome.examples
    if isinstance(task, TextTask):
        records = read_records(finished.config, task, name, examples, np.arange(len(examples)))
        texts = [record.text if record.pair is None else f"{record.text}\n{record.pair}" for record in records]
        return [record.row for record in records], texts
    if task.name == "token_classification":
        items = examples.extra.documents.items
        return [item.row for item in items], [
            item.text if item.text is not None else " ".join(item.words or ()) for item in items
        ]
    items = examples.extra.items if task.name == "multiple_choice" else examples.extra.questions.items
    return [item.row for item in items], [item.key().strip("\0").replace("\0", "\n") for item in items]


def _classification(outcome: Outcome) -> _Found:
    expected, given = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    labels, probabilities = np.asarray(outcome.examples.labels), outcome.probabilities
    assert probabilities is not None
    right = np.array([one == other for one, other in zip(expected, given, strict=True)])
    measures = [mean_measure("accuracy", right)]
    names = outcome.task.output_names
    if len(names) <= _MOST_LABELS:
        place = {label: index for index, label in enumerate(names)}
        wanted, found = (np.eye(len(names))[[place[label] for label in of]] for of in (expected, given))
        measures.append(f1_measure("f1_macro", wanted * found, found, wanted))
    return expected, given, measures, right, 1 - probabilities[np.arange(len(labels)), labels]


def _multi_label(outcome: Outcome) -> _Found:
    wanted, found = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    probabilities, names = outcome.probabilities, outcome.task.output_names
    assert probabilities is not None

    def named(rows: np.ndarray) -> list[tuple[str, ...]]:
        return [tuple(sorted(names[i] for i in np.flatnonzero(row))) for row in rows]

    counts = wanted * found, found, wanted
    right = (wanted == found).all(1)
    measures = [f1_measure("f1_micro", *(part.sum(1, keepdims=True) for part in counts))]
    if len(names) <= _MOST_LABELS:
        measures.append(f1_measure("f1_macro", *counts))
    measures.append(mean_measure("exact_match", right))
    return named(wanted), named(found), measures, right, np.abs(wanted - probabilities).max(1)


def _regression(outcome: Outcome) -> _Found:
    wanted, found = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    distance = np.abs(found - wanted)
    measures = [
        pearson_measure("pearson", found, wanted),
        mean_measure("mse", distance**2),
        mean_measure("mae", distance),
    ]
    return wanted.tolist(), found.tolist(), measures, None, distance


def _multiple_choice(outcome: Outcome) -> _Found:
    expected, given = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    probabilities, places = outcome.probabilities, np.array(expected)
    assert probabilities is not None
    right = places == np.array(given)
    missing = 1 - probabilities[np.arange(len(places)), places]
    return expected, given, [mean_measure("accuracy", right)], right, missing


def _tags(outcome: Outcome) -> _Found:
    tags, found = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    expected, given = [tuple(each) for each in tags], [tuple(each) for each in found]
    right = np.array([one == other for one, other in zip(expected, given, strict=True)])
    pairs = [list(zip(one, other, strict=True)) for one, other in zip(expected, given, strict=True)]
    hits = np.array([[sum(a == b for a, b in pair)] for pair in pairs], np.float64)
    words = np.array([[len(pair)] for pair in pairs], np.float64)
    if outcome.examples.extra.spans is not None:
        measures = [_entity_f1(outcome)]
    else:  # plain tags
        measures = [Measure("accuracy", np.concatenate([hits, words], 1), _share)]
    return expected, given, measures, right, (words - hits)[:, 0]


def _share(sums: np.ndarray) -> np.ndarray:
    return quotient(sums[..., 0], sums[..., 1])


def _entity_f1(outcome: Outcome) -> Measure:
    """Return the F1 of entities, which are right if label, start and end are."""
    counts = []
    for gold, answer in zip(outcome.examples.extra.spans, outcome.answers(), strict=True):
        wanted = {(span.start, span.end, span.label) for span in gold}
        found = {(entity["start"], entity["end"], entity["label"]) for entity in answer["entities"]}
        counts.append((len(wanted & found), len(found), len(gold)))
    table = np.array(counts, np.float64)
    return f1_measure("f1", table[:, :1], table[:, 1:2], table[:, 2:])


def _answers(outcome: Outcome) -> _Found:
    gold, given = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    questions = outcome.examples.extra.questions.items
    scores = np.array(
        [
            exact_and_f1(text, texts, has_chinese(question.context))
            for question, texts, text in zip(questions, gold, given, strict=True)
        ]
    )
    measures = [mean_measure("f1", scores[:, 1]), mean_measure("exact_match", scores[:, 0])]
    return [tuple(texts) for texts in gold], given, measures, scores[:, 0] == 1, 1 - scores[:, 1]
