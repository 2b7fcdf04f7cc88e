"""Thresholds, conformal sets and abstaining, against all possibilities, scikit-learn and values counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, log_softmax
from sklearn import metrics as sk
from transformers import BertConfig

from jaxbert.cli.answers import make_writer
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.tokens import LongTexts, Reading, Tokens
from jaxbert.errors import UserError
from jaxbert.ranges import ThresholdRule
from jaxbert.tasks.base import Outcome
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.decision import (
    Conformity,
    Decision,
    Tuning,
    choose_threshold,
    label_thresholds,
    selective_accuracy,
    with_answer_options,
)
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.regression.task import Regression
from jaxbert.train.evaluate import fit_temperature

NAMES = ("ham", "spam")


def examples_of(labels: np.ndarray, counts: np.ndarray | None = None) -> Examples:
    nothing = np.zeros(len(labels) if counts is None else int(counts.sum()), np.int32)
    tokens = Tokens.from_lengths(nothing[:0], nothing, nothing)
    return Examples(tokens, labels, windows=None if counts is None else Windows.of_counts(counts))


def rule(text: str) -> ThresholdRule:
    return ThresholdRule.parse(text, "threshold")


def forecasts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, many of which are equal, and what came true."""
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 12, 60) / 11
    return probabilities, rng.random(60) < probabilities


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("text", ["f_beta=1", "f_beta=2", "precision=0.8", "recall=0.7", "cost=1:5", "cost=9:1"])
def test_no_threshold_is_better_by_its_rule(text, seed):
    probabilities, positive = forecasts(seed)
    wanted = rule(text)

    def worth(threshold: float) -> float:
        given = probabilities >= threshold
        precision = sk.precision_score(positive, given, zero_division=0)
        recall = sk.recall_score(positive, given)
        if wanted.kind == "f_beta":
            return sk.fbeta_score(positive, given, beta=wanted.value, zero_division=0)
        if wanted.kind == "cost":
            return -float((wanted.value * (given & ~positive) + wanted.other * (~given & positive)).mean())
        reached, other = (precision, recall) if wanted.kind == "precision" else (recall, precision)
        return other if reached >= wanted.value else -1.0

    found = choose_threshold(probabilities, positive, wanted)
    assert worth(found.threshold) == pytest.approx(max(worth((cut - 0.5) / 11) for cut in range(13)))
    given = probabilities >= found.threshold
    assert found.precision == pytest.approx(sk.precision_score(positive, given, zero_division=0))
    assert found.recall == pytest.approx(sk.recall_score(positive, given))
    assert (found.cost is None) == (wanted.kind != "cost")


def test_a_threshold_is_half_way_between_two_probabilities():
    found = choose_threshold(np.array([0.9, 0.6, 0.2]), np.array([True, True, False]), rule("f_beta=1"))
    assert found.threshold == pytest.approx(0.4)


def test_what_no_threshold_reaches_is_none():
    probabilities, positive = np.array([0.9, 0.6, 0.2]), np.array([False, True, False])
    assert choose_threshold(probabilities, positive, rule("precision=0.9")) is None
    assert choose_threshold(probabilities, ~positive & False, rule("f_beta=1")) is None
    nobody = choose_threshold(probabilities, positive, rule("cost=10:1"))
    assert nobody.threshold == pytest.approx(0.95)
    assert choose_threshold(np.array([1.0, 1.0]), np.array([True, False]), rule("cost=10:1")).threshold > 1


@pytest.mark.parametrize(
    "text", ["0.5", "f_beta", "f_beta=x", "precision=1.2", "recall=0", "cost=1", "cost=1:-2", "f1=1"]
)
def test_other_rules_are_refused_in_one_line(text):
    with pytest.raises(UserError, match=r"^train.threshold is .* must be f_beta=BETA, .* for instance"):
        ThresholdRule.parse(text, "train.threshold")


def test_the_positive_label_is_named_or_certain():
    tuning = Tuning(threshold=rule("f_beta=1"))
    assert [tuning.positive_of(names) for names in (("no", "yes"), ("1", "0"), ("负面", "正面"))] == [1, 0, 1]
    assert dataclasses.replace(tuning, positive_label="ham").positive_of(NAMES) == 0
    written = ("LABEL_0", "LABEL_1")  # the names of labels that are 0 and 1 in the data
    assert [dataclasses.replace(tuning, positive_label=label).positive_of(written) for label in "01"] == [0, 1]
    with pytest.raises(UserError, match=r"may be 'ham' or 'spam': name it with train.positive_label"):
        tuning.positive_of(NAMES)
    with pytest.raises(UserError, match="'eggs', but the labels are 'ham' and 'spam'"):
        dataclasses.replace(tuning, positive_label="eggs").positive_of(NAMES)
    with pytest.raises(UserError, match="for two labels, but there are 3"):
        tuning.positive_of(("a", "b", "c"))
    with pytest.raises(UserError, match=r"positive_label is the label that train.threshold is for"):
        Tuning.make("none", None, "spam", "one")


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(
        UserError, match=r"train.calibration has no meaning for task regression: it is for classification,"
    ):
        Regression().check_tuning(Tuning(temperature=True))
    with pytest.raises(UserError, match=r"train.thresholds has no meaning for task classification"):
        Classification(NAMES).check_tuning(Tuning(per_label=True))
    with pytest.raises(UserError, match=r"train.threshold has no meaning for task multi_label"):
        MultiLabel(NAMES).check_tuning(Tuning(threshold=rule("f_beta=1")))


def test_a_wrong_choice_is_told_by_the_name_that_the_user_gave():
    with pytest.raises(UserError, match=r"^calibration is 'isotonic', but it must be one of none, temperature$"):
        Tuning.make("isotonic", None, None, "one", "{}".format)
    with pytest.raises(UserError, match=r"^positive_label is 1, but it must be of type str$"):
        Tuning.make("none", "f_beta=1", 1, "one", "{}".format)


def test_each_label_has_its_own_threshold():
    rng = np.random.default_rng(0)
    probabilities = rng.random((80, 3))
    labels = rng.random((80, 3)) < probabilities ** np.array([0.5, 1, 3])
    labels[:, 1] = False
    found = label_thresholds(probabilities, labels, 0.37)
    assert found[1] == 0.37
    for label in (0, 2):
        f1 = sk.f1_score(labels[:, label], probabilities[:, label] >= found[label])
        assert f1 >= max(sk.f1_score(labels[:, label], probabilities[:, label] >= c) for c in np.linspace(0, 1, 50))
    task = MultiLabel((*NAMES, "eggs"), threshold=0.5, thresholds=found)
    log_odds = np.log(probabilities / (1 - probabilities)).astype(np.float32)
    metrics = task.metrics(log_odds, examples_of(labels))
    assert metrics["thresholds"] == dict(zip(("ham", "spam", "eggs"), found, strict=True))
    assert metrics["f1_macro"] == pytest.approx(
        sk.f1_score(labels, probabilities >= np.array(found), average="macro", zero_division=0)
    )
    answers = task.answers(log_odds, examples_of(labels), 0, 80)
    expected = [{n for n, p, t in zip(task.label_names, row, found, strict=True) if p >= t} for row in probabilities]
    assert [set(answer["labels"]) for answer in answers] == expected


def test_the_threshold_decides_answers_metrics_and_labels():
    task = Classification(NAMES, decision=Decision(positive=1, threshold=0.2))
    probabilities = np.array([[0.7, 0.3], [0.9, 0.1], [0.4, 0.6]])
    logs, examples = np.log(probabilities).astype(np.float32), examples_of(np.array([1, 0, 0]))
    answers = task.answers(logs, examples, 0, 3)
    assert [(a["label"], a["score"]) for a in answers] == [("spam", 0.3), ("ham", 0.9), ("spam", 0.6)]
    assert task.metrics(logs, examples)["accuracy"] == pytest.approx(2 / 3)
    assert task.labels_and_answers(logs, examples)[1] == ["spam", "ham", "spam"]


def test_quantiles_of_split_conformal_prediction():
    nine = Conformity.of(1 - np.arange(1, 10) / 10)
    assert nine.least_probability(0.9) == pytest.approx(0.1)  # rank 9 of 9
    assert nine.least_probability(0.5) == pytest.approx(0.5)
    assert nine.least_probability(0.95) == 0.0, "too few to rule out anything"
    assert Conformity.of(np.zeros(0)).least_probability(0.5) == 0.0


def test_label_sets_have_the_true_label_as_often_as_asked():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, (60_000, 4))
    probabilities = np.exp(log_softmax(log_odds, axis=-1))
    labels = (probabilities.cumsum(1) < rng.random((60_000, 1))).sum(1).clip(0, 3)
    own = probabilities[np.arange(60_000), labels]
    conformity = Conformity.of(own[:30_000])
    assert (conformity.examples, len(conformity.scores)) == (30_000, 1000)
    for coverage in (0.5, 0.9, 0.99):
        assert (own[30_000:] >= conformity.least_probability(coverage)).mean() == pytest.approx(coverage, abs=0.01)


def test_answers_with_sets_of_labels_and_without_a_label():
    task = Classification(("a", "b", "c"), decision=Decision(conformity=Conformity(9, (0.1,) * 8 + (0.75,))))
    chosen = with_answer_options(task, 0.6, 0.9)
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    answers = chosen.answers(np.log(probabilities).astype(np.float32), examples_of(np.zeros(2, int)), 0, 2)
    assert [a["label"] for a in answers] == [None, "b"]
    assert [a["label_set"] for a in answers] == [["a", "b"], ["b"]]
    assert [a["score"] for a in answers] == [0.5, 0.8]
    assert tuple(answers[0]) == chosen.answer_keys
    table = make_writer("out.csv", chosen, {}, ",")([({}, answer) for answer in answers])
    assert table == 'label,score,label_set,a,b,c\n,0.5,"a,b",0.5,0.3,0.2\nb,0.8,b,0.1,0.8,0.1\n'
    assert with_answer_options(task, None, None) is task
    for option in ({"abstain_below": 0.5, "coverage": None}, {"abstain_below": None, "coverage": 0.9}):
        with pytest.raises(UserError, match="is for models that choose one of several labels"):
            with_answer_options(Regression(), **option)
    with pytest.raises(UserError, match="--coverage needs the scores of held-out rows"):
        with_answer_options(Classification(NAMES), None, 0.9)


def test_what_abstaining_buys():
    scores, correct = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])
    curve = {
        point["abstain_below"]: (point["answered"], point["accuracy"]) for point in selective_accuracy(scores, correct)
    }
    assert curve == {0.6: (1.0, 0.75), 0.7: (0.75, pytest.approx(2 / 3)), 0.8: (0.5, 1.0)}


def test_an_export_keeps_the_decision():
    decision = Decision(1, 0.25, Conformity(3, (0.1, 0.2, 0.4)), 1.5)
    task = Classification(NAMES, decision=decision)
    plain = BertConfig(id2label=dict(enumerate(NAMES)))
    assert Classification.reopen(task.configure(plain)) == task
    assert Classification.reopen(Classification(NAMES).configure(plain)).decision == Decision()
    several = MultiLabel(NAMES, threshold=0.3, thresholds=(0.2, 0.4), temperature=2.0)
    assert MultiLabel.reopen(several.configure(plain)) == several
    damaged = several.configure(plain)
    damaged.jaxbert["thresholds"] = [0.1]
    with pytest.raises(UserError, match="has not one number for each of 2 labels"):
        MultiLabel.reopen(damaged)
    for conformity in ([], {}, {"examples": 2, "scores": [0.1]}, {"examples": 1, "scores": ["x"]}):
        damaged = task.configure(plain)
        damaged.jaxbert["conformity"] = conformity
        with pytest.raises(UserError, match="`conformity` is damaged"):
            Classification.reopen(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive_label": "eggs"}, "`positive_label` is 'eggs' with the `threshold` 0.25, which is not a threshold"),
        (
            {"threshold": "high"},
            "with the `threshold` 'high', which is not a threshold for one of the labels ham, spam",
        ),
        ({"temperature": 0}, "`temperature` is 0, but it must be a number above 0"),
        ({"temperature": True}, "`temperature` is True"),
    ],
)
def test_a_damaged_decision_is_no_other_decision(changes, message):
    task = Classification(NAMES, decision=Decision(1, 0.25, temperature=1.5))
    damaged = task.configure(BertConfig(id2label=dict(enumerate(NAMES))))
    damaged.jaxbert |= changes
    with pytest.raises(UserError, match=message):
        Classification.reopen(damaged)


def test_a_temperature_moves_a_threshold_so_that_labels_stay():
    log_odds = np.linspace(-4, 4, 41)
    decision = Decision(1, 0.3)
    for temperature in (0.5, 3.0):
        moved = decision.at_temperature(temperature)
        before, after = (np.stack([1 - p, p], 1) for p in (expit(log_odds), expit(log_odds / temperature)))
        np.testing.assert_array_equal(moved.choose(after), decision.choose(before))
        assert moved.temperature == temperature


def softened(rng: np.random.Generator, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are three times too large, float32, and labels."""
    logits = rng.normal(0, 1.5, (count, classes))
    labels = np.array([rng.choice(classes, p=row) for row in np.exp(log_softmax(logits, axis=-1))])
    return (3 * logits).astype(np.float32), labels


def test_the_temperature_is_found():
    rng = np.random.default_rng(0)
    logits, labels = softened(rng, 4000, 4)
    task = Classification(("a", "b", "c", "d"))
    logs = log_softmax(logits, axis=-1)
    outcomes = [Outcome(task, examples_of(labels[part]), logs[part]) for part in (slice(0, 1000), slice(1000, 4000))]
    found = fit_temperature(task, outcomes)
    assert found == pytest.approx(3, rel=0.05)
    cooled = task.metrics(log_softmax(logs / found, axis=-1), examples_of(labels))
    assert cooled["calibration_error"] < 0.02 < task.metrics(logs, examples_of(labels))["calibration_error"]
    odds = rng.normal(0, 1.5, (2000, 3))
    several = MultiLabel(("a", "b", "c"))
    present = rng.random(odds.shape) < expit(odds)
    assert fit_temperature(several, [Outcome(several, examples_of(present), 3 * odds)]) == pytest.approx(3, rel=0.05)


def test_without_a_smallest_loss_there_is_no_temperature():
    task, logs = Classification(NAMES), log_softmax(np.array([[3.0, 0.0], [0.0, 2.0]]), axis=-1)
    assert fit_temperature(task, [Outcome(task, examples_of(np.array([0, 1])), logs)]) is None
    assert fit_temperature(task, [Outcome(task, examples_of(np.array([1, 0])), logs)]) is None
    assert fit_temperature(task, [Outcome(task, examples_of(np.array([1, 0])), logs * np.nan)]) is None


@pytest.mark.parametrize("how", ["mean", "max"])
def test_the_loss_at_a_temperature_is_that_of_pooled_windows(how):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, 30)
    logits, reading = rng.normal(0, 2, (counts.sum(), 3)), Reading(LongTexts("windows", 4), how, 16)
    one, some = rng.integers(0, 3, 30).astype(np.int32), rng.random((30, 3)) < 0.3
    for kind, labels in ((Classification, one), (MultiLabel, some)):
        task, examples = kind(("a", "b", "c"), reading=reading), examples_of(labels, counts)
        expected = task.metrics(logits / 1.7, examples)["loss"]
        assert task.loss_at(1.7, logits, examples) == pytest.approx(expected, rel=1e-6)
