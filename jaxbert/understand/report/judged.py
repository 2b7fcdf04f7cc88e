"""Judge the answer to each example of a held-out set: how good it is, and how sure the model was.

All sections of the report read these judgements: slices, coverage, reliability and the worst examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.tasks.base import Outcome, Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.question_answering.squad_scores import exact_and_f1, has_chinese
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import PlainTags, TokenClassification
from jaxbert.train.inference import Finished


@dataclass(frozen=True, eq=False)
class Gains:
    """How good each answer is. The score of some examples is the sum of `gained` divided by the sum of `possible`."""

    measure: str
    """The name of the score."""
    gained: np.ndarray
    """float64 [N]"""
    possible: np.ndarray
    """float64 [N]; 1 for each example where the score is a mean."""
    confidence: np.ndarray | None = None
    """The probability that the model gave its answer, float64 [N]; None where answers have none."""
    correct: np.ndarray | None = None
    """Whether each answer is right, bool [N]; None where answers are not simply right or wrong."""
    is_error: bool = False
    """Whether a smaller score is better."""

    def score(self, chosen: np.ndarray | slice = slice(None)) -> float | None:
        """Return the score of some examples; None if nothing can be scored."""
        whole = float(self.possible[chosen].sum())
        return float(self.gained[chosen].sum()) / whole if whole else None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A held-out set of a complete run, with what several sections need of it."""

    finished: Finished
    name: str
    """Its name in the data table: `validation`, `validation.en`, `test`."""
    outcome: Outcome

    @property
    def task(self) -> Task:
        """The task of the run."""
        return self.outcome.task

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the set, as in `summary.json`."""
        role, _, own = self.name.partition(".")
        found = self.finished.summary["test" if role == "test" else "eval"] or {}
        return found["sets"][own] if own and "sets" in found else found

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """The answers of `jaxbert predict` for all examples."""
        return self.outcome.answers()

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example, int64 [N]; the tokens that its windows share count twice."""
        examples = self.outcome.examples
        lengths = np.asarray(examples.tokens.lengths, np.int64)
        return lengths if examples.windows is None else examples.windows.sum(lengths)

    @cached_property
    def judged(self) -> Gains | None:
        """The judgement of each example; None for a task without answers, or of another package."""
        for kind, judge in _JUDGES.items():
            if isinstance(self.task, kind):
                return judge(self)
        return None


def labels_of(held_out: HeldOut) -> np.ndarray:
    """Return the labels of a set, [N, ...]."""
    labels = held_out.outcome.examples.labels
    assert labels is not None
    return np.asarray(labels)


def _one_label(held_out: HeldOut) -> Gains:
    probabilities, labels = held_out.outcome.probabilities, labels_of(held_out)
    assert probabilities is not None
    right = probabilities.argmax(-1) == labels
    return _of_right("accuracy", right, probabilities.max(-1))


def _of_right(measure: str, right: np.ndarray, confidence: np.ndarray) -> Gains:
    known = confidence if np.isfinite(confidence).all() else None  # a diverged model has none
    return Gains(measure, right.astype(np.float64), np.ones(len(right)), known, right)


def _labels(held_out: HeldOut) -> Gains:
    labels, given = given_labels(held_out)
    return Gains("micro F1", 2.0 * (labels & given).sum(1), (labels.sum(1) + given.sum(1)).astype(np.float64))


def given_labels(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the given labels of a task with several labels, bool [N, C]."""
    outcome = held_out.outcome
    labels, given = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    return labels > 0, given > 0


def scores_of_set(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted scores of a regression, float64 [N]."""
    outcome = held_out.outcome
    labels, found = outcome.task.labels_and_answers(outcome.predictions, outcome.examples)
    return np.asarray(labels, np.float64), np.asarray(found, np.float64)


def _score(held_out: HeldOut) -> Gains:
    labels, found = scores_of_set(held_out)
    return Gains("mean absolute error", np.abs(found - labels), np.ones(len(labels)), is_error=True)


def _tags(held_out: HeldOut) -> Gains:
    outcome = held_out.outcome
    pairs = zip(*outcome.task.labels_and_answers(outcome.predictions, outcome.examples), strict=True)
    right = [(sum(a == b for a, b in zip(gold, found, strict=True)), len(gold)) for gold, found in pairs]
    gained, possible = np.array(right, np.float64).reshape(-1, 2).T
    return Gains("accuracy of words", gained, possible)


def _entities(held_out: HeldOut) -> Gains:
    counts = []
    for gold, answer in zip(held_out.outcome.examples.extra.spans, held_out.answers, strict=True):
        found = {(part["start"], part["end"], part["label"]) for part in answer["entities"]}
        counts.append((2 * len(found & {tuple(span) for span in gold}), len(found) + len(set(gold))))
    gained, possible = np.array(counts, np.float64).reshape(-1, 2).T
    return Gains("F1 of entities", gained, possible)


def _answered(held_out: HeldOut) -> Gains:
    rows = []
    for question, answer in zip(held_out.outcome.examples.extra.questions.items, held_out.answers, strict=True):
        gold = [right.text for right in question.answers]
        rows.append((*exact_and_f1(answer["text"], gold, has_chinese(question.context)), answer["score"]))
    exact, f1, confidence = np.array(rows, np.float64).reshape(-1, 3).T
    return Gains("F1", f1, np.ones(len(f1)), confidence, exact > 0)


_JUDGES: dict[type[Task], Callable[[HeldOut], Gains]] = {
    Classification: _one_label,
    MultipleChoice: _one_label,
    MultiLabel: _labels,
    Regression: _score,
    PlainTags: _tags,
    TokenClassification: _entities,
    QuestionAnswering: _answered,
}
"""By the class of a task, a more special one first."""
