"""The settings of a benchmark and their defaults; what is timed is a run's own configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxbert.errors import UserError

Mode = Literal["train", "predict", "both"]


@dataclass(frozen=True)
class BenchOptions:
    """What is timed, how long, and what the numbers are compared with."""

    steps: int = 20
    """Steps that are timed."""
    warmup: int = 3
    """Steps that run before the clock starts; the first of each batch shape never counts."""
    measure_compile: bool | None = None
    """Compile the step twice, without and with a cached program, to time both; left out, yes, but not in a sweep."""
    mode: Mode = "both"
    """Time training steps, prediction, or both."""
    profile: str | None = None
    """Folder for a trace of the timed steps."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device; left out, from the table of known devices."""
    peak_bandwidth: float | None = None
    """Peak GB/s of one device's memory; left out, from the table of known devices."""
    cost_per_hour: float | None = None
    """Price of all devices for an hour, in any currency."""


def check(options: BenchOptions) -> None:
    """Check the ranges.

    Raises:
      UserError: for a value out of range.
    """
    for name, least in (("steps", 1), ("warmup", 0)):
        if getattr(options, name) < least:
            raise UserError(f"bench.{name} is {getattr(options, name)}, but it must be at least {least}")
    for name in ("peak_tflops", "peak_bandwidth", "cost_per_hour"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"--{name.replace('_', '-')} is {value:g}, but it must be above 0 and finite")
