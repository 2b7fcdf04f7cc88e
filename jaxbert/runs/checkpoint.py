"""Checkpoints of a run: one small adapter around Orbax.

A checkpoint holds the train state, the position in the data and the loop's progress. It is committed as a whole, with a list
of its files that reveals damage. It is written in the background; `wait` and every later `save` raise the errors of that.
All processes of a run call every function here.

Orbax cannot write to S3 by itself. It asks one function where TensorStore finds a folder, and that function knows only local
folders and Google's buckets. TensorStore supports S3, so the answer for a folder of S3 is the one for a Google bucket with
another driver. As in every bucket, Orbax's own commit file marks a complete checkpoint, because a bucket cannot rename.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from jaxbert.bucket import S3, in_bucket, move, to_path
from jaxbert.errors import UserError
from jaxbert.processes import another_is_gone, is_main, wait_for_all

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs tracebacks of errors that it raises afterwards

_MANIFEST = "files.json"
_CHANGES_LATER = "_CHECKPOINT_METADATA"
"""The file in which Orbax records the time of the commit."""
_BLOCK = 1 << 20
_DRIVERS = ("gcs", "gcs_grpc")

logger = logging.getLogger("jaxbert")


@dataclass
class _LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keep the last N checkpoints and the best one."""

    latest: int
    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        latest = {info.step for info in checkpoints[-self.latest :]}
        return [info.step in latest or info.step == self.best for info in checkpoints]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, but the loop decides when to stop.

    Orbax's own asks JAX's preemption service at each save, with the checkpoint's number, also from its background thread.
    The service takes the last number that it was asked about for the run's step. The loop counts differently, and would
    stop much later or never.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run, by step. With `read_only` the folder does not change, and the run may continue."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2, *, read_only: bool = False) -> None:
        # A single process writes a replicated array from one device; several processes write one share each. For shares
        # Orbax compiles one program per tensor and device: 80 in a run of two thin layers on eight devices.
        handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=jax.process_count() > 1)
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
        self._policy = _LatestAndBest(keep)
        self._saving: int | None = None
        self._needed = 0
        self.folder = to_path(folder) if in_bucket(folder) else to_path(folder).resolve()
        if is_main() and not read_only:
            quarantine(self.folder, self.folder.parent / "damaged_checkpoints")
        wait_for_all("checkpoints are looked at")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._list_files),
            **atomicity(self.folder),
        )
        self._manager = _Manager(self.folder, options=options)

    def _list_files(self) -> None:
        """List the files of the checkpoint that is about to be committed."""
        if is_main():
            # A bucket cannot rename: there the folder has its final name from the start.
            for unfinished in [*self.folder.glob(f"{self._saving}.*")] or [self.folder / str(self._saving)]:
                write_manifest(unfinished)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(Exception) if kind is not None else contextlib.nullcontext():
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """The committed steps in rising order."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, progress: dict[str, Any], best_step: int | None) -> bool:
        """Begin to save; the state may be donated as soon as this returns. An existing checkpoint of the step is kept.

        Returns:
          Whether the step had no checkpoint yet.

        Raises:
          UserError: if there is not enough space, or the save before failed.
        """
        self.wait()
        self._policy.best = best_step
        if step in self._manager.all_steps():
            return False
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        self._saving = step
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        with self._failing():
            self._manager.save(step, args=args, force=True)
        return True

    def wait(self) -> None:
        """Wait until all checkpoints are committed.

        Raises:
          UserError: if a save in the background failed.
        """
        with self._failing():
            self._manager.wait_until_finished()

    def _check_room(self, needed: int) -> None:
        self._needed = needed
        if in_bucket(self.folder):
            return
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"{self.folder} has room for {free / 1e6:,.1f} MB, but a checkpoint needs {needed / 1e6:,.1f} MB: make room "
                f"and run the same command to resume {self._after_last()}"
            )

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn errors of Orbax and its libraries while writing into a UserError; JAX raises its own for lost processes."""
        try:
            yield
        except Exception as error:
            expected = in_bucket(self.folder) or isinstance(error, OSError | ValueError | RuntimeError)
            if not expected or isinstance(error, jax.errors.JaxRuntimeError) or another_is_gone(error):
                raise
            raise UserError(
                f"the checkpoint of step {self._saving} cannot be written to {self.folder} ({_line(error)}); it needs "
                f"{self._needed / 1e6:,.1f} MB: free some space and run the same command to resume {self._after_last()}"
            ) from error

    def _after_last(self) -> str:
        steps = committed_steps(self.folder)  # the manager also lists steps that it began but did not commit
        return f"after step {steps[-1]}" if steps else "from the beginning"

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """Read the state, with the shapes, dtypes and shardings of `target`, and the progress."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        self._policy.best = restored["progress"].get("best_step")
        return restored["state"], restored["progress"]

    def is_whole(self, step: int) -> bool:
        """Return whether a checkpoint is undamaged; if it is damaged, log the reason."""
        wrong = find_damage(self.folder / str(step))
        if wrong:
            logger.warning("the checkpoint of step %d in %s is damaged (%s)", step, self.folder, wrong)
        return wrong is None

    def restore_params(self, step: int) -> Any:
        """Read the parameters, to the first device: their moving average, if there is one (`train.ema`).

        Raises:
          UserError: if the checkpoint is damaged.
        """
        if wrong := find_damage(self.folder / str(step)):
            raise UserError(f"the checkpoint of step {step} in {self.folder} is damaged ({wrong}): use another --step")
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        args = ocp.args.Composite(state=ocp.args.StandardRestore(fallback_sharding=sharding))
        state = self._manager.restore(step, args=args)["state"]
        return state.get("ema", state["params"])

    def progress(self, step: int) -> dict[str, Any]:
        """Read the loop's progress at `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]


def choose_step(checkpoints: Checkpoints, which: str) -> int:
    """Return the existing step for `last`, `best` or a number.

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
            raise UserError(
                f"{checkpoints.folder}: no evaluation of the run counts yet, so no checkpoint is the best: use --step last"
            )
        return best
    if not which.isdigit() or int(which) not in steps:
        raise UserError(f"--step {which!r} is not there: use last, best or one of {', '.join(map(str, steps))}")
    return int(which)


def _line(error: BaseException) -> str:
    """Return the operating system's message, which TensorStore puts after a chain of paths, or else the whole message."""
    said = " ".join(str(error).split())
    found = re.search(r"([^:\]]+) \[os_error_code", said)
    return found[1].strip() if found else said[:300]


def write_manifest(folder: epath.Path) -> None:
    """Write the list of the files in a checkpoint's folder."""
    content = {str(path.relative_to(folder)): [path.stat().length, _checksum(path)] for path in _files(folder)}
    (folder / _MANIFEST).write_text(json.dumps(content))


def find_damage(folder: epath.Path) -> str | None:
    """Compare a checkpoint with its list of files; return a description of the damage, or None."""
    try:
        expected = json.loads((folder / _MANIFEST).read_text())
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name, (size, checksum) in expected.items():
            if name not in found:
                return f"{name} is missing"
            if found[name].stat().length != size:
                return f"{name} has {found[name].stat().length} bytes instead of {size}"
            if _checksum(found[name]) != checksum:
                return f"{name} has another checksum"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{_MANIFEST} cannot be read: {error}"
    return None


def committed_steps(checkpoints: epath.Path) -> list[int]:
    """Return the committed steps in rising order; in a bucket, a checkpoint has its final name before it is committed."""
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()] if checkpoints.exists() else []
    known = atomicity(checkpoints)
    return sorted(step for step in steps if ocp.utils.is_checkpoint_finalized(checkpoints / str(step), **known))


def quarantine(checkpoints: epath.Path, aside: epath.Path) -> None:
    """Move damaged checkpoints to `aside`, from the newest until one is undamaged, and log it; nothing is deleted."""
    for step in reversed(committed_steps(checkpoints)):
        wrong = find_damage(checkpoints / str(step))
        if wrong is None:
            return
        aside.mkdir(parents=True, exist_ok=True)
        target = next(t for n in range(1, 10**6) if not (t := aside / f"{step}.{n}").exists())
        move(checkpoints / str(step), target)
        logger.warning("the checkpoint of step %d is damaged (%s): moved to %s", step, wrong, target)


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.name not in (_MANIFEST, _CHANGES_LATER):
            yield path


def _checksum(path: epath.Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def atomicity(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the arguments with which Orbax recognizes committed checkpoints in a folder; empty except for S3.

    Raises:
      UserError: if Orbax is too old, or so new that these functions have changed.
    """
    if not os.fspath(folder).startswith(S3):
        return {}
    try:
        _teach_orbax()
        return {"atomicity_options": ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)}
    except (ImportError, AttributeError) as error:
        raise UserError(f"{folder}: not with Orbax {ocp.__version__} ({error}): install jaxbert[s3]") from error


def _teach_orbax() -> None:
    """Make Orbax find folders of S3; once per process."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    known = tensorstore_utils.build_kvstore_tspec
    if hasattr(known, "__wrapped__"):
        return

    @functools.wraps(known)
    def build_kvstore_tspec(directory: str, *args: Any, **options: Any) -> Any:
        if not directory.startswith(S3):
            return known(directory, *args, **options)
        return _in_s3(known(f"gs://{directory.removeprefix(S3)}", *args, **options))

    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _in_s3(spec: Any) -> Any:
    """Return TensorStore's description of a place with each of Google's buckets in it replaced by S3."""
    if isinstance(spec, list):
        return [_in_s3(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    changed = {name: _in_s3(part) for name, part in spec.items()}
    return changed | {"driver": "s3", **_service()} if spec.get("driver") in _DRIVERS else changed


def _service() -> dict[str, Any]:
    """Return TensorStore's options for the S3 service, from the environment variables of Amazon's own tools."""
    found: dict[str, Any] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        found["endpoint"] = endpoint
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        found["aws_region"] = region
    if (kind := _credentials()) is not None:
        found["aws_credentials"] = {"type": kind}
    return found


def _credentials() -> str | None:
    """Return the source of the credentials; None lets TensorStore search, which reports each one that it does not find."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return "environment"
    files = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    profile = any(Path(os.environ.get(name, usual)).expanduser().exists() for name, usual in files.items())
    if profile or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        return None
    container = any(f"AWS_CONTAINER_CREDENTIALS_{end}" in os.environ for end in ("RELATIVE_URI", "FULL_URI"))
    return "ecs" if container else "imds"
