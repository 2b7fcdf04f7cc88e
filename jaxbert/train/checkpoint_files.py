"""Whether the files of a checkpoint are still those that were written.

A list of all files with size and checksum lies among them. It is written last before the checkpoint is committed, so every
committed one has it.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath

from jaxbert.bucket import move
from jaxbert.train.s3 import atomicity

_LIST = "files.json"
_CHANGES_LATER = "_CHECKPOINT_METADATA"
"""Orbax notes the time of the commit there."""
_BLOCK = 1 << 20

logger = logging.getLogger("jaxbert")


def seal(folder: epath.Path) -> None:
    """Write the list of the files that lie in a checkpoint's folder."""
    content = {str(path.relative_to(folder)): [path.stat().length, _checksum(path)] for path in _files(folder)}
    (folder / _LIST).write_text(json.dumps(content))


def damage(folder: epath.Path) -> str | None:
    """Compare a checkpoint with its list; return what is wrong with it, or None."""
    try:
        expected = json.loads((folder / _LIST).read_text())
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name, (size, checksum) in expected.items():
            if name not in found:
                return f"{name} is missing"
            if found[name].stat().length != size:
                return f"{name} has {found[name].stat().length} bytes instead of {size}"
            if _checksum(found[name]) != checksum:
                return f"{name} has another checksum"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{_LIST} cannot be read: {error}"
    return None


def committed_steps(checkpoints: epath.Path) -> list[int]:
    """Return the steps of committed checkpoints in rising order; in a bucket one has its name before it is committed."""
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()] if checkpoints.exists() else []
    known = atomicity(checkpoints)
    return sorted(step for step in steps if ocp.utils.is_checkpoint_finalized(checkpoints / str(step), **known))


def set_damaged_aside(checkpoints: epath.Path, aside: epath.Path) -> None:
    """Move damaged checkpoints to `aside`, from the newest on until one is whole, and say so; nothing is deleted."""
    for step in reversed(committed_steps(checkpoints)):
        wrong = damage(checkpoints / str(step))
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
        elif path.name not in (_LIST, _CHANGES_LATER):
            yield path


def _checksum(path: epath.Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found
