"""The devices that a plan is for, by name: a slice of TPUs, GPUs or CPU devices, which this machine need not have.

Parsing and preparing do not import JAX: the number of devices that a CPU simulates must be set before a backend starts.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from jaxbert.errors import UserError
from jaxbert.hardware import DEVICES, DeviceSpec, Link, device_spec, link_of
from jaxbert.plan.gpu import GPUS, gpu_devices, lacks_compiler

_TPUS = {spec.name.removeprefix("TPU "): spec for spec in DEVICES if spec.name.startswith("TPU ")}
_GPUS = ("b200", "h200", "h100", "a100", "a100-80gb", "l4", "t4")
_MOST_STAND_INS = 1024
"""The most devices that a CPU simulates; this many compile in the memory of a small machine."""
_FLAG = "--xla_force_host_platform_device_count"
_GPU_FRACTION = 0.75
"""The share of a GPU's memory that JAX takes by default (XLA_PYTHON_CLIENT_MEM_FRACTION)."""


@dataclass(frozen=True)
class Target:
    """A number of devices of one kind."""

    name: str
    platform: Literal["tpu", "gpu", "cpu"]
    devices: int
    sizes: tuple[int, ...] = ()
    """The sizes of the torus."""
    spec: DeviceSpec | None = None
    """The known properties of the device; None for a CPU."""

    @property
    def lacks(self) -> str | None:
        """The reason why GPUs are replaced by CPU devices: their compiler is not complete here. None for other devices."""
        return lacks_compiler(self.spec.name) if self.platform == "gpu" and self.spec is not None else None

    @property
    def stands_in(self) -> bool:
        """Whether CPU devices replace the target's, so that memory and collectives are an estimate."""
        return self.lacks is not None

    @property
    def link(self) -> Link | None:
        """The link between the devices, or None if not known."""
        return None if self.spec is None else link_of(self.spec.name)

    @property
    def chip(self) -> str:
        """The common name of one of the devices."""
        return "CPU device" if self.spec is None else self.spec.name

    @property
    def memory_bytes(self) -> float | None:
        """The bytes that a program may use on one device; None for a CPU.

        For a TPU this is all of its memory (its compiler knows better); for a GPU, the share that JAX takes.
        """
        if self.spec is None:
            return None
        if self.platform == "tpu":
            return self.spec.memory_gb * 2**30
        known = GPUS.get(self.spec.name)
        return (self.spec.memory_gb * 1e9 if known is None else known.memory_bytes) * _gpu_fraction()


def _gpu_fraction() -> float:
    text = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or str(_GPU_FRACTION)
    try:
        fraction = float(text)
    except ValueError:
        fraction = math.nan
    if not 0 < fraction <= 1:
        raise UserError(f"XLA_PYTHON_CLIENT_MEM_FRACTION is {text!r}, but it must be a number above 0 and at most 1")
    return fraction


def parse_target(name: str) -> Target:
    """Parse `v5e:16x16`, `h200:8` or `cpu:8`; libtpu checks later whether the slice exists.

    Raises:
      UserError: for any other name.
    """
    match = re.fullmatch(r"([\w-]+):(\d+(?:x\d+)*)", name)
    if match is None:
        raise _unknown(name)
    kind, sizes = match.group(1).lower(), tuple(int(size) for size in match.group(2).split("x"))
    if kind in _TPUS:
        return Target(f"{kind}:{match.group(2)}", "tpu", math.prod(sizes), sizes, _TPUS[kind])
    spec = device_spec(kind) if re.match(r"[a-z]\d", kind) else None
    if kind != "cpu" and (spec is None or spec.name.startswith("TPU ")):
        raise _unknown(name)
    if len(sizes) != 1 or not 1 <= sizes[0] <= _MOST_STAND_INS:
        raise UserError(f"--topology {name}: give the number of devices, from 1 to {_MOST_STAND_INS}, as in {kind}:8")
    return Target(f"{kind}:{sizes[0]}", "cpu" if spec is None else "gpu", sizes[0], (), spec)


def _unknown(name: str) -> UserError:
    return UserError(
        f"--topology {name!r} is not understood: give a slice of TPUs as v5e:16x16 or v5p:4x4x4 ({', '.join(_TPUS)}), "
        f"GPUs as h200:8 ({', '.join(_GPUS)}), or cpu:8"
    )


def prepare_target(target: Target) -> None:
    """Make this machine's CPU simulate devices that have no compiler here; it works only before JAX starts a backend."""
    if target.platform == "cpu" or target.stands_in:
        kept = re.sub(rf"{_FLAG}=\S*", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = f"{kept} {_FLAG}={target.devices}".strip()
    import jax

    jax.config.update("jax_platforms", "cpu")  # a plan uses no accelerator, even if there is one


def devices_of(target: Target) -> list[Any]:
    """Return one device for each device of the target: described by its compiler, or simulated by the CPU.

    Raises:
      UserError: if there is no such slice, no libtpu, or JAX was started with fewer devices.
    """
    import jax

    from jaxbert.plan.topology import topology_devices

    if target.platform == "tpu":
        return topology_devices(target.name)
    if target.spec is not None and not target.stands_in:
        return gpu_devices(target.spec.name, target.devices)
    played = jax.devices("cpu")
    if len(played) < target.devices:
        raise UserError(
            f"--topology {target.name} needs {target.devices} devices, but JAX runs in this process with {len(played)} "
            "already: plan in a process of its own"
        )
    return played[: target.devices]
