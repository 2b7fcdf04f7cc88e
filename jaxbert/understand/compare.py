"""Compare complete runs on one held-out set: metrics, intervals of their differences, McNemar's test, differing answers.

Each run is compared with the first one. Runs are refused if their rows or labels differ: their metrics would not compare.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.table import shorten
from jaxbert.errors import UserError
from jaxbert.tasks.direction import falls
from jaxbert.train.inference import Finished
from jaxbert.understand.judged import Judged, judge
from jaxbert.understand.paired import LEVEL, RESAMPLES, difference_interval, mcnemar
from jaxbert.understand.reopen import reopen

MOST_SHOWN = 50
"""The most examples with differing answers that a comparison names for each pair of runs."""


@dataclass(frozen=True)
class Difference:
    """A metric of the second run minus that of the first, with the bootstrap's interval."""

    metric: str
    value: float
    low: float
    high: float
    better: str | None
    """The run that is better by more than chance explains (the interval leaves out 0); None if neither is."""


@dataclass(frozen=True)
class Differing:
    """An example that two runs answer differently."""

    row: str
    """The number of its record, from 1."""
    text: str
    expected: Any
    first: Any
    second: Any
    first_right: bool | None
    """Whether the first run's answer is completely right; None for numbers."""
    second_right: bool | None
    closer: str | None
    """The run whose answer is closer to the right one."""


@dataclass(frozen=True)
class Pair:
    """The first run beside another one."""

    first: str
    second: str
    differences: list[Difference]
    mcnemar: dict[str, Any] | None
    """The examples that only one run answers rightly, and the p-value; None for numbers, which are not right or wrong."""
    differing: int
    """The number of examples with differing answers."""
    shown: list[Differing]
    """Up to `MOST_SHOWN` of them, those first whose answers differ most in quality."""


@dataclass(frozen=True)
class Comparison:
    """Several runs on one held-out set."""

    task: str
    set_name: str
    other_sets: list[str]
    """The other sets that all runs have."""
    examples: int
    metrics: dict[str, dict[str, float]]
    """All single numbers that the task measures, for each run by its name."""
    pairs: list[Pair]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self) | {"level": LEVEL, "resamples": RESAMPLES}


def compare_runs(paths: Sequence[str | os.PathLike[str]], set_name: str | None = None) -> Comparison:
    """Compare two or more complete runs on a set that all have; by default on `test`, or else on the first common set.

    Raises:
      UserError: if a folder is no complete run, or the runs have different tasks, rows or labels.
    """
    if len(paths) < 2:
        raise UserError("compare needs at least two run folders: jaxbert compare RUN RUN")
    names = _short_names([os.fspath(path) for path in paths])
    runs = [reopen(path) for path in paths]
    for name, run in zip(names, runs, strict=True):
        if run.model.task.name != runs[0].model.task.name:
            tasks = f"{names[0]} is a run of the task {runs[0].model.task.name}, {name} of {run.model.task.name}"
            raise UserError(f"{tasks}: compare runs of one task")
    common = [name for name in runs[0].outcomes if all(name in run.outcomes for run in runs)]
    chosen = _choose_set(names, runs, common, set_name)
    judged = [judge(run, chosen) for run in runs]
    for name, other in zip(names[1:], judged[1:], strict=True):
        _check_same(names[0], judged[0], name, other, chosen)
    return Comparison(
        task=runs[0].model.task.name,
        set_name=chosen,
        other_sets=[name for name in common if name != chosen],
        examples=len(judged[0].rows),
        metrics={name: _numbers(run, chosen) for name, run in zip(names, runs, strict=True)},
        pairs=[_pair(names[0], judged[0], name, other) for name, other in zip(names[1:], judged[1:], strict=True)],
    )


def _short_names(paths: list[str]) -> list[str]:
    """Return the names of the folders, or the whole paths if two folders have one name.

    Raises:
      UserError: if a folder is named twice.
    """
    whole = [path.rstrip("/") or path for path in paths]
    twice = next((path for path in whole if whole.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice: compare different runs")
    short = [os.path.basename(path) for path in whole]
    return short if len(set(short)) == len(short) else whole


def _choose_set(names: list[str], runs: list[Finished], common: list[str], wanted: str | None) -> str:
    if wanted in common:
        return wanted
    has = "; ".join(f"{name}: {', '.join(run.outcomes) or 'none'}" for name, run in zip(names, runs, strict=True))
    if wanted is not None:
        raise UserError(f"--set {wanted} is not a held-out set of all runs ({has}): name one that all have")
    if not common:
        raise UserError(f"the runs have no held-out set in common ({has}): train them with the same data.validation")
    return "test" if "test" in common else common[0]


def _check_same(first_name: str, first: Judged, name: str, other: Judged, chosen: str) -> None:
    """Check that two runs were measured on the same records with the same labels, in the same order."""
    way = "compare runs with the same held-out data"
    if len(first.rows) != len(other.rows):
        counts = f"{len(first.rows):,} examples in {first_name} and {len(other.rows):,} in {name}"
        raise UserError(f"the set {chosen} has {counts}: {way}")
    for kind, ours, theirs in (("text", first.texts, other.texts), ("label", first.expected, other.expected)):
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        if place is not None:
            there, here = (shorten(str(values[place])) for values in (ours, theirs))
            where = f"the {kind} of row {first.rows[place]} of the set {chosen}"
            raise UserError(f"{where} is {there!r} in {first_name} and {here!r} in {name}: {way}")


def _numbers(run: Finished, chosen: str) -> dict[str, float]:
    metrics = run.outcomes[chosen].metrics
    return {name: float(metrics[name]) for name in run.model.task.metric_names() if name in metrics}


def _pair(first_name: str, first: Judged, second_name: str, second: Judged) -> Pair:
    differences = []
    for ours, theirs in zip(first.measures, second.measures, strict=False):
        if ours.name != theirs.name:
            continue
        low, high = difference_interval(ours, theirs)
        better = None
        if low > 0 or high < 0:
            better = second_name if (low > 0) != falls(ours.name) else first_name
        differences.append(Difference(ours.name, theirs.value - ours.value, low, high, better))
    test = None if first.right is None or second.right is None else mcnemar(first.right, second.right)
    differing = np.array([a != b for a, b in zip(first.given, second.given, strict=True)])
    gains = first.distance - second.distance
    places = np.flatnonzero(differing)
    places = places[np.argsort(-np.abs(gains[places]), kind="stable")]
    shown = []
    for place in places[:MOST_SHOWN].tolist():
        closer = None if gains[place] == 0 else second_name if gains[place] > 0 else first_name
        one, other = (None if side.right is None else bool(side.right[place]) for side in (first, second))
        shown.append(
            Differing(
                row=str(first.rows[place]),
                text=first.texts[place],
                expected=first.expected[place],
                first=first.given[place],
                second=second.given[place],
                first_right=one,
                second_right=other,
                closer=closer,
            )
        )
    return Pair(first_name, second_name, differences, test, len(places), shown)
