"""The settings of a benchmark, their defaults and ranges; what is timed is a run's own configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbert.errors import UserError
from jaxbert.options import Engine, Quantize
from jaxbert.ranges import NotNegative, Positive, PositiveNumber, check_fields

SERVE_KEYS = ("seconds", "limit_ms", "engine", "quantize")
"""Fields that only `mode` serve reads."""
SECTION_KEYS = ("steps", "warmup", "measure_compile", *SERVE_KEYS)
"""Fields whose keys are in the section `bench`; the others stand alone."""


@dataclass(frozen=True)
class BenchOptions:
    """The benchmark."""

    steps: Positive = 20
    """Number of steps that are timed."""
    warmup: NotNegative = 3
    """Number of steps that run before the clock starts; the first step of each batch shape never counts."""
    measure_compile: bool | None = None
    """Whether to compile the step twice, without and with a cached program, to time both. If not set, true; false in a
    sweep."""
    mode: Literal["train", "predict", "both", "serve"] = "both"
    """What is timed: training steps (train), prediction (predict) or both; serve: `jaxbert serve` with the trained model of
    `model.name_or_path`, by requests at random times."""
    seconds: PositiveNumber = 8.0
    """mode serve: seconds of requests at each rate."""
    limit_ms: PositiveNumber = 100.0
    """mode serve: the most milliseconds in which 99% of the requests must be answered."""
    engine: Engine = "auto"
    """mode serve: what computes the model, as in `jaxbert serve`."""
    quantize: Quantize | None = None
    """mode serve: number format of onnxruntime's graph."""
    profile: str | None = None
    """Folder for a trace of the timed steps, for TensorBoard and Perfetto."""
    peak_tflops: PositiveNumber | None = None
    """Peak speed of one device in TFLOP/s. If not set, from the table of known devices."""
    peak_bandwidth: PositiveNumber | None = None
    """Peak memory bandwidth of one device in GB/s. If not set, from the table of known devices."""
    cost_per_hour: PositiveNumber | None = None
    """Price of ALL devices per hour, in any currency; adds the price of a million examples to the results."""

    def __post_init__(self) -> None:
        check_fields(self, lambda name: f"bench.{name}" if name in SECTION_KEYS else f"--{name}")
        if self.profile is not None and self.mode in ("predict", "serve"):
            raise UserError(
                f"--profile traces training steps, which --mode {self.mode} does not run: leave one of them out"
            )
