"""Judge the answer to each example of a labelled set: what is right, how good the answer is, and how sure the model was.

Reports and comparisons read these judgements, for every task. The answers are those of `Outcome`; here they get a form in
which those of two models can be compared. The texts are in `records`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jaxbert.tasks.base import Outcome, Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.question_answering.answers import exact_and_f1, has_chinese
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import PlainTags, TokenClassification
from jaxbert.understand.paired import Measure, f1_measure, mean_measure, pearson_measure, share_measure

_MOST_LABELS = 1000
"""The most labels for which the macro mean of F1 is made: it needs three numbers of each example for each label."""


@dataclass(frozen=True, eq=False)
class Judged:
    """The answers to N examples beside what is right; every list and array has N entries."""

    expected: list[Any]
    """The right answers: a label, a tuple of labels or tags, a number, the number of a choice, a tuple of texts."""
    given: list[Any]
    """The model's answers, in the same form; a single text for a question."""
    makers: Mapping[str, Callable[[], Measure]]
    """The metrics that are functions of sums over examples, by name, the main one first; each is made when it is needed."""
    right: np.ndarray | None
    """Whether each answer is completely right, bool [N]; None for numbers."""
    distance: np.ndarray
    """How wrong each answer is, float64 [N]: the missing probability of the right answer, or the size of the error."""
    confidence: np.ndarray | None = None
    """The probability that the model gave its answer, float64 [N]; None where answers have none, or are not finite."""


def judge(outcome: Outcome) -> Judged | None:
    """Judge the answers of an outcome; None for a task without answers, or of another package."""
    for kind, judge_task in _JUDGES.items():
        if isinstance(outcome.task, kind):
            return judge_task(outcome)
    return None


def _sure(confidence: np.ndarray) -> np.ndarray | None:
    return confidence if np.isfinite(confidence).all() else None  # a diverged model has none


def _one_label(outcome: Outcome) -> Judged:
    task, probabilities, labels = outcome.task, outcome.probabilities, np.asarray(outcome.examples.labels)
    assert isinstance(task, Classification)
    assert probabilities is not None
    chosen, names, every = task.decision.choose(probabilities), task.label_names, np.arange(len(labels))
    right = chosen == labels

    def macro() -> Measure:
        wanted, found = (np.eye(len(names))[of] for of in (labels, chosen))
        return f1_measure("f1_macro", wanted * found, found, wanted)

    makers: dict[str, Callable[[], Measure]] = {"accuracy": partial(mean_measure, "accuracy", right)}
    makers |= {"f1_macro": macro} if len(names) <= _MOST_LABELS else {}
    return Judged(
        expected=[names[i] for i in labels],
        given=[names[i] for i in chosen],
        makers=makers,
        right=right,
        distance=1 - probabilities[every, labels],
        confidence=_sure(probabilities[every, chosen]),
    )


def _choice(outcome: Outcome) -> Judged:
    expected, given = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    probabilities, labels, chosen = outcome.probabilities, np.array(expected), np.array(given)
    assert probabilities is not None
    right, every = labels == chosen, np.arange(len(labels))
    makers = {"accuracy": partial(mean_measure, "accuracy", right)}
    missing = 1 - probabilities[every, labels]
    return Judged(expected, given, makers, right, missing, _sure(probabilities[every, chosen]))


def _labels(outcome: Outcome) -> Judged:
    wanted, found = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    probabilities, names = outcome.probabilities, outcome.task.output_names
    assert probabilities is not None
    right = (wanted == found).all(1)

    def named(rows: np.ndarray) -> list[tuple[str, ...]]:
        return [tuple(sorted(names[i] for i in np.flatnonzero(row))) for row in rows]

    def micro() -> Measure:
        return f1_measure("f1_micro", *(part.sum(1, keepdims=True) for part in (wanted * found, found, wanted)))

    def macro() -> Measure:
        return f1_measure("f1_macro", wanted * found, found, wanted)

    makers: dict[str, Callable[[], Measure]] = {"f1_micro": micro}
    makers |= {"f1_macro": macro} if len(names) <= _MOST_LABELS else {}
    makers["exact_match"] = partial(mean_measure, "exact_match", right)
    return Judged(named(wanted), named(found), makers, right, np.abs(wanted - probabilities).max(1))


def _score(outcome: Outcome) -> Judged:
    both = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    wanted, found = (np.asarray(part, np.float64) for part in both)
    distance = np.abs(found - wanted)
    makers = {
        "pearson": partial(pearson_measure, "pearson", found, wanted),
        "mse": partial(mean_measure, "mse", distance**2),
        "mae": partial(mean_measure, "mae", distance),
    }
    return Judged(wanted.tolist(), found.tolist(), makers, None, distance)


def _tags(outcome: Outcome) -> Judged:
    both = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    expected, given = ([tuple(tags) for tags in part] for part in both)
    right = np.array([one == other for one, other in zip(expected, given, strict=True)])
    hits = np.array([sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(expected, given, strict=True)])
    words = np.array([len(tags) for tags in expected])
    makers: dict[str, Callable[[], Measure]] = {"accuracy": partial(share_measure, "accuracy", hits, words)}
    if not isinstance(outcome.task, PlainTags):
        makers = {"f1": partial(_entity_f1, outcome)}
    return Judged(expected, given, makers, right, (words - hits).astype(np.float64))


def _entity_f1(outcome: Outcome) -> Measure:
    """Return the F1 of entities, which are right if label, start and end are."""
    counts = []
    for spans, answer in zip(outcome.examples.extra.spans, outcome.answers(), strict=True):
        wanted, found = {tuple(span) for span in spans}, entities_of(answer)
        counts.append((len(wanted & found), len(found), len(wanted)))
    hits, found_N, wanted_N = np.array(counts).reshape(-1, 3).T[..., None]
    return f1_measure("f1", hits, found_N, wanted_N)


def entities_of(answer: Mapping[str, Any]) -> set[tuple[int, int, str]]:
    """Return start, end and label of each entity of an answer of `jaxbert predict`."""
    return {(entity["start"], entity["end"], entity["label"]) for entity in answer["entities"]}


def _answers(outcome: Outcome) -> Judged:
    answers, questions = outcome.answers(), outcome.examples.extra.questions.items
    gold = [tuple(right.text for right in question.answers) for question in questions]
    scores = [
        exact_and_f1(answer["text"], texts, has_chinese(question.context))
        for question, texts, answer in zip(questions, gold, answers, strict=True)
    ]
    exact, f1 = np.array(scores, np.float64).reshape(-1, 2).T
    return Judged(
        expected=gold,
        given=[answer["text"] for answer in answers],
        makers={"f1": partial(mean_measure, "f1", f1), "exact_match": partial(mean_measure, "exact_match", exact)},
        right=exact == 1,
        distance=1 - f1,
        confidence=_sure(np.array([answer["score"] for answer in answers], np.float64)),
    )


_JUDGES: dict[type[Task], Callable[[Outcome], Judged]] = {
    Classification: _one_label,
    MultipleChoice: _choice,
    MultiLabel: _labels,
    Regression: _score,
    TokenClassification: _tags,
    QuestionAnswering: _answers,
}
