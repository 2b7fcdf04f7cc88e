"""Checkpoints of a run: one small adapter around Orbax.

A checkpoint holds the train state and the position in the data with what the loop must remember, and is committed as a
whole. It is written in the background; `wait` and every later `save` raise what went wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxbert.errors import UserError

logging.getLogger("absl").setLevel(logging.ERROR)


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keep the last N checkpoints and the best one."""

    def __init__(self, latest: int) -> None:
        self.latest = latest
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        latest = {info.step for info in checkpoints[-self.latest :]}
        return [info.step in latest or info.step == self.best for info in checkpoints]


def _write_whole_arrays() -> None:
    """Let one device write what all devices of this process hold alike; several processes write a share each.

    For shares Orbax compiles a program a tensor and device: 80 in a run of two thin layers on eight devices.
    """
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=jax.process_count() > 1)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


class Checkpoints:
    """The checkpoints of one run, by step."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        _write_whole_arrays()
        self._policy = _LatestAndBest(keep)
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(preservation_policy=self._policy, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Committed steps in rising order."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, progress: dict[str, Any], best_step: int | None) -> None:
        """Begin to save; the state may be donated as soon as this returns. A step that is there already stays."""
        self._policy.best = best_step
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Wait until everything is committed, and raise what failed in the background."""
        self._manager.wait_until_finished()

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """Read the state into the shapes, dtypes and shardings of `target`, and the progress."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        self._policy.best = restored["progress"].get("best_step")
        return restored["state"], restored["progress"]

    def restore_params(self, step: int) -> Any:
        """Read the parameters alone, to the first device."""
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        args = ocp.args.Composite(state=ocp.args.StandardRestore(fallback_sharding=sharding))
        return self._manager.restore(step, args=args)["state"]["params"]

    def progress(self, step: int) -> dict[str, Any]:
        """Read what the loop remembered at `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]


def choose_step(checkpoints: Checkpoints, which: str) -> int:
    """Turn `last`, `best` or a number into a step that is there.

    Raises:
      UserError: if there is no such checkpoint.
    """
    steps = checkpoints.steps
    if not steps:
        raise UserError(f"{checkpoints.folder} has no complete checkpoint: train first")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = checkpoints.progress(steps[-1])["best_step"]
        if best is None:
            raise UserError(f"{checkpoints.folder}: the run had no evaluation yet, so none is best: take --step last")
        return best
    if not which.isdigit() or int(which) not in steps:
        raise UserError(f"--step {which!r} is not there: use last, best or one of {', '.join(map(str, steps))}")
    return int(which)
