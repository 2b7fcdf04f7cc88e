"""The smallest change that makes a step fit, found by compiling.

Changes are tried in the order of their cost to the user. More `mesh.fsdp` exchanges more, `model.remat` computes more,
`train.accumulation_steps` works on smaller slices; the run learns the same with all of these. A smaller `train.batch_size`
changes the run, and comes last. An estimate skips changes that cannot fit; every proposal was compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxbert.config import Config
from jaxbert.plan.planner import Attempt, Planner, sharding_rows, state_bytes
from jaxbert.plan.workload import Workload
from jaxbert.train.sharding import row_devices

Settings = dict[str, Any]
"""Key of the configuration -> value."""
_REMAT = ("none", "dots", "full")


@dataclass(frozen=True)
class FittingPlan:
    """Settings with which the step fits."""

    settings: Settings
    attempt: Attempt

    @property
    def flags(self) -> str:
        """The settings as flags of the command line."""
        return " ".join(f"--{key} {value}" for key, value in self.settings.items())


def find_fit(planner: Planner, first: Attempt, say: Callable[[str], None] = lambda _: None) -> FittingPlan | None:
    """Return the change that costs the user least, or None if no change fits.

    Args:
      planner: the planner of the target.
      first: the attempt that does not fit.
      say: a function that receives a message about each trial.
    """
    return _Search(planner, first, say).run()


class _Search:
    """Families of changes, each in rising cost and falling memory; bisection finds the first of a family that fits."""

    def __init__(self, planner: Planner, first: Attempt, say: Callable[[str], None]) -> None:
        self._planner, self._first, self._say = planner, first, say
        self._tried: dict[tuple, Attempt | None] = {}

    def run(self) -> FittingPlan | None:
        for family in families(self._first):
            found = self._first_that_fits(family)
            if found is not None:
                return found
        return None

    def _first_that_fits(self, family: list[Settings]) -> FittingPlan | None:
        if not family or self._fitting(family[-1]) is None:
            return None
        low, high = 0, len(family) - 1
        while low < high:
            middle = (low + high) // 2
            if self._fitting(family[middle]) is None:
                low = middle + 1
            else:
                high = middle
        attempt = self._fitting(family[high])
        assert attempt is not None, "it was tried above"
        return FittingPlan(family[high], attempt)

    def _fitting(self, settings: Settings) -> Attempt | None:
        """Compile with these settings, once; return None if the step does not fit."""
        key = tuple(settings.items())
        if key not in self._tried:
            config = with_changes(self._first.config, settings)
            workload = self._planner.workload(config)
            attempt = None
            if not hopeless(self._first, workload, self._planner.memory_bytes):
                self._say("does not fit; trying " + ", ".join(f"{k} {v}" for k, v in settings.items()))
                attempt = self._planner.attempt(config, workload)
            self._tried[key] = attempt if attempt is not None and attempt.fits else None
        return self._tried[key]


def families(first: Attempt) -> list[list[Settings]]:
    """Return the changes to try: first one kind after the other, then combinations, then smaller batches."""
    config, work = first.config, first.workload
    mesh = work.program.mesh
    shards = row_devices(mesh)
    rows = max(1, work.rows // shards)
    fsdp = [
        _sharded(config, k, mesh.shape["tensor"]) for k in range(mesh.shape["fsdp"] + 1, shards + 1) if shards % k == 0
    ]
    remat = [{"model.remat": name} for name in _REMAT[_REMAT.index(config.model.remat) + 1 :]]
    slices = [{"train.accumulation_steps": k} for k in _doublings(config.train.accumulation_steps, rows)]
    batches = [{"train.batch_size": config.train.batch_size // k} for k in _doublings(1, rows)]
    most: Settings = fsdp[-1] if fsdp else {}
    strongest = most | (remat[-1] if remat else {})
    return [
        fsdp,
        remat,
        slices,
        [most | change for change in remat] if fsdp else [],
        [strongest | change for change in slices] if strongest else [],
        batches,
        [strongest | change for change in batches] if strongest else [],
    ]


def _sharded(config: Config, fsdp: int, tensor: int) -> Settings:
    """Return a mesh with the given fsdp and tensor sizes; data takes the remaining devices."""
    if config.mesh.data == -1:
        return {"mesh.fsdp": fsdp}
    return {"mesh.data": -1, "mesh.fsdp": fsdp} | ({"mesh.tensor": tensor} if config.mesh.tensor == -1 else {})


def _doublings(value: int, rows: int) -> list[int]:
    """Return `value` doubled again and again, as long as each device has at least one row per slice."""
    doubled = []
    while 2 * value <= rows:
        value *= 2
        doubled.append(value)
    return doubled


def with_changes(config: Config, settings: Settings) -> Config:
    """Return the configuration with some keys changed."""
    changes: dict[str, Settings] = {}
    for name, value in settings.items():
        section, key = name.split(".")
        changes.setdefault(section, {})[key] = value
    sections = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    return dataclasses.replace(config, **sections)


def hopeless(first: Attempt, workload: Workload, available: float | None) -> bool:
    """Return whether a change surely saves too little memory, judged by the needs of `first`.

    The estimate is generous: temporaries shrink with the rows that are processed at once, and by as much as AdamW's state
    would (gradients and updates are two thirds of it). The savings of remat are not known, so with it only the state counts.
    """
    if available is None:
        return False
    state, state_before = state_bytes(workload.program), state_bytes(first.workload.program)
    shrunk = max(state_before - state, 3 * (_params_bytes(first.workload) - _params_bytes(workload)), 0)
    rest = max(0.0, (first.needed_bytes or 0.0) - state_before - shrunk)
    if workload.program.config.model.remat != first.config.model.remat:
        rest = 0.0
    return state + rest * min(1.0, _rows_at_once(workload) / _rows_at_once(first.workload)) > available


def _params_bytes(workload: Workload) -> int:
    return sum(row["device_bytes"] for row in sharding_rows(workload.program))


def _rows_at_once(workload: Workload) -> float:
    program = workload.program
    return workload.rows / row_devices(program.mesh) / program.config.train.accumulation_steps
