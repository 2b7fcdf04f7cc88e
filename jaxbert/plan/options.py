"""The settings of a plan, their defaults and ranges; what is planned is a run's own configuration. No JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxbert.ranges import PositiveNumber, Range, check_fields


@dataclass(frozen=True)
class PlanOptions:
    """What the compiled step is compared with."""

    lengths: str | None = None
    """Lengths of the examples in tokens: sst2, uniform:LOW:HIGH, fixed:N or a file with one length per line. If not set, the
    lengths of the examples in data.train, or sst2 if there are none."""
    utilization: Annotated[float, Range(above=0, most=1)] = 0.5
    """ASSUMED fraction of the device's peaks that a step reaches if it computes, moves and exchanges data one after the
    other; gives the upper bound of its time."""
    kernels: Annotated[int, Range(least=0)] = 0
    """Number of the largest kernels of the compiled step to show, by bytes and by FLOPs, each with its line in jaxbert."""
    thorough: bool = False
    """Whether to compile for TPUs exactly as a run does. If false, the compiler makes its least effort: about a quarter of
    the time, the same FLOPs and collectives, a few percent more memory."""
    cost_per_hour: PositiveNumber | None = None
    """Price of ONE device per hour, in any currency; adds the price of a million tokens, and of the run, to the results."""
    memory_gb: PositiveNumber | None = None
    """Memory of one device that a step may use, in GB (10^9 bytes). If not set, from the table of known devices."""
    peak_tflops: PositiveNumber | None = None
    """Peak speed of one device in TFLOP/s. If not set, from the table of known devices."""
    peak_bandwidth: PositiveNumber | None = None
    """Peak memory bandwidth of one device in GB/s. If not set, from the table of known devices."""
    link_bandwidth: PositiveNumber | None = None
    """Bandwidth from one device to others in GB/s, one direction. If not set, from the table of known links."""

    def __post_init__(self) -> None:
        check_fields(self, "--{}".format)
