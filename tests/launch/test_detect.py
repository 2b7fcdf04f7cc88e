"""Which process of how many: what each launcher's variables mean, and what is refused."""

from __future__ import annotations

import pytest

from jaxbert.config import LaunchConfig
from jaxbert.errors import UserError
from jaxbert.launch.clusters import first_host
from jaxbert.launch.detect import detect, locate_process, overlooked
from jaxbert.launch.place import ProcessPlace

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
GKE = {"TPU_WORKER_HOSTNAMES": "t-0.t,t-1.t,t-2.t,t-3.t", "TPU_WORKER_ID": "2"}
MULTISLICE = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "run-slice-0-0.run",
}
METADATA = {"worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2", "agent-worker-number": "1"}
OPEN_MPI_4 = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OPEN_MPI_5 = {name: value for name, value in OPEN_MPI_4.items() if "orte" not in name} | {
    "PMIX_NAMESPACE": "prterun-a-1@1"
}
JOBSET = {"JOBSET_NAME": "run", "REPLICATED_JOB_NAME": "workers", "JOB_COMPLETION_INDEX": "1", "JAX_NUM_PROCESSES": "2"}
JAX = {"JAX_COORDINATOR_ADDRESS": "first:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def found(environment: dict[str, str]) -> ProcessPlace:
    place = detect(environment)
    assert place is not None
    return place


FOUND = {
    "slurm": (SLURM, 4, 3, "node003:", "deactivate"),
    "slurm without the numbers of the step": (without(SLURM, "SLURM_STEP_NUM_TASKS"), 4, 3, "node003:", "deactivate"),
    "gke": (GKE, 4, 2, None, "gketpu"),
    "gke, several slices": (GKE | MULTISLICE, 8, 6, None, "gketpu"),
    "gke, slices of one host": (
        GKE | MULTISLICE | {"TPU_WORKER_HOSTNAMES": "t-0.t", "TPU_WORKER_ID": "0"},
        2,
        1,
        None,
        "gketpu",
    ),
    "tpu vm": (METADATA, 2, 1, None, "gcetpu"),
    "tpu vm, new form": (METADATA | {"worker-network-endpoints": "a,b,c"}, 3, 1, None, "gcetpu"),
    "tpu vms, several slices": (METADATA | MULTISLICE, 4, 3, None, "gcetpu"),
    "one chip a process": (
        {"TPU_PROCESS_ADDRESSES": "localhost:1,localhost:2", "TPU_WORKER_ID": "1"},
        2,
        1,
        None,
        "gketpu",
    ),
    "open mpi 4": (OPEN_MPI_4, 4, 2, "10.96.0.1:", "deactivate"),
    "open mpi 4, IPv6": (
        OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp6://[fe80::1,2620::2]:43370"},
        4,
        2,
        "[fe80::1]:",
        "deactivate",
    ),
    "open mpi 5": (OPEN_MPI_5, 4, 2, None, "mpi4py"),
    "open mpi 5, one machine": (OPEN_MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 4, 2, "localhost:", "deactivate"),
    "open mpi within a job of slurm": (OPEN_MPI_4 | SLURM, 4, 2, "10.96.0.1:", "deactivate"),
    "jobset": (JOBSET, 2, 1, "run-workers-0-0.run:8476", "deactivate"),
    "jobset, its size asked for": (without(JOBSET, "JAX_NUM_PROCESSES"), None, 1, "run-workers-0-0.run:8476", "k8s"),
    "jobset with tpus": (JOBSET | GKE | {"JAX_NUM_PROCESSES": "4"}, 4, 2, None, "gketpu"),
    "jax": (JAX, 2, 1, "first:1234", "deactivate"),
    "jax within a step of one task": (JAX | SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, 2, 1, "first:1234", "deactivate"),
    "jax on one tpu host": (JAX | {"TPU_WORKER_HOSTNAMES": "localhost"}, 2, 1, "first:1234", "deactivate"),
    "jax gives the coordinator of slurm": (
        SLURM | {"JAX_COORDINATOR_ADDRESS": "node9:99"},
        4,
        3,
        "node9:99",
        "deactivate",
    ),
    "jax gives the coordinator of open mpi 5": (
        OPEN_MPI_5 | {"JAX_COORDINATOR_ADDRESS": "node9:99"},
        4,
        2,
        "node9:99",
        "deactivate",
    ),
    "jax agrees with slurm": (
        SLURM | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"},
        4,
        3,
        "node003:",
        "deactivate",
    ),
}


@pytest.mark.parametrize(("environment", "processes", "process", "coordinator", "method"), FOUND.values(), ids=FOUND)
def test_what_is_found(environment, processes, process, coordinator, method):
    place = found(environment)
    assert (place.processes, place.process, place.method) == (processes, process, method)
    if coordinator is None:
        assert place.coordinator is None
    else:
        assert place.coordinator is not None
        assert place.coordinator.startswith(coordinator)


ALONE = {
    "a laptop": {},
    "a shell of salloc": {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "n[1-2]"},
    "a script of sbatch": {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    "a pod": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    "a pod of an indexed job": {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"},
    "tpus, but the cpu is asked for": GKE | {"JAX_PLATFORMS": "cpu"},
    "a tpu host whose hosts nobody tells": {"TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5litepod-4"},
    "variables that are empty": {"JAX_COORDINATOR_ADDRESS": "", "TPU_WORKER_HOSTNAMES": "", "JOBSET_NAME": ""},
}


@pytest.mark.parametrize("environment", ALONE.values(), ids=ALONE)
def test_what_is_no_cluster(environment):
    assert detect(environment) is None


ONE = {
    "a step of one task": SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    "the shell of salloc as a step": {
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "8",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    },
    "a tpu host": {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
    "a tpu vm": {"worker-network-endpoints": "a:1:10.0.0.1", "agent-worker-number": "0"},
    "mpirun -n 1": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    "a jobset of one pod": JOBSET | {"JAX_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"},
    "jax's variables": {"JAX_NUM_PROCESSES": "1"},
}


@pytest.mark.parametrize("environment", ONE.values(), ids=ONE)
def test_a_cluster_of_one_process(environment):
    assert found(environment).processes == 1


REFUSED = {
    "slurm without a number": (without(SLURM, "SLURM_PROCID"), "SLURM_PROCID is not set"),
    "slurm with half of it": (
        without(SLURM, "SLURM_PROCID", "SLURM_LOCALID"),
        "SLURM_PROCID and SLURM_LOCALID are not",
    ),
    "slurm without tasks": (without(SLURM, "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"), "SLURM_NTASKS is not set"),
    "slurm: a number too high": (
        SLURM | {"SLURM_PROCID": "4"},
        "SLURM_PROCID is 4, but it must be below SLURM_STEP_NUM_TASKS",
    ),
    "slurm: no number": (SLURM | {"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'"),
    "slurm: no machine": (SLURM | {"SLURM_STEP_NODELIST": ","}, "SLURM_STEP_NODELIST is ','"),
    "tpu without a number": (without(GKE, "TPU_WORKER_ID"), "TPU_WORKER_ID is not set"),
    "tpu: a number too high": (
        GKE | {"TPU_WORKER_ID": "4"},
        "TPU_WORKER_ID is 4, but it must be below the number of hosts",
    ),
    "slices without a number": (GKE | without(MULTISLICE, "MEGASCALE_SLICE_ID"), "MEGASCALE_SLICE_ID is not set"),
    "slices without an address": (
        GKE | without(MULTISLICE, "MEGASCALE_COORDINATOR_ADDRESS"),
        "MEGASCALE_COORDINATOR_ADDRESS is not set",
    ),
    "slices without hosts": (MULTISLICE, "TPU_WORKER_HOSTNAMES and TPU_WORKER_ID are not set"),
    "slices: a number too high": (GKE | MULTISLICE | {"MEGASCALE_SLICE_ID": "2"}, "must be below MEGASCALE_NUM_SLICES"),
    "open mpi without a number": (without(OPEN_MPI_4, "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_RANK is not set"),
    "open mpi without a local number": (
        without(OPEN_MPI_4, "OMPI_COMM_WORLD_LOCAL_RANK"),
        "OMPI_COMM_WORLD_LOCAL_RANK is",
    ),
    "jobset without a number": (without(JOBSET, "JOB_COMPLETION_INDEX"), "JOB_COMPLETION_INDEX is not set"),
    "jobset: a number too high": (JOBSET | {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX is 2"),
    "jax: an address only": (
        {"JAX_COORDINATOR_ADDRESS": "a:1"},
        "(launch.coordinator) is set, but not JAX_NUM_PROCESSES (launch.num_processes) nor JAX_PROCESS_ID",
    ),
    "jax: no address": (
        without(JAX, "JAX_COORDINATOR_ADDRESS"),
        "but not JAX_COORDINATOR_ADDRESS (launch.coordinator)",
    ),
    "jax: a number too high": (
        JAX | {"JAX_PROCESS_ID": "2"},
        "JAX_PROCESS_ID is 2, but it must be below JAX_NUM_PROCESSES",
    ),
    "jax: no port": (JAX | {"JAX_COORDINATOR_ADDRESS": "first"}, "'first', but it must be HOST:PORT"),
    "jax: none": (
        JAX | {"JAX_NUM_PROCESSES": "0"},
        "JAX_NUM_PROCESSES is '0', but it must be a whole number from 1 up",
    ),
    "jax and slurm": (SLURM | {"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES says 2, but Slurm job 4711 says 4"),
    "jax and slurm, another process": (
        SLURM | {"JAX_PROCESS_ID": "0"},
        "JAX_PROCESS_ID says 0, but Slurm job 4711 says 3",
    ),
    "slurm and tpu": (
        SLURM | GKE | {"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2"},
        "Slurm job 4711 says that the run has 3 processes (SLURM_STEP_NUM_TASKS), TPU slice says 4",
    ),
}


@pytest.mark.parametrize(("environment", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(environment, message):
    with pytest.raises(UserError) as caught:
        detect(environment)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("gpu[3-4]-ib,other", "gpu3-ib"),
        ("rack1-[07]", "rack1-07"),
        ("a.example.org,b.example.org", "a.example.org"),
    ],
)
def test_the_first_machine_of_a_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("environment", [SLURM, OPEN_MPI_4, OPEN_MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}])
def test_processes_of_a_job_agree_on_a_port_and_jobs_differ(environment):
    number = next(name for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK") if name in environment)
    job = next(n for n in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "PMIX_NAMESPACE") if n in environment)
    address = found(environment).coordinator
    assert address == found(environment | {number: "0"}).coordinator
    host, port = str(address).rsplit(":", 1)
    assert 61440 <= int(port) < 65536
    other = found(environment | {job: environment[job].replace("1", "2", 1)}).coordinator
    assert other != address
    assert found(environment | {"JAX_COORDINATOR_PORT": "5555"}).coordinator == f"{host}:5555"


GPUS = {
    "one process a machine has all": ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}, None),
    "nothing known: one each": ({}, (1,)),
    "one each": ({"CUDA_VISIBLE_DEVICES": "0,1"}, (1,)),
    "several each": ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (4, 5, 6, 7)),
    "by name": ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, (1,)),
    "bound by Slurm": ({"CUDA_VISIBLE_DEVICES": "3"}, None),
    "none": ({"CUDA_VISIBLE_DEVICES": ""}, None),
    "of AMD": ({"ROCR_VISIBLE_DEVICES": "0,1,2,3"}, (2, 3)),
    "the user says it": ({"JAX_LOCAL_DEVICE_IDS": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
    "on the cpu": ({"JAX_PLATFORMS": "cpu", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
    "the machine's share is not known": ({"SLURM_STEP_TASKS_PER_NODE": "?", "CUDA_VISIBLE_DEVICES": "0,1,2"}, (1,)),
    "machines of different sizes": (
        {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1"},
        None,
    ),
}


@pytest.mark.parametrize(("changes", "devices"), GPUS.values(), ids=GPUS)
def test_whose_gpus(changes, devices):
    assert found(SLURM | changes).local_devices == devices


def test_more_processes_than_gpus():
    with pytest.raises(UserError, match="4 processes of this machine see 2 GPUs"):
        detect(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1"})


def test_the_configuration_goes_before_all():
    launch = LaunchConfig(coordinator="mine:7", num_processes=3, process_id=0)
    place = locate_process(launch, SLURM | JAX)
    assert place is not None
    assert (place.processes, place.process, place.coordinator) == (3, 0, "mine:7")
    place = locate_process(LaunchConfig(coordinator="mine:7"), SLURM)
    assert place is not None
    assert (place.processes, place.process, place.coordinator) == (4, 3, "mine:7")
    with pytest.raises(UserError, match="but not JAX_COORDINATOR_ADDRESS"):
        locate_process(LaunchConfig(num_processes=3, process_id=0), {})


def test_off_and_on():
    assert locate_process(LaunchConfig(distributed="off"), SLURM | {"SLURM_PROCID": "x"}) is None
    assert locate_process(LaunchConfig(), {}) is None
    with pytest.raises(UserError, match=r"launch.distributed is on, but there is no TPU slice"):
        locate_process(LaunchConfig(distributed="on"), ALONE["a shell of salloc"])
    place = locate_process(LaunchConfig(distributed="on"), ONE["a tpu host"])
    assert place is not None
    assert place.processes == 1


def test_a_forgotten_srun_is_remarked():
    for name in ("a shell of salloc", "a script of sbatch"):
        assert "Slurm job 1 has 8 tasks, but srun did not start this process" in str(overlooked(ALONE[name]))
    assert overlooked(SLURM) is None
    assert overlooked({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}) is None
    assert overlooked({}) is None
