"""The settings of a benchmark and their defaults; what is timed is a run's own configuration."""

from __future__ import annotations

from dataclasses import dataclass

from jaxbert.errors import UserError


@dataclass(frozen=True)
class BenchOptions:
    """How long the step is timed."""

    steps: int = 20
    """Steps that are timed."""
    warmup: int = 3
    """Steps that run before the clock starts; the first of each batch shape never counts."""


def check(options: BenchOptions) -> None:
    """Check the ranges.

    Raises:
      UserError: for a value out of range.
    """
    for name, least in (("steps", 1), ("warmup", 0)):
        if getattr(options, name) < least:
            raise UserError(f"bench.{name} is {getattr(options, name)}, but it must be at least {least}")
