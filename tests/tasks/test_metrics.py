"""Every metric knows which way it is better."""

from __future__ import annotations

import math

import pytest

from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.metrics import falls, improves, merit, value_of
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.pretraining.task import Pretraining
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import PlainTags, TokenClassification

ERRORS = ("loss", "mse", "mae", "perplexity", "masked_loss", "nsp_loss", "calibration_error")


def test_errors_fall_and_scores_rise():
    for name in ERRORS:
        assert falls(name)
        assert improves(name, 0.2, 0.3)
        assert not improves(name, 0.3, 0.2)
        assert not improves(name, 0.3, 0.3)
        assert merit(name, 0.3) == -0.3
    for name in ("accuracy", "f1_macro", "f1_macro_present", "mcc", "r2", "nsp_accuracy", "precision_weighted"):
        assert not falls(name)
        assert improves(name, 0.3, 0.2)
        assert not improves(name, 0.2, 0.3)
        assert merit(name, 0.3) == 0.3


TASKS = [
    Classification(("a", "b")),
    Classification(("a", "b", "c")),
    MultiLabel(("a", "b")),
    Regression(),
    TokenClassification(("O", "B-x")),
    PlainTags(("O", "NOUN")),
    PlainTags(("NOUN", "VERB")),
    QuestionAnswering(unanswered=True),
    Pretraining(),
    Pretraining(next_sentence=False),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_every_metric_that_can_choose_a_checkpoint_has_a_direction(task):
    names = task.metric_names()
    assert task.default_metric in names
    assert len(set(names)) == len(names)
    for name in names:
        falls(name)


def test_a_metric_that_nobody_has_named_has_no_direction():
    with pytest.raises(KeyError, match="'fluency' has no direction"):
        falls("fluency")


@pytest.mark.parametrize("name", ["accuracy", "mse"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_worse_than_any(name, value):
    assert not improves(name, value, None)
    assert not improves(name, value, 0.5)
    assert improves(name, 0.5, value)
    assert improves(name, 0.5, None)


def test_the_mean_over_present_labels_is_that_over_all_where_it_is_left_out():
    assert value_of({"f1_macro": 0.5}, "f1_macro_present") == 0.5
    assert value_of({"f1_macro": 0.5, "f1_macro_present": 0.75}, "f1_macro_present") == 0.75
    with pytest.raises(KeyError):
        value_of({"f1_macro": 0.5}, "accuracy")
