"""What a study has found so far: its trials, the best of them, `search.json`, the table, and the exported folder `best`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etils import epath
from rich.table import Table

from jaxbert.bucket import copy, in_bucket
from jaxbert.errors import foreign_errors
from jaxbert.plain import to_json
from jaxbert.runs.folder import RunFolder
from jaxbert.studies.stopping import Course
from jaxbert.studies.trial import Objective
from jaxbert.terminal import console

if TYPE_CHECKING:
    import optuna

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
STEPS, SECONDS, ERROR, PRUNED_AT = "steps", "seconds", "error", "pruned_at"
"""The attributes of a trial in the storage."""
_MOST_SHOWN = 12


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as far as it has come."""

    number: int
    state: str
    """`complete`, `pruned`, `failed` or `running`."""
    params: dict[str, Any]
    values: tuple[float, ...] | None
    """One value for each objective; None unless the trial is complete."""
    points: dict[int, float] = field(default_factory=dict)
    """The first objective after each evaluation, by step."""
    told: dict[str, Any] = field(default_factory=dict)
    """What else is known: `steps`, `seconds`, `error`, `pruned_at`."""

    def course(self, objective: Objective) -> Course:
        """Return the evaluations as the rules of early stopping read them."""
        steps = max(1, int(self.told.get(STEPS) or 1))
        points = tuple((step / steps, objective.merit(value)) for step, value in sorted(self.points.items()))
        return Course(points, complete=self.state == "complete")


def trials_of(study: optuna.Study) -> list[TrialRecord]:
    """Return all trials that have begun, by number."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name not in _STATES:
            continue
        values = tuple(trial.values) if trial.state.name == "COMPLETE" and trial.values is not None else None
        state, params = _STATES[trial.state.name], dict(trial.params)
        found.append(
            TrialRecord(trial.number, state, params, values, dict(trial.intermediate_values), dict(trial.user_attrs))
        )
    return sorted(found, key=lambda record: record.number)


@dataclass(frozen=True)
class Found:
    """The trials of a study, compared."""

    objectives: tuple[Objective, ...]
    records: Sequence[TrialRecord]

    @property
    def complete(self) -> list[TrialRecord]:
        """The complete trials, the best by the first objective first; of equal ones the earliest."""
        whole = [record for record in self.records if record.values is not None]
        return sorted(whole, key=lambda record: (-self.merits(record)[0], record.number))

    @property
    def best(self) -> TrialRecord | None:
        """The best complete trial by the first objective."""
        return next(iter(self.complete), None)

    @property
    def front(self) -> list[TrialRecord]:
        """The complete trials than which no other is better in one objective and as good in all others."""
        return [mine for mine in self.complete if not any(self._beats(other, mine) for other in self.complete)]

    def merits(self, record: TrialRecord) -> tuple[float, ...]:
        """Return the values of a complete trial so that larger is better."""
        assert record.values is not None
        return tuple(one.merit(value) for one, value in zip(self.objectives, record.values, strict=True))

    def _beats(self, one: TrialRecord, other: TrialRecord) -> bool:
        a, b = self.merits(one), self.merits(other)
        equal_before = a == b and len(a) == 1 and one.number < other.number
        return equal_before or (a != b and all(x >= y for x, y in zip(a, b, strict=True)))

    def content(self) -> dict[str, Any]:
        """Return the content of `search.json`."""
        names = [one.name for one in self.objectives]
        best = self.best
        return {
            "objectives": {
                one.name: "smaller is better" if one.falls else "larger is better" for one in self.objectives
            },
            "best": None if best is None else self._entry(best),
            **({"front": [record.number for record in self.front]} if len(names) > 1 else {}),
            "trials": [self._entry(record) for record in self.records],
        }

    def _entry(self, record: TrialRecord) -> dict[str, Any]:
        values, names = record.values, [one.name for one in self.objectives]
        told = {name: record.told[name] for name in (PRUNED_AT, ERROR, SECONDS) if name in record.told}
        several = {} if len(names) == 1 else {"values": values and dict(zip(names, values, strict=True))}
        return {
            "number": record.number,
            "value": values and values[0],
            **several,
            "params": record.params,
            "state": record.state,
            **told,
            "folder": f"trials/{record.number:03d}",
        }


def write_shared(path: epath.Path, text: str) -> None:
    """Write a file completely or not at all, also if several processes write it at once."""
    with foreign_errors(f"{path} cannot be written"):
        if in_bucket(path):
            path.write_text(text)
            return
        staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        staged.write_text(text)
        staged.replace(path)


def write_results(folder: epath.Path, found: Found) -> None:
    """Write `search.json`."""
    write_shared(folder / "search.json", to_json(found.content()) + "\n")


def drop_exports(found: Found, folders: dict[int, RunFolder]) -> None:
    """Remove the exported models of trials that are not among the best; a trial is trained again by its `config.yaml`."""
    kept = {record.number for record in found.front}
    for record in found.records:
        if record.state in ("complete", "pruned") and record.number not in kept:
            run = folders[record.number]
            for part in (run, *run.parts()):
                part.export.rmtree(missing_ok=True)


def export_best(folder: epath.Path, found: Found, of: RunFolder) -> epath.Path:
    """Copy the best trial's run folder to `best`, unless it is there already, perhaps from another process."""
    target, record = folder / "best", found.best
    assert record is not None
    mark = target / "trial"

    def is_there() -> bool:
        return mark.exists() and mark.read_text().strip() == str(record.number)

    if is_there():
        return target
    staged = target if in_bucket(target) else folder / f"best.{os.getpid()}.tmp"
    staged.rmtree(missing_ok=True)
    staged.mkdir(parents=True)
    for path in sorted(of.path.iterdir()):
        if path.name not in ("lock", "checkpoints"):
            copy(path, staged / path.name)
    (staged / mark.name).write_text(f"{record.number}\n")
    if staged != target:
        try:
            target.rmtree(missing_ok=True)
            staged.rename(target)
        except OSError:
            if not is_there():
                raise
            staged.rmtree(missing_ok=True)
    return target


def shown_value(value: Any) -> str:
    """Return a value of a key, short."""
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def shown_params(params: dict[str, Any]) -> str:
    """Return the values of a trial on one line."""
    return ", ".join(f"{key.partition('.')[2]} {shown_value(value)}" for key, value in params.items())


def print_found(found: Found, keys: Sequence[str]) -> None:
    """Print a table of the best trials."""
    names = [one.name for one in found.objectives]
    shown = found.complete[:_MOST_SHOWN]
    counts = {state: sum(record.state == state for record in found.records) for state in _STATES.values()}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    table = Table(
        "trial",
        *names,
        *(key.partition(".")[2] for key in keys),
        title=f"the best of {len(found.records)} trials ({said})",
    )
    for record in shown:
        assert record.values is not None
        values = [f"{value:,.4f}" if math.isfinite(value) else "" for value in record.values]
        table.add_row(str(record.number), *values, *(shown_value(record.params[key]) for key in keys))
    console.print(table, highlight=False)
