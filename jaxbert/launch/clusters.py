"""One function per launcher: it reads the launcher's variables and returns the place of this process, or None without them.

JAX's own detection does the rest for TPUs, for Kubernetes' API and for mpi4py. For Slurm and Open MPI everything is given
here: JAX would give each process the one GPU of its local number, even if it should use all GPUs or was bound to its own.
"""

from __future__ import annotations

import re
import zlib

from jaxbert.errors import UserError
from jaxbert.launch.place import Environment, ProcessPlace, check, read_number, require

METADATA_HOSTS, METADATA_WORKER = "worker-network-endpoints", "agent-worker-number"
"""The names of a TPU VM's metadata for its hosts and for the number of this one."""
_FIRST_PORT, _PORTS = 61440, 4096
_JOBSET_PORT = 8476


def open_mpi(environment: Environment) -> ProcessPlace | None:
    """Read the place in a run of `mpirun`, also inside a Slurm job, whose variables then belong to mpirun's daemons."""
    size, rank = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    if not {size, rank} & environment.keys():
        return None
    require(environment, "Open MPI", size, rank)
    processes, process = read_number(environment, size, least=1), read_number(environment, rank)
    assert processes is not None
    assert process is not None
    if processes > 1:
        require(environment, "Open MPI", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
    local_process = read_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK") or 0
    local_processes = read_number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", least=1) or 1
    coordinator = _open_mpi_coordinator(environment, one_machine=processes == local_processes)
    return check(
        ProcessPlace(
            "Open MPI",
            processes,
            process,
            coordinator,
            method="mpi4py" if coordinator is None else ProcessPlace.method,
            local_devices=_own_devices(environment, local_process, local_processes),
            variables=(size, rank),
        )
    )


def _open_mpi_coordinator(environment: Environment, one_machine: bool) -> str | None:
    """Return the machine of `mpirun`, which also runs process 0; Open MPI 5 does not name it."""
    launcher = environment.get("OMPI_MCA_orte_hnp_uri", "")
    port = _port(environment, launcher or environment.get("PMIX_NAMESPACE", ""))
    if one_machine:
        return f"localhost:{port}"
    found = re.search(r"tcp6?://(\[[^],]+|[^,:\[]+)", launcher)
    if found is None:
        return None
    host = found[1]
    return f"{host}]:{port}" if host.startswith("[") else f"{host}:{port}"


def slurm(environment: Environment) -> ProcessPlace | None:
    """Read the place in a step of `srun`. The shell of `salloc` and the script of `sbatch` are no step."""
    if "SLURM_JOB_ID" not in environment or not in_slurm_step(environment):
        return None
    cluster = f"Slurm job {environment['SLURM_JOB_ID']}"
    number = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    require(environment, cluster, number)
    processes = read_number(environment, number, least=1)
    if processes == 1:
        return ProcessPlace(cluster, 1, 0, variables=(number, "SLURM_PROCID"))
    require(environment, cluster, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST")
    process, local_process = read_number(environment, "SLURM_PROCID"), read_number(environment, "SLURM_LOCALID")
    assert process is not None
    assert local_process is not None
    return check(
        ProcessPlace(
            cluster,
            processes,
            process,
            f"{first_host(environment['SLURM_STEP_NODELIST'])}:{_port(environment, environment['SLURM_JOB_ID'])}",
            local_devices=_own_devices(environment, local_process, _slurm_local_processes(environment)),
            variables=(number, "SLURM_PROCID"),
        )
    )


def in_slurm_step(environment: Environment) -> bool:
    """Return whether `srun` started this process or one of its parents."""
    return bool({"SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"} & environment.keys())


def first_host(nodes: str) -> str:
    """Return the first of Slurm's compressed host names: `n001` of `n[001-004,7]`, `a1-ib` of `a[1-2]-ib,b`."""
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^]]*\])?([^,\[]*)", nodes)
    if found is None:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no machine")
    return "".join(part or "" for part in found.groups())


def _slurm_local_processes(environment: Environment) -> int | None:
    """Return the number of processes on this machine: entry SLURM_NODEID of a list such as `2(x3),1`."""
    counts: list[int] = []
    for part in filter(None, environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            return None
        counts += [int(found[1])] * int(found[2] or 1)
    machine = read_number(environment, "SLURM_NODEID") or 0
    return counts[machine] if machine < len(counts) else None


def tpu(environment: Environment) -> ProcessPlace | None:
    """Read the place among the hosts of one or several TPU slices, from GKE's variables or a TPU VM's metadata."""
    if environment.get("JAX_PLATFORMS") == "cpu":
        return None
    hosts_from, worker_from = _tpu_sources(environment)
    hosts = [host for host in environment.get(hosts_from, "").split(",") if host.strip()]
    slices = read_number(environment, "MEGASCALE_NUM_SLICES", least=1) or 1
    if not hosts and slices == 1:
        return None
    cluster = "TPU slice" if slices == 1 else f"{slices} TPU slices"
    if len(hosts) == slices == 1:
        return ProcessPlace(cluster, 1, 0, variables=(hosts_from, worker_from))
    require(environment, cluster, hosts_from, worker_from)
    slice_id = 0
    if slices > 1:
        require(environment, cluster, "MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS")
        slice_id = read_number(environment, "MEGASCALE_SLICE_ID") or 0
    worker = read_number(environment, worker_from) or 0
    check(ProcessPlace(cluster, len(hosts), worker, variables=(f"the number of hosts in {hosts_from}", worker_from)))
    check(ProcessPlace(cluster, slices, slice_id, variables=("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")))
    return ProcessPlace(
        cluster,
        slices * len(hosts),
        slice_id * len(hosts) + worker,
        method="gcetpu" if hosts_from == METADATA_HOSTS else "gketpu",
        variables=(hosts_from, worker_from),
    )


def _tpu_sources(environment: Environment) -> tuple[str, str]:
    """Return the names of the variables that hold the hosts and the number of this one."""
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environment.get(name):
            return name, "TPU_WORKER_ID"
    return (
        (METADATA_HOSTS, METADATA_WORKER)
        if METADATA_HOSTS in environment
        else ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")
    )


def jobset(environment: Environment) -> ProcessPlace | None:
    """Read the place in a Kubernetes JobSet, from variables that its manifest sets from the annotations.

    A pod of an indexed Job without a JobSet may be one of many independent pods, and counts as one.
    """
    name = environment.get("JOBSET_NAME", "")
    if not name:
        return None
    cluster = f"JobSet {name}"
    number = read_number(environment, "JAX_NUM_PROCESSES", least=1)
    index = "JAX_PROCESS_ID" if environment.get("JAX_PROCESS_ID") else "JOB_COMPLETION_INDEX"
    if number == 1:
        return ProcessPlace(cluster, 1, 0, variables=("JAX_NUM_PROCESSES", index))
    require(environment, cluster, index)
    replicated = environment.get("REPLICATED_JOB_NAME")
    coordinator = f"{name}-{replicated}-0-0.{name}:{_port(environment, default=_JOBSET_PORT)}" if replicated else None
    return check(
        ProcessPlace(
            cluster,
            number,
            read_number(environment, index) or 0,
            coordinator,
            method="k8s" if number is None or coordinator is None else ProcessPlace.method,
            variables=("JAX_NUM_PROCESSES", index),
        )
    )


def _port(environment: Environment, job: str = "", default: int | None = None) -> int:
    """Return the port in JAX_COORDINATOR_PORT, or else a port that all processes of a job compute alike."""
    named = read_number(environment, "JAX_COORDINATOR_PORT", least=1)
    return named or default or _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS


def _own_devices(environment: Environment, local_process: int, local_processes: int | None) -> tuple[int, ...] | None:
    """Divide the GPUs of a machine among its processes; return None for all GPUs that this process sees.

    Raises:
      UserError: if there are more processes than GPUs.
    """
    if environment.get("JAX_PLATFORMS") == "cpu" or environment.get("JAX_LOCAL_DEVICE_IDS") or local_processes == 1:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES"))
    if visible is None:
        return (local_process,)
    seen = len([device for device in visible.split(",") if device.strip()])
    if seen <= 1 or local_processes is None:  # the launcher bound the process to its own GPU
        return None if seen <= 1 else (local_process,)
    if seen < local_processes:
        raise UserError(
            f"{local_processes} processes of this machine see {seen} GPUs ({visible}): start as many as there are GPUs, "
            "or one that has them all"
        )
    share = seen // local_processes
    return tuple(range(local_process * share, (local_process + 1) * share))
