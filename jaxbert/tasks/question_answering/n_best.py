"""The best answers to a question, from the scores of its tokens as first and last of an answer, over all its windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MOST_TOKENS = 30
"""Longest answer in tokens."""


class Candidate(NamedTuple):
    """A stretch of the context, in characters, with the sum of its log-scores; without an answer start and end are 0."""

    start: int
    end: int
    score: float


class Scored(NamedTuple):
    """A window: log-scores of its tokens, and where those of the context come from."""

    scores: np.ndarray
    """[n, 2]: as first and as last token of an answer; CLS is token 0."""
    context: slice
    """Its tokens that belong to the context."""
    offsets: np.ndarray
    """[n, 2]: characters of the context."""


def n_best(windows: Iterable[Scored], count: int, most_tokens: int = MOST_TOKENS) -> list[Candidate]:
    """Return the best answers, best first, at most `count`: of a stretch that several windows hold, the best score.

    Only tokens of the context begin or end an answer, and it has `most_tokens` at most.
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
    """Return the log-score of no answer: of the window that is least sure that it holds none."""
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
