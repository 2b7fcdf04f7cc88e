"""A held-out set of a complete run, as all sections of its report read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.tasks.base import Outcome, Task
from jaxbert.tasks.metrics import falls
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.train.inference import Finished
from jaxbert.understand.judged import Judged, judge
from jaxbert.understand.paired import Measure

_SCORES = {"accuracy": "accuracy", "f1_micro": "micro F1", "f1": "F1", "mae": "mean absolute error"}
"""The metrics that are quotients of sums over examples, so that any part of a set has one, and how the report calls them."""


@dataclass(frozen=True, eq=False)
class Score:
    """How good the answers of a set are, for any part of it."""

    title: str
    """How the report calls it."""
    measure: Measure

    @property
    def is_error(self) -> bool:
        """Whether a smaller score is better."""
        return falls(self.measure.name)

    def of(self, chosen: np.ndarray | slice = slice(None)) -> float | None:
        """Return the score of some examples; None if nothing of them can be right or wrong."""
        sums = self.measure.parts[chosen].sum(0)
        return float(self.measure.formula(sums)) if sums.any() else None

    def running(self, order: np.ndarray) -> np.ndarray:
        """Return the scores of the first 1, 2, ... examples of an order, [N]."""
        return self.measure.formula(self.measure.parts[order].cumsum(0))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A held-out set of a complete run, with what several sections need of it."""

    finished: Finished
    name: str
    """Its name in the data table: `validation`, `validation.en`, `test`."""
    outcome: Outcome

    @property
    def task(self) -> Task:
        """The task of the run."""
        return self.outcome.task

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the set, as in `summary.json`."""
        role, _, own = self.name.partition(".")
        found = self.finished.summary["test" if role == "test" else "eval"] or {}
        return found["sets"][own] if own and "sets" in found else found

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example, int64 [N]; the tokens that its windows share count twice."""
        examples = self.outcome.examples
        lengths = np.asarray(examples.tokens.lengths, np.int64)
        return lengths if examples.windows is None else examples.windows.sum(lengths)

    @cached_property
    def judged(self) -> Judged | None:
        """The judgement of each example; None for a task without answers, or of another package."""
        return judge(self.outcome)

    @cached_property
    def score(self) -> Score | None:
        """The score of parts of the set; None for a task without answers, or of another package."""
        makers = {} if self.judged is None else self.judged.makers
        name = next((name for name in makers if name in _SCORES), None)
        if name is None:
            return None
        parts = {"accuracy": " of words", "f1": " of entities"} if isinstance(self.task, TokenClassification) else {}
        return Score(_SCORES[name] + parts.get(name, ""), makers[name]())


def labels_of(held_out: HeldOut) -> np.ndarray:
    """Return the labels of a set, [N, ...]."""
    labels = held_out.outcome.examples.labels
    assert labels is not None
    return np.asarray(labels)
