"""The settings of a plan and their defaults; what is planned is a run's own configuration. No JAX."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxbert.errors import UserError


@dataclass(frozen=True)
class PlanOptions:
    """What the compiled step is compared with."""

    lengths: str | None = None
    """Lengths of the examples: sst2, uniform:LOW:HIGH, fixed:N or a file with one length a line; left out, those of
    data.train where it can be read, else sst2."""
    utilization: float = 0.5
    """ASSUMED share of the peaks that a step reaches where it computes, moves and exchanges one after the other: the upper
    bound of its time."""
    thorough: bool = False
    """Compile for TPUs as a run does. Left out, with the compiler's least effort: about a quarter of the time, with the same
    FLOPs and collectives, and a few percent more memory."""
    cost_per_hour: float | None = None
    """Price of one device for an hour, in any currency."""
    memory_gb: float | None = None
    """GB (10^9 bytes) of memory that a step may use on one device; left out, from the table of known devices."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device; left out, from the table of known devices."""
    peak_bandwidth: float | None = None
    """Peak GB/s of one device's memory; left out, from the table of known devices."""
    link_bandwidth: float | None = None
    """GB/s that one device sends to others, one direction; left out, from the table of known links."""


def check(options: PlanOptions) -> None:
    """Check the ranges.

    Raises:
      UserError: for a value out of range.
    """
    for name in ("cost_per_hour", "memory_gb", "peak_tflops", "peak_bandwidth", "link_bandwidth"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"--{name.replace('_', '-')} is {value:g}, but it must be above 0 and finite")
    if not 0 < options.utilization <= 1:
        raise UserError(f"--utilization is {options.utilization:g}, but it must be above 0 and at most 1")
