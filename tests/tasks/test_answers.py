"""The best answers over windows, and how they are scored, against plain references."""

from __future__ import annotations

import random
import string
import unicodedata

import numpy as np
import pytest

from jaxbert.tasks.question_answering.answers import Scored, exact_and_f1, has_chinese, n_best, no_answer


def random_windows(rng: np.random.Generator) -> list[Scored]:
    """Windows of one context, which share tokens."""
    total = int(rng.integers(1, 60))
    edges = np.sort(rng.choice(200, 2 * total, replace=False)).reshape(-1, 2)
    windows, low = [], 0
    while True:
        high = min(total, low + int(rng.integers(1, 40)))
        begin = int(rng.integers(2, 6))
        offsets = np.zeros((begin + high - low + 1, 2), np.int32)
        offsets[begin:-1] = edges[low:high]
        windows.append(Scored(rng.normal(0, 3, (len(offsets), 2)), slice(begin, len(offsets) - 1), offsets))
        if high == total:
            return windows
        low = max(low + 1, high - int(rng.integers(0, 9)))


def all_answers(windows, most_tokens):
    found: dict[tuple[int, int], float] = {}
    for scores, context, offsets in windows:
        for first in range(context.start, context.stop):
            for last in range(first, context.stop):
                if last - first + 1 <= most_tokens:
                    span = (offsets[first][0], offsets[last][1])
                    found[span] = max(found.get(span, -1e9), scores[first][0] + scores[last][1])
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("most_tokens", [1, 4, 30])
def test_the_best_of_all_possible_answers(most_tokens):
    rng = np.random.default_rng(most_tokens)
    for _ in range(100):
        windows = random_windows(rng)
        expected = all_answers(windows, most_tokens)[:5]
        found = n_best(windows, 5, most_tokens)
        assert [(c.start, c.end) for c in found] == [span for span, _ in expected]
        np.testing.assert_allclose([c.score for c in found], [score for _, score in expected], rtol=1e-12)
        assert no_answer(windows) == min(scores[0, 0] + scores[0, 1] for scores, _, _ in windows)


def test_only_the_context_answers():
    scores = np.zeros((6, 2))
    scores[[0, 1, 5]] = 9.0  # CLS, question, SEP
    scores[3, 0] = scores[2, 1] = 5.0  # the end before the start
    offsets = np.array([[0, 0], [0, 0], [0, 2], [3, 4], [5, 6], [0, 0]])
    assert n_best([Scored(scores, slice(2, 5), offsets)], 1) == [(0, 2, 5.0)]
    assert n_best([Scored(scores, slice(2, 2), offsets)], 3) == []


def reference_english(text):
    def no_articles(words):
        return [word for word in words if word not in ("a", "an", "the")]

    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return no_articles(kept.split())


def reference_chinese(text):
    pieces, word = [], ""
    for c in text.lower():
        if c in string.punctuation or unicodedata.category(c)[0] == "P":
            continue
        if "\u4e00" <= c <= "\u9fff":
            pieces, word = [*pieces, *([word] if word else []), c], ""
        elif c.isspace():
            pieces, word = [*pieces, *([word] if word else [])], ""
        else:
            word += c
    return [*pieces, *([word] if word else [])]


def reference_scores(answer, golds, split):
    best_exact = best_f1 = 0.0
    golds = [gold for gold in golds if split(gold)] or [""]
    for gold in golds:
        a, b = split(answer), split(gold)
        best_exact = max(best_exact, float(" ".join(a) == " ".join(b)))
        left, common = list(b), 0
        for word in a:
            if word in left:
                left.remove(word)
                common += 1
        if not a or not b:
            f1 = float(a == b)
        elif common == 0:
            f1 = 0.0
        else:
            precision, recall = common / len(a), common / len(b)
            f1 = 2 * precision * recall / (precision + recall)
        best_f1 = max(best_f1, f1)
    return best_exact, best_f1


@pytest.mark.parametrize("chinese", [False, True])
def test_exact_match_and_f1_against_a_reference(chinese):
    rng = random.Random(5)
    english = ["the", "The", "a", "an", "cat", "Cat.", "U.S.", "theory", "-", "308", "“cat”", "b,"]
    words = [*english, "中国", "中", "国，", "。", "Java8", "中b国"] if chinese else english
    split = reference_chinese if chinese else reference_english
    for _ in range(3000):
        answer, *golds = (" ".join(rng.choices(words, k=rng.randint(0, 4))) for _ in range(rng.randint(1, 4)))
        found = exact_and_f1(answer, golds, chinese)
        assert found == pytest.approx(reference_scores(answer, golds, split), abs=1e-12), (answer, golds)


def test_known_scores():
    assert exact_and_f1("The Denver Broncos!", ["Denver Broncos"], False) == (1.0, 1.0)
    assert exact_and_f1("Broncos", ["Denver Broncos", "Carolina"], False) == (0.0, pytest.approx(2 / 3))
    assert exact_and_f1("", [], False) == (1.0, 1.0)
    assert exact_and_f1("x", [], False) == (0.0, 0.0)
    assert exact_and_f1("中国人", ["中国。"], True) == (0.0, pytest.approx(0.8))


def test_the_language_of_a_text():
    assert has_chinese("丹佛野马队 (Denver Broncos) 赢得了第50届超级碗")
    assert not has_chinese("The Chinese name 中国 means middle kingdom.")
    assert not has_chinese("308")
