"""Find the best answers to a question, from the scores of start and end tokens in all its windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

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
