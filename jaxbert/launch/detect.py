"""Finds the place of this process in its run from environment variables. Pure: it needs no JAX and asks no machine.

The user's settings (`launch`, then JAX's own variables) override those of a launcher.
"""

from __future__ import annotations

import dataclasses

from jaxbert.config import LaunchConfig, is_address
from jaxbert.errors import UserError
from jaxbert.launch import clusters
from jaxbert.launch.place import DEACTIVATED, Environment, ProcessPlace, check, read_number

_COORDINATOR, _NUMBER, _PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_KEYS = {_COORDINATOR: "launch.coordinator", _NUMBER: "launch.num_processes", _PROCESS: "launch.process_id"}
_JAX = "JAX's own variables"


def locate_process(launch: LaunchConfig, environment: Environment) -> ProcessPlace | None:
    """Find the place of this process; return None if nothing indicates other processes.

    Args:
      launch: the section `launch` of the configuration.
      environment: the variables; on a TPU VM also the attributes of its metadata, under their own names.

    Raises:
      UserError: if variables contradict each other or are incomplete, or if `launch.distributed` is `on` and no variable is
        set.
    """
    if launch.distributed == "off":
        return None
    given = {_COORDINATOR: launch.coordinator, _NUMBER: launch.num_processes, _PROCESS: launch.process_id}
    said = {name: str(value) for name, value in given.items() if value is not None}
    place = _explicit({**environment, **said}) if _NUMBER in said else detect({**environment, **said})
    if place is None and launch.distributed == "on":
        raise UserError(
            "launch.distributed is on, but there is no TPU slice, no Slurm step, no JobSet and no mpirun, and the JAX_ "
            f"variables are not set: start jaxbert by one of them, or set {', '.join(_KEYS.values())}"
        )
    return place


def detect(environment: Environment) -> ProcessPlace | None:
    """Find the place of this process from the environment alone."""
    launchers = (
        clusters.open_mpi(environment) or clusters.slurm(environment),
        clusters.tpu(environment) or clusters.jobset(environment),
    )
    found = [place for place in launchers if place is not None]
    several = [place for place in found if place.processes != 1]
    if not several:
        explicit = any(environment.get(name, "").strip() for name in _KEYS)
        return _explicit(environment) if explicit else next(iter(found), None)
    place = several[0]
    for other in several[1:]:
        _check_agree(place, other)
    _check_said(environment, place)
    return _with_address(place, environment)


def _explicit(environment: Environment) -> ProcessPlace:
    """Return the place that JAX's own variables give, without reading others."""
    number = read_number(environment, _NUMBER, least=1)
    if number == 1:
        return ProcessPlace(_JAX, 1, 0, variables=(_NUMBER, _PROCESS))
    missing = [name for name in _KEYS if not environment.get(name, "").strip()]
    if missing:
        there = next(name for name in _KEYS if name not in missing)
        raise UserError(f"{_named(there)} is set, but not {' nor '.join(map(_named, missing))}: set all three, or none")
    process = read_number(environment, _PROCESS)
    assert process is not None
    return check(ProcessPlace(_JAX, number, process, _address(environment), variables=(_NUMBER, _PROCESS)))


def _address(environment: Environment) -> str | None:
    address = environment.get(_COORDINATOR, "").strip()
    if address and not is_address(address):
        raise UserError(f"{_named(_COORDINATOR)} is {address!r}, but it must be HOST:PORT")
    return address or None


def _named(variable: str) -> str:
    return f"{variable} ({_KEYS[variable]})"


def _check_said(environment: Environment, place: ProcessPlace) -> None:
    """Raise an error if numbers in JAX's own variables differ from the launcher's."""
    for name, value, source in zip((_NUMBER, _PROCESS), (place.processes, place.process), place.variables, strict=True):
        said = read_number(environment, name)
        if said is not None and value is not None and said != value:
            raise UserError(
                f"{name} says {said}, but {place.cluster} says {value} ({source}): unset {name}, or set "
                "launch.num_processes, launch.process_id and launch.coordinator, which go before both"
            )


def _check_agree(one: ProcessPlace, other: ProcessPlace) -> None:
    """Raise an error if two launchers see different runs."""
    if other.processes is None or one.processes is None or one.processes == other.processes:
        return
    raise UserError(
        f"{one.cluster} says that the run has {one.processes} processes ({one.variables[0]}), {other.cluster} says "
        f"{other.processes} ({other.variables[0]}): unset the wrong one, or set launch.num_processes, launch.process_id and "
        "launch.coordinator"
    )


def _with_address(place: ProcessPlace, environment: Environment) -> ProcessPlace:
    """Return the place with the user's address, if there is one, instead of the launcher's."""
    address = _address(environment)
    if address is None:
        return place
    known = place.processes is not None and place.method in ("k8s", "mpi4py")
    return dataclasses.replace(place, coordinator=address, method=DEACTIVATED if known else place.method)


def overlooked(environment: Environment) -> str | None:
    """Return a note if the user may have forgotten to start all processes of a job."""
    tasks = read_number(environment, "SLURM_NTASKS")
    if "SLURM_JOB_ID" in environment and not clusters.in_slurm_step(environment) and tasks and tasks > 1:
        job = f"Slurm job {environment['SLURM_JOB_ID']}"
        return f"{job} has {tasks} tasks, but srun did not start this process: it runs alone"
    return None
