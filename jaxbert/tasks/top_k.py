"""Choose the labels whose probabilities an answer shows: all of up to 20 labels, else the best 5, or `top_k`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbert.errors import UserError
from jaxbert.tasks.base import Task

_ALL_UP_TO = 20
_OF_MANY = 5


def with_top_k(task: Task, top_k: int | None) -> Task:
    """Return the task with `top_k` probabilities in its answers; None changes nothing.

    Raises:
      UserError: for a task whose answers have no probabilities of labels.
    """
    if top_k is None:
        return task
    if not hasattr(task, "top_k"):
        raise UserError(
            "--top_k is the number of labels whose probabilities an answer shows, but this model's answers have none: "
            "leave it out"
        )
    chosen: Any = dataclasses.replace(task, top_k=top_k)  # type: ignore[type-var]
    return chosen


def shown_probabilities(names: Sequence[str], probabilities: np.ndarray, top_k: int | None) -> dict[str, float]:
    """Return the probabilities of one text's labels by name.

    All labels are in label order; if only the best are shown, they are in descending order.
    """
    count = len(names)
    shown = shown_count(count, top_k)
    chosen = range(count) if shown == count else largest(probabilities, shown)
    return {names[i]: round(float(probabilities[i]), 6) for i in chosen}


def shown_count(count: int, top_k: int | None) -> int:
    """Return how many of `count` labels are shown: `top_k`, else all of up to 20, else 5."""
    return min(count, top_k or (count if count <= _ALL_UP_TO else _OF_MANY))


def largest(values: np.ndarray, count: int) -> list[int]:
    """Return the indices of the `count` largest values, in descending order; of equal values, the first come first."""
    least = np.partition(values, len(values) - count)[-count]
    candidates = np.flatnonzero(~(values < least))
    return candidates[np.argsort(-values[candidates], kind="stable")][:count].tolist()
