"""The devices of TPU slices as libtpu describes them, only for compiling; this machine need not have them."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from jaxbert.config import MeshConfig
from jaxbert.errors import UserError
from jaxbert.hardware import device_spec
from jaxbert.plan.gpu import GPUS
from jaxbert.train.runtime import tpu_attached
from jaxbert.train.sharding import make_mesh


@dataclass(frozen=True)
class Chip:
    """One generation of TPUs; a chip is one device."""

    axes: int
    """The dimensions of the torus, and of a slice's name."""
    config_name: str = "default"
    """Libtpu's name for both cores of a chip as one device."""


CHIPS = {"v4": Chip(3, "megacore"), "v5e": Chip(2), "v5p": Chip(3), "v6e": Chip(2)}

# On a machine without a TPU libtpu would ask Google's metadata server for its machine type, complain when nobody answers,
# write log files, and refuse to work in two processes at a time. The slice that these variables name does not matter.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology_mesh(name: str, config: MeshConfig) -> Mesh:
    """Arrange the devices of a slice such as `v5e:16x16` in axes `data`, `fsdp` and `tensor`; the slice need not exist here.

    Raises:
      UserError: if there is no such slice, no libtpu, or the mesh does not fit.
    """
    return make_mesh(config, topology_devices(name))


def topology_devices(name: str) -> list[Any]:
    """Return one abstract device for each chip of a slice.

    Raises:
      UserError: if there is no such slice or no libtpu.
    """
    chip, sizes = _parse(name)
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError(f"compiling for {name} needs libtpu, the compiler for TPUs: pip install 'jaxbert[tpu]'")
    options = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(sizes) == 1 else {}
    try:
        with _no_questions():
            slice_ = topologies.get_topology_desc(name, "tpu", chip_config_name=chip.config_name, **options)
    except jax.errors.JaxRuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"libtpu makes no slice {name}; choose a size that is sold, as 2x4 of v5e: {said}") from error
    return slice_.devices


def hbm_bytes(device: Any) -> int | None:
    """Return the bytes of the memory of a TPU chip, or of a GPU that is described for compiling; None for any other device.

    Google writes GB but means GiB: libtpu 0.0.42.1 lets a program use 30.75 of a v4, 15.75 of a v5e, 95.74 of a v5p and
    31.25 of a v6e.
    """
    spec = device_spec(device.device_kind)
    if spec is None:
        return None
    if device.platform == "tpu":
        return round(spec.memory_gb * 2**30)
    return GPUS[spec.name].memory_bytes if spec.name in GPUS else None


def _parse(name: str) -> tuple[Chip, list[int]]:
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    chip = CHIPS.get(match.group(1)) if match else None
    if match is None or chip is None:
        raise UserError(
            f"topology {name!r} is not understood: give CHIP:SIZES as in v5e:16x16 or v5p:4x4x4, "
            f"where CHIP is one of {', '.join(CHIPS)}"
        )
    kind, sizes = match.group(1), [int(size) for size in match.group(2).split("x")]
    if len(sizes) != chip.axes or 0 in sizes:
        example = f"{kind}:{'x'.join(['4'] * chip.axes)}"
        raise UserError(f"topology {name!r}: a slice of {kind} has {chip.axes} sizes from 1 on, as in {example}")
    return chip, sizes


@contextlib.contextmanager
def _no_questions() -> Iterator[None]:
    """Set the values that libtpu asks for when it is loaded, unless there is a TPU, which must report them itself."""
    added = {} if tpu_attached() else {k: v for k, v in _NO_TPU_HERE.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
