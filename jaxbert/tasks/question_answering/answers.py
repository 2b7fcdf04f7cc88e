"""Find the best answers to a question, and compute exact match and F1 between answers, as in SQuAD's evaluation.

Answers come from the scores of start and end tokens in all windows of a question. To compare two, English is lower-cased and
loses punctuation and articles; then words are compared. Chinese is compared by characters, and by the words of other scripts
between them, without punctuation of any script, as in XQuAD and MLQA (CMRC's own script counts the longest common substring
instead of all common characters).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_CHINESE = 0.2
"""The least share of Han characters among the letters of a Chinese text."""


def has_chinese(text: str) -> bool:
    """Return whether a text is written in Chinese."""
    han = len(_HAN.findall(text))
    return han > _CHINESE * max(1, sum(character.isalpha() for character in text))


def parts(answer: str, chinese: bool) -> list[str]:
    """Return the words, or Chinese characters, of an answer for the comparison."""
    lowered = answer.lower()
    if not chinese:
        kept = "".join(character for character in lowered if character not in string.punctuation)
        return _ARTICLES.sub(" ", kept).split()
    kept = "".join(character for character in lowered if not _is_punctuation(character))
    return _HAN.sub(lambda match: f" {match.group()} ", kept).split()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def exact_and_f1(answer: str, expected: Sequence[str], chinese: bool) -> tuple[float, float]:
    """Return exact match and F1, each the best over the expected answers; "" stands for no answer."""
    found = parts(answer, chinese)
    wanted = [gold for text in expected if (gold := parts(text, chinese))] or [[]]
    return max(float(found == gold) for gold in wanted), max(_f1(found, gold) for gold in wanted)


def _f1(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold))


MOST_TOKENS = 30
"""The longest answer, in tokens."""


class Candidate(NamedTuple):
    """A slice of the context, in characters, with the sum of its log-scores; for no answer, start and end are 0."""

    start: int
    end: int
    score: float


class Scored(NamedTuple):
    """A window of n tokens: their log-scores, and the characters that they come from."""

    scores: np.ndarray
    """[n, 2]: the log-scores as first and as last token of an answer; CLS is token 0."""
    context: slice
    """The tokens of the context."""
    offsets: np.ndarray
    """[n, 2]: the characters of the context that each token comes from."""


def n_best(windows: Iterable[Scored], count: int, most_tokens: int = MOST_TOKENS) -> list[Candidate]:
    """Return at most `count` answers, best first; an answer in several windows has its best score.

    An answer begins and ends with tokens of the context, and has at most `most_tokens` tokens.
    """
    best: dict[tuple[int, int], float] = {}
    for scores, context, offsets in windows:
        for first, last, score in _best_pairs(scores[context, 0], scores[context, 1], count, most_tokens):
            inside = offsets[context]
            span = int(inside[first, 0]), int(inside[last, 1])
            best[span] = max(score, best.get(span, -np.inf))
    ranked = sorted(best.items(), key=lambda found: (-found[1], found[0]))
    return [Candidate(*span, score) for span, score in ranked[:count]]


def no_answer(windows: Iterable[Scored]) -> float:
    """Return the log-score of no answer: the smallest one of all windows."""
    return min(float(scores[0].sum()) for scores, _, _ in windows)


def _best_pairs(starts: np.ndarray, ends: np.ndarray, count: int, most_tokens: int) -> list[tuple[int, int, float]]:
    """Return first and last token of the `count` best answers of a window, and their scores."""
    length = len(starts)
    if not length:
        return []
    most = min(most_tokens, length)
    padded = np.concatenate([ends, np.full(most - 1, -np.inf, ends.dtype)])
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, most)  # [first, tokens - 1]
    flat = sums.ravel()
    chosen = np.argpartition(-flat, min(count, len(flat)) - 1)[:count]
    return [(int(i) // most, int(i) // most + int(i) % most, float(flat[i])) for i in chosen if flat[i] > -np.inf]
