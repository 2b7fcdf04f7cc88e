"""Metrics of predictions that come piece by piece are those of all at once, and need no more memory than they must."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from jaxbert.data.examples import Examples, Windows
from jaxbert.data.tokens import LongTexts, Reading, Tokens
from jaxbert.tasks.base import list_names
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.metrics import LabelScores
from jaxbert.tasks.multi_label import threshold
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multi_label.threshold import ThresholdSearch, best_threshold
from jaxbert.tasks.regression.task import Regression

NAMES = tuple(f"n{i}" for i in range(40))
READINGS = [Reading(), *(Reading(LongTexts("windows", 4), how, 16) for how in ("mean", "max"))]


def examples_of(labels: np.ndarray, counts: np.ndarray | None) -> Examples:
    nothing = np.zeros(len(labels) if counts is None else int(counts.sum()), np.int32)
    tokens = Tokens.from_lengths(nothing[:0], nothing, nothing)
    return Examples(tokens, labels, windows=None if counts is None else Windows.of_counts(counts))


def tasks_and_labels(rng: np.random.Generator, reading: Reading, count: int):
    one = rng.integers(0, 30, count).astype(np.int32)
    some = rng.random((count, len(NAMES))) < 0.1
    yield Classification(NAMES, reading=reading), one, (len(NAMES),)
    yield MultiLabel(NAMES, reading=reading), some, (len(NAMES),)
    yield MultiLabel(NAMES, reading=reading, threshold=0.7), some, (len(NAMES),)
    yield Regression(reading), one.astype(np.float32), ()


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: str(reading.pooling))
def test_pieces_in_any_order(reading):
    rng = np.random.default_rng(0)
    counts = None if reading.pooling is None else rng.integers(1, 5, 60)
    for task, labels, width in tasks_and_labels(rng, reading, 60):
        examples = examples_of(labels, counts)
        predictions = rng.normal(0, 2, (len(examples.tokens), *width)).astype(np.float32)
        tally = task.tally(examples)
        for ids in np.array_split(rng.permutation(len(predictions)), 9):
            tally.add(ids, predictions[ids])
        assert tally.metrics() == task.metrics(predictions, examples)


def test_scores_of_labels_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 6, (2, 50))
    counts = [np.bincount(of, minlength=8) for of in (truth[truth == found], found, truth)]
    scores = LabelScores(*counts)
    expected = sk.precision_recall_fscore_support(truth, found, labels=range(8), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "expected"), expected, strict=True):
        np.testing.assert_array_equal(getattr(scores, name), values)
    assert scores.f1_macro() == {
        "f1_macro": sk.f1_score(truth, found, average="macro", labels=range(8), zero_division=0),
        "f1_macro_present": sk.f1_score(truth, found, average="macro"),
    }
    assert scores.macro_over() == "all 8 labels; 2 of them occur in neither truth nor prediction and count as 0"


def test_the_mean_over_present_labels_is_left_out_where_all_are_present():
    scores = LabelScores(*(np.array(counts) for counts in ([1, 0], [2, 1], [1, 2])))
    assert scores.f1_macro() == {"f1_macro": pytest.approx(1 / 3)}
    assert scores.macro_over() == "all 2 labels"


def test_the_confusion_of_many_labels_is_kept_as_pairs():
    rng = np.random.default_rng(2)
    log_odds, labels = rng.normal(size=(90, len(NAMES))), rng.integers(0, len(NAMES), 90)
    metrics = Classification(NAMES).metrics(log_odds.astype(np.float32), examples_of(labels, None))
    assert "confusion_matrix" not in metrics
    matrix = np.zeros((len(NAMES), len(NAMES)), int)
    for true, found, count in metrics["confusion"]:
        assert count > 0
        matrix[NAMES.index(true), NAMES.index(found)] = count
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(labels, log_odds.argmax(-1), labels=range(len(NAMES))))
    few = Classification(NAMES[:30]).metrics(log_odds[:, :30].astype(np.float32), examples_of(labels % 30, None))
    assert len(few["confusion_matrix"]) == 30
    assert "confusion" not in few


@pytest.fixture
def little_room(monkeypatch):
    monkeypatch.setattr(threshold, "_LEAST_KEPT", 8)


def searched(probabilities: np.ndarray, labels: np.ndarray, pieces: int) -> tuple[float, ThresholdSearch]:
    search = ThresholdSearch(int(labels.sum()))
    for ids in np.array_split(np.random.default_rng(0).permutation(len(labels)), pieces):
        search.add(probabilities[ids], ids, labels[ids])
    found, given = search.finish()
    chosen = set(zip(given.documents.tolist(), given.labels.tolist(), given.present.tolist(), strict=True))
    rows, columns = np.nonzero(probabilities >= found)
    assert chosen == set(zip(rows.tolist(), columns.tolist(), labels[rows, columns].tolist(), strict=True))
    return found, search


@pytest.mark.parametrize("seed", range(10))
def test_the_best_threshold_is_found_without_most_probabilities(little_room, seed):
    rng = np.random.default_rng(seed)
    labels = rng.random((200, 50)) < 0.003
    probabilities = np.where(labels, rng.beta(6, 2, labels.shape), rng.beta(1, 12, labels.shape)).astype(np.float32)
    probabilities = np.round(probabilities, 2) if seed % 2 else probabilities  # many are equal
    found, search = searched(probabilities, labels, 13)
    assert found == best_threshold(probabilities, labels)
    assert sum(len(values) for values, _ in search._pieces) <= 2 * 16 * labels.sum()


def test_equal_probabilities_do_not_fill_the_memory(little_room):
    labels = np.zeros((100, 30), bool)
    labels[0, 0] = True
    search = ThresholdSearch(1)
    for ids in np.array_split(np.arange(100), 50):
        search.add(np.full((2, 30), 0.5, np.float32), ids, labels[ids])
        assert search._count <= 60
    found, given = search.finish()
    assert 0.5 < found < 0.500001
    assert len(given.labels) == 0


def test_nothing_to_find_and_no_numbers():
    labels = np.zeros((4, 3), bool)
    metrics = MultiLabel(NAMES[:3]).metrics(np.ones((4, 3), np.float32), examples_of(labels, None))
    assert (metrics["threshold"], metrics["f1_micro"], metrics["exact_match"]) == (0.5, 0.0, 0.0)
    labels[0, 0] = True
    broken = MultiLabel(NAMES[:3]).metrics(np.full((4, 3), np.nan, np.float32), examples_of(labels, None))
    assert broken["threshold"] == 0.5
    assert np.isnan(broken["loss"])


def test_labels_on_one_line():
    assert list_names(NAMES[:20]) == ", ".join(NAMES[:20])
    assert list_names(NAMES) == "n0, n1, n2, n3, n4, ... (40)"
