"""What a launcher says of one process, and the reading of variables without guessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxbert.errors import UserError

Environment = Mapping[str, str]
DEACTIVATED = "deactivate"
"""JAX's word for: do not look for a cluster, all is said."""


@dataclass(frozen=True)
class ProcessPlace:
    """Where a process stands among those of its run."""

    cluster: str
    """What was found, in words."""
    processes: int | None
    """How many there are; None where JAX asks the cluster for it."""
    process: int
    """Which one this is, from 0."""
    coordinator: str | None = None
    """HOST:PORT of process 0; None where JAX finds it out."""
    method: str = DEACTIVATED
    """JAX's name of the detection that finds out what is None here."""
    local_devices: tuple[int, ...] | None = None
    """Which of the GPUs that this process sees are its own; None for all."""
    variables: tuple[str, str] = ("", "")
    """What said how many there are, and which one this is; for messages."""


def read_number(environment: Environment, name: str, least: int = 0) -> int | None:
    """Return a variable that holds a whole number, or None where it is not set.

    Raises:
      UserError: if it holds something else.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UserError(f"{name} is {text!r}, but it must be a whole number from {least} up")
    return int(text)


def require(environment: Environment, cluster: str, *names: str) -> None:
    """Refuse a cluster that says one half and not the other.

    Raises:
      UserError: that names the variables which are missing.
    """
    missing = [name for name in names if not environment.get(name, "").strip()]
    if missing:
        raise UserError(
            f"{cluster} started this process, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: "
            "pass the whole environment on, or set launch.distributed to off to run alone"
        )


def check(place: ProcessPlace) -> ProcessPlace:
    """Return the place, if a process can stand there.

    Raises:
      UserError: if the number of the process is not below the number of processes.
    """
    if place.processes is not None and place.process >= place.processes:
        number, process = place.variables
        raise UserError(
            f"{process} is {place.process}, but it must be below {number}, which is {place.processes} (they count from 0)"
        )
    return place
