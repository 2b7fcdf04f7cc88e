"""Windows are those of the tokenizer's own recipe, and answers are found in them and lead back to their text."""

from __future__ import annotations

import random

import numpy as np
import pytest
from transformers import BertTokenizer

from jaxbert.errors import UserError
from jaxbert.tasks.question_answering.read import Answer, Question, Questions
from jaxbert.tasks.question_answering.windows import cut_questions

PIECES = ["a", "b", "c", "##a", "##b", "##c", "高", "勇", ".", "-"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]) + "\n")
    return BertTokenizer(vocab=str(path))


def random_text(rng, most):
    words = ["".join(rng.choices("abc高勇.-", k=rng.randint(1, 4))) for _ in range(rng.randint(2, most))]
    return " ".join(words)


def random_questions(count=40, seed=0, most=60):
    rng = random.Random(seed)
    items = []
    for i in range(count):
        context = random_text(rng, most)
        start = rng.randrange(len(context))
        text = context[start : start + rng.randint(1, 9)]
        answers = (Answer(text, start),) if text.strip() and rng.random() < 0.8 else ()
        items.append(Question(str(i), random_text(rng, 4), context, answers))
    return Questions("a", items)


def peer_windows(tokenizer, item, max_length, stride):
    """Cut a question as the examples of transformers do, and find its answer in each window by their search."""
    encoded = tokenizer(
        item.question,
        item.context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    for i, ids in enumerate(encoded["input_ids"]):
        offsets, parts = encoded["offset_mapping"][i], encoded.sequence_ids(i)
        first, last = parts.index(1), len(parts) - 1 - parts[::-1].index(1)
        found = [0, 0]
        if item.answers:
            start = item.answers[0].start
            end = start + len(item.answers[0].text)
            if offsets[first][0] <= start and offsets[last][1] >= end:
                begin, behind = first, last
                while begin <= last and offsets[begin][0] <= start:
                    begin += 1
                while offsets[behind][1] >= end:
                    behind -= 1
                found = [begin - 1, behind + 1]
        yield ids, encoded["token_type_ids"][i], offsets, parts, found


@pytest.mark.parametrize(("max_length", "stride"), [(512, 128), (40, 8), (40, 0)])
def test_windows_are_those_of_the_examples_of_transformers(tokenizer, max_length, stride):
    questions = random_questions()
    windows = cut_questions(questions, tokenizer, max_length, stride)
    for i, item in enumerate(questions.items):
        peers = list(peer_windows(tokenizer, item, max_length, stride))
        assert windows.first[i + 1] - windows.first[i] == len(peers)
        for window, (ids, types, offsets, parts, answer) in enumerate(peers, windows.first[i]):
            begin, length = windows.tokens.begins[window], windows.tokens.lengths[window]
            at = slice(begin, begin + length)
            assert windows.tokens.ids[at].tolist() == ids
            assert [int(t >= windows.tokens.first_lengths[window]) for t in range(length)] == types
            assert windows.context_begins[window] == parts.index(1)
            expected = [list(pair) if part == 1 else [0, 0] for pair, part in zip(offsets, parts, strict=True)]
            assert windows.offsets[at].tolist() == expected
            if item.answers and item.answers[0].text.strip() == item.answers[0].text:
                # Blanks at an end of an answer belong to no token: the examples' search goes one token too far there.
                assert windows.answers[window].tolist() == answer


@pytest.mark.parametrize("seed", range(3))
def test_answers_lead_back_to_their_text(tokenizer, seed):
    questions = random_questions(60, seed)
    windows = cut_questions(questions, tokenizer, 48, 20)
    whole = 0
    for i, item in enumerate(questions.items):
        for window in range(windows.first[i], windows.first[i + 1]):
            first, last = windows.answers[window]
            if not first:
                continue
            offsets = windows.offsets[windows.tokens.begins[window] :]
            text = item.context[offsets[first, 0] : offsets[last, 1]]
            assert item.answers[0].text.strip() in text
            assert len(text) <= len(item.answers[0].text.strip()) + 6  # a token at each end may reach further
            whole += text == item.answers[0].text.strip()
    assert whole > 20


def test_windows_without_the_answer_point_to_the_first_token(tokenizer):
    item = Question("q", "a b", "a b c a b c a b c 高 勇", (Answer("高 勇", 18),))
    windows = cut_questions(Questions("a", [item]), tokenizer, 11, 2)
    assert windows.answers.tolist() == [[0, 0], [0, 0], [5, 6]]


def test_long_questions_take_half_of_a_window_and_are_counted(tokenizer, caplog):
    item = Question("q", "a b c a b c a b c", "a b c. a b c. a b c. b")
    windows = cut_questions(Questions("a", [item]), tokenizer, 13, 3)
    windows.say("a", 13)
    assert "1 questions are longer than 5 tokens" in caplog.text
    assert windows.context_begins.tolist() == [7] * len(windows.tokens)
    assert windows.tokens.lengths.max() == 13
    np.testing.assert_array_equal(np.unique(windows.answers), [0])


def test_the_shortest_windows(tokenizer):
    item = Question("q", "a b c", "a b", (Answer("b", 2),))
    windows = cut_questions(Questions("a", [item]), tokenizer, 5, 1)
    assert windows.answers.tolist() == [[0, 0], [3, 3]]
    with pytest.raises(
        UserError, match=r"data\.max_length is 4, but a question with its context takes 5 tokens at least"
    ):
        cut_questions(Questions("a", [item]), tokenizer, 4, 1)
