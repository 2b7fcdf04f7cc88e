"""The rules of early stopping: those of Optuna where it has the same, and the same answer however often they are asked."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from jaxbert.studies.stopping import FACTOR, RUNGS, STARTUP_TRIALS, Course, below_median, halving, never

STEPS = 9


def courses(count: int, seed: int = 0) -> list[list[float]]:
    """Draw evaluations after each of `STEPS` steps."""
    return np.random.default_rng(seed).random((count, STEPS)).tolist()


def course(merits, upto=STEPS, complete=False) -> Course:
    return Course(tuple(((step + 1) / STEPS, merit) for step, merit in enumerate(merits[:upto])), complete)


def stops_one_by_one(rule, drawn) -> list[int | None]:
    """Run trials one after another; return after how many steps each is stopped."""
    found, done = [], []
    for merits in drawn:
        end = None
        for step in range(1, STEPS + 1):
            mine = course(merits, step)
            decisions = {rule(mine, done) for _ in range(3)}
            assert len(decisions) == 1
            if decisions.pop():
                end = step
                break
        found.append(end)
        done.append(course(merits, end or STEPS, complete=end is None))
    return found


def stops_in_optuna(pruner, drawn) -> list[int | None]:
    study, found = optuna.create_study(direction="maximize", pruner=pruner), []
    for merits in drawn:
        trial, end = study.ask(), None
        for step in range(1, STEPS + 1):
            trial.report(merits[step - 1], step)
            if step < STEPS and trial.should_prune():
                end = step
                break
        study.tell(trial, state=optuna.trial.TrialState.PRUNED) if end else study.tell(trial, merits[-1])
        found.append(end)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_median_is_that_of_optuna(seed):
    drawn = courses(40, seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0)
    assert stops_one_by_one(below_median, drawn) == stops_in_optuna(pruner, drawn)


@pytest.mark.parametrize("seed", range(3))
def test_halving_is_that_of_optuna(seed):
    drawn = courses(40, seed)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR)
    ours = stops_one_by_one(halving, drawn)
    assert ours == stops_in_optuna(pruner, drawn)
    assert {1, 3, None} == set(ours)


def test_rungs_are_reached_by_the_first_evaluation_behind_them():
    """With three evaluations there is one at a third, which is behind the rung of a ninth too."""
    good, bad = (Course(((1 / 3, merit),)) for merit in (0.9, 0.1))
    assert halving(bad, [good])
    assert not halving(good, [bad])
    assert not halving(Course(((1.0, 0.1),)), [good]), "a trial at its end is complete"
    assert not halving(Course(((1 / 3, 0.5), (0.5, 0.0))), [good] * 5), "between rungs nothing is decided"
    assert RUNGS == (1 / 9, 1 / 3)


def test_what_is_no_number_goes_nowhere():
    nothing = Course(((1 / 9, -math.inf),))
    assert halving(nothing, [])
    others = [course([0.5] * STEPS, complete=True)] * STARTUP_TRIALS
    assert below_median(nothing, others)
    assert not never(nothing, others)


def test_the_median_waits_for_complete_trials():
    mine, good = course([0.1], 1), course([0.9] * STEPS, complete=True)
    assert not below_median(mine, [good] * (STARTUP_TRIALS - 1))
    assert below_median(mine, [good] * STARTUP_TRIALS)
    assert not below_median(course([0.1] * STEPS), [good] * STARTUP_TRIALS), "a trial at its end is complete"
