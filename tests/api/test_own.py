"""Metrics of the user's program see the labels and answers by which the task counts itself."""

from __future__ import annotations

import numpy as np
import pytest
from runs import VOCAB
from seqeval.metrics import f1_score
from test_items import read
from transformers import BertTokenizer

from jaxbert.api.own import Metric, Own, make_additions, with_own
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.tasks.base import metrics_of
from jaxbert.tasks.metrics import falls
from jaxbert.tasks.pretraining.task import Pretraining
from jaxbert.tasks.regression.task import Regression


def share_equal(labels, predicted):
    return np.mean([label == answer for label, answer in zip(labels, predicted, strict=True)])


def exact(labels, predicted):
    return np.mean([answer in gold if gold else not answer for gold, answer in zip(labels, predicted, strict=True)])


@pytest.mark.parametrize(
    ("kind", "function", "name"),
    [
        ("token_classification", f1_score, "f1"),
        ("spans", f1_score, "f1"),
        ("question_answering", exact, "exact_match"),
        ("multiple_choice", share_equal, "accuracy"),
    ],
)
def test_an_own_metric_counts_as_the_task_does(tmp_path, kind, function, name):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    inputs = read(tmp_path, kind, BertTokenizer(vocab=str(tmp_path / "vocab.txt")), None)
    task = with_own(inputs.task, Own(metrics={"own": function}))
    examples = inputs.validation["validation"]
    count = len(examples.tokens.ids) if task.per_token else len(examples.tokens)
    shape = (count,) if kind == "multiple_choice" else (count, len(task.output_names) or 2)
    predictions = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = metrics_of(task.tally(examples), predictions)
    assert found["own"] == pytest.approx(found[name])
    assert found[name] > 0
    assert "own" in task.metric_names()


def test_what_a_task_does_not_give_is_refused():
    with pytest.raises(UserError, match="metrics of your own need the labels and answers of a task, which pretraining"):
        with_own(Pretraining(), Own(metrics={"own": f1_score}))
    with pytest.raises(
        UserError, match="a loss of your own is for tasks that label complete texts, not for pretraining"
    ):
        with_own(Pretraining(), Own(loss=lambda outputs, batch: outputs))
    make_additions([], {"own_cost": Metric(f1_score, greater_is_better=False)}, None, "own_cost")
    assert falls("own_cost")


LABELS = np.array([1e-5, 3e-5, 2e-5], np.float32)


def tally_of_scores(**metrics):
    task = with_own(Regression(), Own(metrics=metrics))
    lengths = np.ones(3, np.int32)
    examples = Examples(Tokens.from_lengths(np.zeros(3, np.int32), lengths, lengths), LABELS)
    return metrics_of(task.tally(examples), LABELS * 1.3)


def test_scores_are_not_rounded_as_in_answers():
    found = tally_of_scores(own=lambda labels, scores: np.mean((labels - scores) ** 2))
    assert found["own"] == pytest.approx(found["mse"], rel=1e-5)
    assert found["mse"] > 0


@pytest.mark.parametrize("name", ["examples", "sets"])
def test_the_name_of_a_result_is_refused(name):
    with pytest.raises(UserError, match=f"metrics: '{name}' is the name of a result that jaxbert reports"):
        tally_of_scores(**{name: lambda labels, scores: 1.0})


def test_a_metric_that_gives_no_number_is_named():
    with pytest.raises(UserError, match=r"metrics: 'own' gave array.* but it must give a number"):
        tally_of_scores(own=lambda labels, scores: np.array([0.1, 0.2]))


@pytest.mark.parametrize("metrics", [[f1_score], {1: f1_score}])
def test_metrics_have_names(metrics):
    with pytest.raises(UserError, match=r"metrics is .*, but it must be a dictionary of functions by name"):
        make_additions([], metrics, None, None)


def test_a_loss_that_gives_no_array_is_told():
    batch = {"example_mask": np.ones((2, 1), bool), "labels": np.zeros((2, 1), np.float32)}
    task = with_own(Regression(), Own(loss=lambda outputs, batch: None))
    outputs = {"logits": np.zeros((2, 1, 1), np.float32)}
    with pytest.raises(
        UserError, match=r"loss: gives a value of type NoneType \(None\), but it must give an array of losses"
    ):
        task.sums(outputs, batch, {"examples": 2.0}, train=True)
