"""The fastest settings that `jaxbert bench --tune` found on a kind of device, kept in a file beside the compiled programs.

They change the speed, and results by rounding alone. A setting that the user gives always wins. The file is read when a run
opens; `bench.tune` measures and writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from etils import epath

from jaxbert.bucket import to_path, write_whole
from jaxbert.data.packing import Layout
from jaxbert.errors import UserError
from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.pallas import KernelSettings
from jaxbert.models.attention.select import backend_of
from jaxbert.plain import read_json
from jaxbert.processes import all_alike

if TYPE_CHECKING:
    from jaxbert.train.programs import Program

FILE = "tuned.json"
_PARTS = ("kernels", "steps")
_MOST_STEPS = 1024
_TILES = (16, 32, 64, 128, 256)
_WARPS = (1, 2, 4, 8, 16)
_MOST_STAGES = 8

Place = dict[str, str | int]
"""The device, versions and sizes for which settings were measured."""
Content = dict[str, list[dict[str, Any]]]
"""`kernels` and `steps`: entries with a `place`, the `settings` that were fastest there, and the times of all candidates."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Tuned:
    """Settings that were measured; None where nothing was, or where the user's own setting wins."""

    scan_layers: bool | None = None
    """Whether layers run as one compiled loop."""
    steps_per_dispatch: int | None = None
    """Number of steps that are sent to the device at once."""
    kernel: KernelSettings | None = None
    """How the Pallas kernels of attention divide their work in training steps."""

    def describe(self) -> str:
        """Return the settings as text; empty if there are none."""
        parts = []
        if self.scan_layers is not None:
            parts.append(f"model.scan_layers {str(self.scan_layers).lower()}")
        if self.steps_per_dispatch is not None:
            parts.append(f"train.steps_per_dispatch {self.steps_per_dispatch}")
        if self.kernel is not None:
            parts.append(f"attention by {describe_kernel(self.kernel)}")
        return ", ".join(parts)


NOTHING_TUNED = Tuned()


def describe_kernel(settings: KernelSettings) -> str:
    """Return the settings of kernels as text."""
    pipeline = f"{settings.warps} warps, {settings.stages} stages"
    return f"tiles of {settings.tile} ({settings.visited} queries at a time), {pipeline}"


def tuned_file() -> epath.Path | None:
    """Return the path of the file, in the folder of compiled programs; None if they are not kept on this machine."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return to_path(folder) / FILE if folder and "://" not in folder else None


def kernel_place(program: Program, row_length: int) -> Place:
    """Return the device, the versions and the sizes on which the speed of the kernels depends."""
    from jaxlib.version import __version__ as jaxlib

    device = program.mesh.devices.flat[0]
    capability, request = Hardware.of(device).capability, program.attention_request(row_length)
    return {
        "device": device.device_kind,
        "capability": device.platform if capability is None else "{}.{}".format(*capability),
        "jaxlib": jaxlib,
        "head_width": request.head_width,
        "dtype": request.dtype,
        "row_length": _size_class(row_length),
    }


def step_place(program: Program, layout: Layout) -> Place:
    """Return what `kernel_place` returns, with the sizes on which the speed of a whole step depends."""
    bert, train = program.model.config, program.config.train
    return kernel_place(program, layout.row_length) | {
        "layers": bert.num_hidden_layers,
        "hidden_size": bert.hidden_size,
        "tokens": _size_class(max(layout.row_counts) * layout.row_length),
        "accumulation_steps": train.accumulation_steps,
        "devices": program.mesh.size,
    }


def _size_class(size: int) -> int:
    """Return the next power of two, at least 16: sizes up to it are treated alike."""
    return 1 << max(4, (size - 1).bit_length())


def find_tuned(program: Program, layout: Layout) -> Tuned:
    """Return the settings that were measured for a run of this kind, and tell the user which are used.

    Several processes must compile the same programs: they use settings only if all of them find the same.
    """
    path = tuned_file()
    found = NOTHING_TUNED if path is None or not path.exists() else _usable(program, layout, _read(path))
    if not all_alike(hashlib.sha256(repr(found).encode()).digest()[:16]):
        logger.warning("tuned settings are not used, because the processes of this run have found different ones")
        return NOTHING_TUNED
    if found != NOTHING_TUNED:
        logger.warning("tuned settings are used (%s): %s", path, found.describe())
    return found


def _usable(program: Program, layout: Layout, content: Content) -> Tuned:
    """Return the settings for a run of this kind without those that the user has set, and those that do not apply."""
    kernel = _settings(content["kernels"], kernel_place(program, layout.row_length))
    step = _settings(content["steps"], step_place(program, layout))
    model, train = program.config.model, program.config.train
    by_pallas = backend_of(program.call.attention, program.attention_request(layout.row_length)) == "pallas"
    free = model.scan_layers is None and model.remat == "none"
    return Tuned(
        scan_layers=step.get("scan_layers") if free else None,
        steps_per_dispatch=step.get("steps_per_dispatch") if train.steps_per_dispatch is None else None,
        kernel=KernelSettings(**kernel) if kernel and by_pallas else None,
    )


def _settings(entries: list[dict[str, Any]], place: Place) -> dict[str, Any]:
    """Return the settings of the entry for a place, empty if there is none."""
    return next((entry["settings"] for entry in entries if entry["place"] == place), {})


def _read(path: epath.Path, then: str = "ignored: remove it, or run `jaxbert bench --tune` again") -> Content:
    """Return the content of the file, empty if there is none or it is damaged; a line then says what happens to it."""
    if not path.exists():
        return _nothing()
    with contextlib.suppress(UserError, OSError, KeyError, TypeError):
        content = read_json(path)
        if all(_is_sound(part, entry) for part in _PARTS for entry in content[part]):
            return content
    logger.warning("%s is damaged and is %s", path, then)
    return _nothing()


def _nothing() -> Content:
    return {part: [] for part in _PARTS}


def _is_sound(part: str, entry: Any) -> bool:
    """Return whether an entry has a place and settings that programs can be compiled with."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), dict) for key in ("place", "settings")):
        return False
    settings = entry["settings"]
    if part == "kernels":
        if settings.keys() != {field.name for field in dataclasses.fields(KernelSettings)}:
            return False
        known = settings["tile"] in _TILES and settings["visited"] in _TILES and settings["warps"] in _WARPS
        whole = all(type(value) is int for value in settings.values())
        return whole and known and _is_count(settings["stages"], _MOST_STAGES)
    return settings.get("scan_layers") in (True, False, None) and (
        settings.get("steps_per_dispatch") is None or _is_count(settings["steps_per_dispatch"], _MOST_STEPS)
    )


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def keep_tuned(path: epath.Path, new: Content) -> None:
    """Write entries to the file, whole or not at all; they replace those of the same place, and others stay.

    Processes that do this at once wait for each other: on a cluster, machines with different devices share a home folder.

    Raises:
      UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(Path(path.with_name(f"{path.name}.lock"))):
            content = _read(path, "replaced")
            for part in _PARTS:
                places = [entry["place"] for entry in new[part]]
                content[part] = [entry for entry in content[part] if entry["place"] not in places] + new[part]
            write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process; where the system or the file system has no locks, go on without."""
    with path.open("a") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
