"""When a trial is not worth going on with: two rules, as pure functions of the evaluations of all trials.

Optuna's own rules keep marks in the storage while they decide: a process that is killed between the mark and the end of the
trial would decide otherwise when it goes on. These decide the same however often they are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STARTUP_TRIALS = 5
"""Complete trials before the median of any is trusted."""
FACTOR = 3
"""One of so many trials goes past each rung."""
RUNGS = (1 / 9, 1 / 3)
"""The shares of a trial's steps after which the best go on, in successive halving."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Course:
    """The evaluations of a trial so far."""

    points: tuple[tuple[float, float], ...]
    """The share of the trial's steps, rising, and the merit: larger is better, and -inf where there is none."""
    complete: bool = False

    @property
    def best(self) -> float:
        """The best merit so far; -inf before the first evaluation."""
        return max((merit for _, merit in self.points), default=-math.inf)

    def at(self, share: float) -> tuple[float, float] | None:
        """Return the first point at a share of the steps or after it; None if the trial did not come so far."""
        return next(((at, merit) for at, merit in self.points if at >= share - _ROUNDING), None)


Rule = Callable[[Course, Sequence[Course]], bool]
"""`(this trial, the others) -> whether to stop this one now`, after its last evaluation."""


def never(mine: Course, others: Sequence[Course]) -> bool:
    """Stop no trial."""
    return False


def below_median(mine: Course, others: Sequence[Course]) -> bool:
    """Stop a trial whose best evaluation is worse than the median of the complete trials at the same step."""
    share, complete = mine.points[-1][0], [other for other in others if other.complete]
    if share >= 1 or len(complete) < STARTUP_TRIALS:
        return False
    known = sorted(found[1] for other in complete if (found := other.at(share)) is not None)
    if not known:
        return False
    middle = len(known) // 2
    median = known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
    return mine.best < median


def halving(mine: Course, others: Sequence[Course]) -> bool:
    """Stop a trial that is not among the best third of those that have come to the same rung (ASHA, Li et al., 2020)."""
    last = mine.points[-1]
    for rung in RUNGS:
        if last[0] >= 1 or mine.at(rung) != last:
            continue
        there = [found[1] for found in (other.at(rung) for other in others) if found is not None]
        merits = sorted([*there, last[1]], reverse=True)
        if last[1] < merits[max(1, len(merits) // FACTOR) - 1] or last[1] == -math.inf:
            return True
    return False
