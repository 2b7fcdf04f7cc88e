"""Answers show all probabilities of a few labels, and the best of many."""

from __future__ import annotations

import numpy as np
import pytest

from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.tasks.top_k import largest, shown_probabilities, with_top_k


def names(count: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(count))


@pytest.mark.parametrize(
    ("labels", "top_k", "shown"),
    [(3, None, 3), (20, None, 20), (21, None, 5), (400, None, 5), (3, 2, 2), (21, 21, 21), (21, 100, 21), (400, 7, 7)],
)
def test_how_many_are_shown(labels, top_k, shown):
    values = np.random.default_rng(0).dirichlet(np.ones(labels))
    found = shown_probabilities(names(labels), values, top_k)
    assert len(found) == shown
    by_name = dict(zip(names(labels), values, strict=True))
    assert found == {name: round(by_name[name], 6) for name in found}
    best = sorted(by_name, key=lambda name: -by_name[name])[:shown]
    assert list(found) == (list(names(labels)) if shown == labels else best)


@pytest.mark.parametrize("count", range(1, 7))
def test_of_equal_values_the_first_come_first(count):
    values = np.array([0.1, 0.3, 0.1, 0.3, 0.1, 0.1])
    assert largest(values, count) == [1, 3, 0, 2, 4, 5][:count]


def test_answers_of_many_labels():
    count = 50
    odds = np.random.default_rng(1).normal(size=(2, count)).astype(np.float32)
    nothing = np.zeros(2, np.int32)
    examples = Examples(Tokens.from_lengths(nothing[:0], nothing, nothing))
    log_probabilities = odds - np.log(np.exp(odds).sum(-1, keepdims=True))
    for answer, row in zip(Classification(names(count)).answers(log_probabilities, examples, 0, 2), odds, strict=True):
        assert list(answer["probabilities"]) == [f"n{i}" for i in np.argsort(-row)[:5]]
        assert next(iter(answer["probabilities"].items())) == (answer["label"], answer["score"])
    task = with_top_k(MultiLabel(names(count), threshold=0.0), 3)
    for answer, row in zip(task.answers(odds, examples, 0, 2), odds, strict=True):
        assert answer["labels"] == [f"n{i}" for i in np.argsort(-row)]
        assert list(answer["probabilities"]) == answer["labels"][:3]


def test_tasks_without_such_probabilities_refuse_it():
    for task in (Regression(), TokenClassification(("O", "B-x"))):
        assert with_top_k(task, None) is task
        with pytest.raises(UserError, match="this model's answers have none: leave it out"):
            with_top_k(task, 3)
