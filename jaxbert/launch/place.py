"""The place of one process in its run, and the reading of variables without guesses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxbert.errors import UserError

Environment = Mapping[str, str]
DEACTIVATED = "deactivate"
"""JAX's value for: do not look for a cluster, everything is given."""


@dataclass(frozen=True)
class ProcessPlace:
    """The place of a process in its run."""

    cluster: str
    """The launcher or cluster, in words."""
    processes: int | None
    """The number of processes; None if JAX asks the cluster for it."""
    process: int
    """The number of this process, from 0."""
    coordinator: str | None = None
    """HOST:PORT of process 0; None if JAX finds it."""
    method: str = DEACTIVATED
    """JAX's name of the detection that finds the values that are None here."""
    local_devices: tuple[int, ...] | None = None
    """The indices of this process's own GPUs among those that it sees; None for all."""
    variables: tuple[str, str] = ("", "")
    """The variables with the number of processes and with the number of this one; for messages."""


def read_number(environment: Environment, name: str, least: int = 0) -> int | None:
    """Return the integer in a variable, or None if it is not set.

    Raises:
      UserError: if it is not an integer, or below `least`.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UserError(f"{name} is {text!r}, but it must be a whole number from {least} up")
    return int(text)


def require(environment: Environment, cluster: str, *names: str) -> None:
    """Check that a cluster has set all of the given variables.

    Raises:
      UserError: if some are missing; it names them.
    """
    missing = [name for name in names if not environment.get(name, "").strip()]
    if missing:
        raise UserError(
            f"{cluster} started this process, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: "
            "pass the whole environment on, or set launch.distributed to off to run alone"
        )


def check(place: ProcessPlace) -> ProcessPlace:
    """Return the place after a check of its numbers.

    Raises:
      UserError: if the number of the process is not below the number of processes.
    """
    if place.processes is not None and place.process >= place.processes:
        number, process = place.variables
        raise UserError(
            f"{process} is {place.process}, but it must be below {number}, which is {place.processes} (they count from 0)"
        )
    return place
