"""Losses over each window's own tokens, and answers over all windows of a question."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.data.examples import Examples, Windows
from jaxbert.data.tokens import Tokens
from jaxbert.tasks.question_answering.read import Answer, Question, Questions
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.question_answering.windows import Asked, QuestionWindows

SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0]])
BATCH = {
    "segment_ids": jnp.asarray(SEGMENTS),
    "cls_positions": jnp.array([[0, 3, 0], [0, 0, 0]]),
    "example_mask": jnp.array([[True, True, False], [True, False, False]]),
    "labels": jnp.array([[[1, 2], [0, 0], [0, 0]], [[2, 4], [0, 0], [0, 0]]]),
}
EXAMPLES = [(0, slice(0, 3), 1, 2), (0, slice(3, 7), 0, 0), (1, slice(0, 5), 2, 4)]


def random_outputs(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(0, 2, SEGMENTS.shape), jnp.float32) for name in ("start_logits", "end_logits")}


def log_softmax(values):
    return values - np.log(np.exp(values).sum())


def test_the_loss_of_a_window_covers_its_own_tokens():
    outputs = random_outputs()
    expected = 0.0
    for row, own, start, end in EXAMPLES:
        scores = [log_softmax(np.asarray(outputs[name][row, own])) for name in ("start_logits", "end_logits")]
        expected -= (scores[0][start] + scores[1][end]) / 2
    task = QuestionAnswering()
    totals = task.totals(BATCH)
    sums = task.sums(outputs, BATCH, totals, train=True)
    assert (int(totals["examples"]), int(sums["examples"])) == (3, 3)
    assert float(sums["loss"]) == pytest.approx(expected, rel=1e-5)


def test_no_window_feels_another_and_no_gradient_is_infinite():
    task, outputs = QuestionAnswering(), random_outputs()

    def loss_of(outputs, row, slot):
        mask = jnp.zeros_like(BATCH["example_mask"]).at[row, slot].set(True)
        return task.sums(outputs, {**BATCH, "example_mask": mask}, {}, train=True)["loss"]

    for row, slot in np.argwhere(np.asarray(BATCH["example_mask"])):
        grads = jax.grad(loss_of)(outputs, int(row), int(slot))
        own = np.zeros(SEGMENTS.shape, bool)
        own[row] = SEGMENTS[row] == slot + 1
        for grad in map(np.asarray, grads.values()):
            assert np.all(grad[~own] == 0)
            assert np.all(grad[own] != 0)
    empty = {name: jnp.zeros_like(array) for name, array in BATCH.items()}
    grads = jax.grad(lambda o: task.sums(o, empty, {}, train=True)["loss"])(outputs)
    assert all(np.all(np.asarray(grad) == 0) for grad in grads.values())


def test_predictions_are_probabilities_of_a_windows_tokens():
    outputs = random_outputs(1)
    found = np.asarray(QuestionAnswering().predictions(outputs, BATCH))
    for row, own, *_ in EXAMPLES:
        for place, name in enumerate(("start_logits", "end_logits")):
            np.testing.assert_allclose(
                found[row, own, place], log_softmax(np.asarray(outputs[name][row, own])), atol=1e-6
            )


CONTEXT = "ab cd ef gh"
OFFSETS = [(0, 2), (3, 5), (6, 8), (9, 11)]


def made_up(questions: list[Question]) -> Examples:
    """Each question has two windows, `CLS ? SEP t t t SEP`, over tokens 0 to 2 and 1 to 3 of the context."""
    count = len(questions)
    lengths = np.full(2 * count, 7, np.int32)
    begins = np.full(2 * count, 3, np.int32)
    nowhere = [(0, 0)]
    offsets = np.array([*nowhere * 3, *OFFSETS[:3], *nowhere, *nowhere * 3, *OFFSETS[1:], *nowhere] * count, np.int32)
    tokens = Tokens.from_lengths(np.zeros(14 * count, np.int32), lengths, begins)
    first = np.arange(count + 1) * 2
    answers = np.zeros((2 * count, 2), np.int32)
    for number, question in enumerate(questions):
        if question.answers:
            at = [begin for begin, _ in OFFSETS].index(question.answers[0].start)
            answers[2 * number] = at + 3 if at < 3 else 0
            answers[2 * number + 1] = at + 2 if at else 0
    windows = QuestionWindows(tokens, first, begins, offsets, answers, np.full(count, 4, np.int32), answers)
    return Examples(tokens, windows=Windows(first), extra=Asked(Questions("a", questions), windows))


def scores_for(*places: tuple[int, int, int, float]) -> np.ndarray:
    """Return log-scores of one question in which some (window, start, end) stand out."""
    scores = np.full((2, 7, 2), -9.0)
    for window, start, end, score in places:
        scores[window, start, 0] = scores[window, end, 1] = score / 2
    return scores.reshape(14, 2)


def test_the_best_answer_over_windows():
    questions = [Question("q1", "?", CONTEXT, (Answer("cd", 3),)), Question("q2", "?", CONTEXT, (Answer("gh", 9),))]
    examples = made_up(questions)
    predictions = np.concatenate(
        [scores_for((0, 4, 4, -2.0), (1, 0, 0, -0.1)), scores_for((0, 3, 4, -3.0), (1, 5, 5, -1))]
    )
    task = QuestionAnswering()
    found = task.answers(predictions, examples, 0, 2)
    assert found[0]["id"] == "q1"
    assert {k: found[1][k] for k in ("text", "start", "end")} == {"text": "gh", "start": 9, "end": 11}
    assert found[0]["text"] == "cd"
    assert found[0]["score"] == pytest.approx(np.exp(-2.0), abs=1e-6)
    assert [answer["text"] for answer in found[1]["n_best"]][:2] == ["gh", "ab cd"]
    metrics = task.metrics(predictions, examples)
    assert (metrics["f1"], metrics["exact_match"], metrics["examples"]) == (1.0, 1.0, 2)
    assert {name for name, value in metrics.items() if isinstance(value, float)} == set(task.metric_names())
    gold = [[4, 4], [3, 3], [0, 0], [5, 5]]
    picked = [predictions[7 * w + label, place] for w, pair in enumerate(gold) for place, label in enumerate(pair)]
    assert metrics["loss"] == pytest.approx(-np.mean(picked))


def test_no_answer_where_a_question_may_have_none():
    questions = [Question("q1", "?", CONTEXT), Question("q2", "?", CONTEXT, (Answer("ab", 0),))]
    examples = made_up(questions)
    sure = scores_for((0, 0, 0, -0.2), (1, 0, 0, -0.1), (0, 3, 3, -1.0))
    unsure = scores_for((0, 0, 0, -4.0), (1, 0, 0, -0.1), (0, 3, 3, -1.0))
    predictions = np.concatenate([sure, unsure])
    found = QuestionAnswering(unanswered=True).answers(predictions, examples, 0, 2)
    assert [answer["text"] for answer in found] == ["", "ab"]
    assert found[0]["n_best"][1]["text"] == "ab"
    assert found[1]["n_best"][1] == {"text": "", "start": 0, "end": 0, "score": pytest.approx(np.exp(-4.0), abs=1e-6)}
    metrics = QuestionAnswering(unanswered=True).metrics(predictions, examples)
    assert (metrics["f1"], metrics["answered_f1"], metrics["unanswered_accuracy"]) == (1.0, 1.0, 1.0)
    assert set(QuestionAnswering(unanswered=True).metric_names()) == metrics.keys() - {"examples"}
    assert [a["text"] for a in QuestionAnswering(True, threshold=1.0).answers(predictions, examples, 0, 2)] == [
        "ab",
        "ab",
    ]
    assert QuestionAnswering().answers(predictions, examples, 0, 1)[0]["text"] == "ab"
