"""Compare complete runs on one held-out set: metrics, intervals of their differences, McNemar's test, differing answers.

Each run is compared with the first one. Runs are refused if their rows or labels differ: their metrics would not compare.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxbert.data.table import Row
from jaxbert.errors import UserError, shorten
from jaxbert.tasks.metrics import falls
from jaxbert.train.inference import Finished
from jaxbert.understand.judged import Judged, judge
from jaxbert.understand.paired import LEVEL, RESAMPLES, difference_interval, mcnemar
from jaxbert.understand.records import read_texts
from jaxbert.understand.reopen import reopen

_TIMED, _TURNS = 512, 5
"""Examples that are answered again to be timed, and how often; the median counts."""
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

    def mcnemar_sentence(self) -> str | None:
        """Return the result of McNemar's test as text; None for numbers."""
        if self.mcnemar is None:
            return None
        first, second = (f"{self.mcnemar[key]:,}" for key in ("only_first_right", "only_second_right"))
        right = f"Right: {first} examples only for {self.first}, {second} only for {self.second}."
        return f"{right} McNemar's exact test: p = {self.mcnemar['p_value']:.3g}."


@dataclass(frozen=True)
class Size:
    """How large and how fast a run's model is."""

    layers: int
    columns: int
    """Columns of the feed-forward block of each layer."""
    tokens: int
    """Tokens of the vocabulary."""
    parameters: int
    """The number of parameters, of an ensemble those of all its models."""
    answers_per_second: float | None = None
    """Answers a second for the first examples of the set, packed, on this machine; None if it was not timed."""


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
    sizes: dict[str, Size]
    """The size of each run's model, by the run's name."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self) | {"level": LEVEL, "resamples": RESAMPLES}


def compare_runs(
    paths: Sequence[str | os.PathLike[str]], set_name: str | None = None, *, timed: bool = False
) -> Comparison:
    """Compare two or more complete runs on a set that all have; by default on `test`, or else on the first common set.

    With `timed`, the models also answer again for the first examples of the set, in turns, to be timed.

    Raises:
      UserError: if a folder is no complete run, or the runs have different tasks, rows or labels.
    """
    if len(paths) < 2:
        raise UserError("compare needs at least two run folders: jaxbert compare RUN RUN")
    named = [os.fspath(path) for path in paths]
    return compare_finished(named, [reopen(path) for path in paths], set_name, timed=timed)


def compare_finished(
    paths: list[str], runs: list[Finished], set_name: str | None = None, *, timed: bool = False
) -> Comparison:
    """Do `compare_runs` for runs that are open; their names are those of the folders in `paths`."""
    names = _short_names(paths)
    for name, run in zip(names, runs, strict=True):
        if run.model.task.name != runs[0].model.task.name:
            tasks = f"{names[0]} is a run of the task {runs[0].model.task.name}, {name} of {run.model.task.name}"
            raise UserError(f"{tasks}: compare runs of one task")
    common = [name for name in runs[0].outcomes if all(name in run.outcomes for run in runs)]
    chosen = _choose_set(names, runs, common, set_name)
    sides = [_Side.of(name, run, chosen) for name, run in zip(names, runs, strict=True)]
    for other in sides[1:]:
        _check_same(sides[0], other, chosen)
    return Comparison(
        task=runs[0].model.task.name,
        set_name=chosen,
        other_sets=[name for name in common if name != chosen],
        examples=len(sides[0].rows),
        metrics={name: _numbers(run, chosen) for name, run in zip(names, runs, strict=True)},
        pairs=[_pair(sides[0], other) for other in sides[1:]],
        sizes=_sizes(names, runs, chosen, timed),
    )


def _sizes(names: list[str], runs: list[Finished], chosen: str, timed: bool) -> dict[str, Size]:
    rates = _rates(runs, chosen) if timed else [None] * len(runs)
    found = {}
    for name, run, rate in zip(names, runs, rates, strict=True):
        config, leaves = run.model.predictor.model.config, jax.tree.leaves(run.model.params)
        columns, parameters = config.intermediate_size, sum(leaf.size for leaf in leaves)
        found[name] = Size(config.num_hidden_layers, columns, config.vocab_size, parameters, rate)
    return found


def _rates(runs: list[Finished], chosen: str) -> list[float]:
    """Return the answers a second of each model for the first examples of a set; they answer in turns."""
    parts = [run.outcomes[chosen].examples.take(np.arange(min(_TIMED, len(run.outcomes[chosen])))) for run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(_TURNS + 1):  # the first one compiles
        for run, part, times in zip(runs, parts, seconds, strict=True):
            begin = time.perf_counter()
            for _ in run.model.predictor.pieces(run.model.params, part):
                pass
            times += [time.perf_counter() - begin] if turn else []
    return [len(part) / statistics.median(times) for part, times in zip(parts, seconds, strict=True)]


@dataclass(frozen=True, eq=False)
class _Side:
    """A run with its answers to the N examples of the set."""

    name: str
    rows: list[Row]
    """The number of each record in its source, from 1."""
    texts: list[str]
    judged: Judged

    @classmethod
    def of(cls, name: str, run: Finished, chosen: str) -> _Side:
        """Judge the answers of a run.

        Raises:
          UserError: if its task has no answers, its model has diverged, or its texts cannot be read again.
        """
        judged = judge(run.outcomes[chosen])
        if judged is None:
            raise UserError(f"{name} is a run of the task {run.model.task.name}, whose answers cannot be compared")
        if np.isnan(run.outcomes[chosen].predictions).any():
            raise UserError(f"{name} has predictions that are not numbers, so its model has diverged: leave it out")
        return cls(name, *read_texts(run, chosen), judged)


def _short_names(paths: list[str]) -> list[str]:
    """Return the names of the folders, or the whole paths if two folders have one name.

    Raises:
      UserError: if a folder is named twice.
    """
    whole = [path.rstrip("/") or path if "://" in path else os.path.normpath(path) for path in paths]
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


def _check_same(first: _Side, other: _Side, chosen: str) -> None:
    """Check that two runs were measured on the same records with the same labels, in the same order."""
    way = "compare runs with the same held-out data"
    if len(first.rows) != len(other.rows):
        counts = f"{len(first.rows):,} examples in {first.name} and {len(other.rows):,} in {other.name}"
        raise UserError(f"the set {chosen} has {counts}: {way}")
    labels = first.judged.expected, other.judged.expected
    for kind, ours, theirs in (("text", first.texts, other.texts), ("label", *labels)):
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        if place is not None:
            there, here = (shorten(str(values[place])) for values in (ours, theirs))
            where = f"the {kind} of row {first.rows[place]} of the set {chosen}"
            raise UserError(f"{where} is {there!r} in {first.name} and {here!r} in {other.name}: {way}")


def _numbers(run: Finished, chosen: str) -> dict[str, float]:
    metrics = run.outcomes[chosen].metrics
    return {name: float(metrics[name]) for name in run.model.task.metric_names() if name in metrics}


def _pair(first: _Side, second: _Side) -> Pair:
    ours, theirs = first.judged, second.judged
    test = None if ours.right is None or theirs.right is None else mcnemar(ours.right, theirs.right)
    differing = np.flatnonzero([a != b for a, b in zip(ours.given, theirs.given, strict=True)])
    gains = ours.distance - theirs.distance
    worst = differing[np.argsort(-np.abs(gains[differing]), kind="stable")][:MOST_SHOWN].tolist()
    shown = [
        Differing(
            row=str(first.rows[place]),
            text=first.texts[place],
            expected=ours.expected[place],
            first=ours.given[place],
            second=theirs.given[place],
            first_right=None if ours.right is None else bool(ours.right[place]),
            second_right=None if theirs.right is None else bool(theirs.right[place]),
            closer=None if gains[place] == 0 else second.name if gains[place] > 0 else first.name,
        )
        for place in worst
    ]
    return Pair(first.name, second.name, _differences(first, second), test, len(differing), shown)


def _differences(first: _Side, second: _Side) -> list[Difference]:
    """Return the difference of each metric that both runs have."""
    found, others = [], second.judged.makers
    for name, make in first.judged.makers.items():
        if name in others:
            ours, theirs, better = make(), others[name](), None
            low, high = difference_interval(ours, theirs)
            if low > 0 or high < 0:
                better = second.name if (low > 0) != falls(name) else first.name
            found.append(Difference(name, theirs.value - ours.value, low, high, better))
    return found
