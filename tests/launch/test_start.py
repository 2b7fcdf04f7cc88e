"""Real processes on this machine: they find each other, say who is missing, and none outlives another for long."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import quick
import yaml
from runs import ROOT, finish, python

from jaxbert.config import Config, LaunchConfig, TrainConfig
from jaxbert.errors import UserError
from jaxbert.launch import start as starting
from jaxbert.launch.start import missing_processes, start
from jaxbert.runs.folder import RunFolder

MEMBER = Path(__file__).with_name("member.py")
HEARTBEAT = 5
STARTED: list[subprocess.Popen[str]] = []
SLACK = 40
"""Seconds that a busy machine may add to what is waited for."""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def places(processes: int) -> list[dict[str, str]]:
    """Return the variables of each process of a run."""
    address = f"localhost:{free_port()}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    return [shared | {"JAX_PROCESS_ID": str(number)} for number in range(processes)]


def variables() -> dict[str, str]:
    """Return the environment of a process with one device that imports this tree."""
    quickly = quick.variables()
    return {**os.environ, **quickly, "PYTHONPATH": os.pathsep.join((quickly["PYTHONPATH"], str(ROOT)))}


def launch(program: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    """Start one process of a run; none outlives its test."""
    process = python(*program, variables=variables)
    STARTED.append(process)
    return process


def members(tasks: str) -> list[subprocess.Popen[str]]:
    """Start one process for each task, joined by a short heartbeat."""
    variables = places(len(tasks.split(",")))
    return [launch([str(MEMBER), tasks], {**own, "HEARTBEAT": str(HEARTBEAT)}) for own in variables]


def jaxbert(variables: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start the command line as one process of a run."""
    return launch(["-m", "jaxbert", *arguments], variables)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def said_until_its_end(process: subprocess.Popen[str]) -> str:
    """Wait until a process ends, which must not take long; return what it said."""
    _, err = process.communicate(timeout=HEARTBEAT + SLACK)
    return err


def test_two_processes_add_up(tmp_path):
    """By local.sh, with two devices each."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {MEMBER} "$@"\n')
    python.chmod(0o755)
    script = ["bash", str(ROOT / "scripts" / "launch" / "local.sh"), "-n", "2", "-d", "2", "--", "0,0"]
    environment = variables() | {"PYTHON": str(python)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for number in range(2):
        assert done.stdout.count(f"process {number} of 2: 4 devices, sum 3\n") == 1
        assert (f"[{number}] told by process {number}\n" in done.stderr) == (number == 0)
        assert (
            f"[{number}] note: process {number} of 2 (counted from 0); JAX's own variables; coordinator" in done.stderr
        )


def test_a_process_that_does_not_come_is_named(tmp_path):
    (tmp_path / "in.csv").write_text("text\nhello\n")
    arguments = ["predict", "--model", "none", "--input", str(tmp_path / "in.csv"), "--launch.timeout_seconds", "4"]
    for process in [jaxbert(own, *arguments) for own in places(3)[:2]]:
        code, out, err = finish(process, seconds=4 + SLACK)
        assert (code, out) == (2, "")
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: 1 of 3 processes did not come within 4 s: 2 (counted from 0)")
        assert "Traceback" not in err


@pytest.mark.slow
def test_nobody_at_the_coordinators_address_is_said(tmp_path):
    arguments = ["evaluate", "--model", "none", "--data", str(tmp_path / "in.csv"), "--launch.timeout_seconds", "3"]
    (tmp_path / "in.csv").write_text("text,label\nhello,a\n")
    own = places(2)[1]
    code, _, err = finish(jaxbert(own, *arguments))
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: process 0 at {own['JAX_COORDINATOR_ADDRESS']} could not be reached within 3 s")
    assert line.endswith("this is process 1 of 2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "tasks",
    ["wait,kill", "kill,add", *(pytest.param(tasks, marks=pytest.mark.long) for tasks in ("kill,wait", "add,kill"))],
)
def test_when_one_process_dies_the_other_ends(tasks):
    """Whoever it is, and whether the other one waits for it in a sum or works by itself."""
    started = members(tasks)
    dies = tasks.split(",").index("kill")
    out, _ = started[dies].communicate(timeout=120)
    assert (started[dies].returncode, out.count("sum 3")) == (-signal.SIGKILL, 1)
    err = said_until_its_end(started[1 - dies])
    assert started[1 - dies].returncode not in (0, 2, 75)
    assert re.search("another process of this run|another task died", err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tasks",
    ["wait,mistake", *(pytest.param(tasks, marks=pytest.mark.long) for tasks in ("mistake,wait", "mistake,add"))],
)
def test_a_mistake_of_one_process_ends_all(tasks):
    started = members(tasks)
    wrong = tasks.split(",").index("mistake")
    _, err = started[wrong].communicate(timeout=120)
    assert started[wrong].returncode == 2
    assert "error: a mistake of one process\n" in err
    said_until_its_end(started[1 - wrong])
    assert started[1 - wrong].returncode not in (0, 2, 75)


def test_a_run_that_is_stopped_ends_together():
    for process in members("75,75"):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 75, err
        assert "did not end together" not in err


def test_a_taken_port_is_said():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        launch = LaunchConfig(coordinator=f"localhost:{port}", num_processes=2, process_id=0)
        with pytest.raises(UserError, match=f"port {port} of localhost, where process 0 is to listen, is taken"):
            start(launch)


MISSING = {
    "numbers": (
        "reached the barrier: 1/4.\nThe first task at the barrier: 0. Some timed out task names:\n3\n1\n\nRPC: /x 7\n",
        [1, 3],
    ),
    "names": (
        "Some timed out task names:\n/job:jax_worker/replica:0/task:10\n/job:jax_worker/replica:0/task:2\n\n\n",
        [2, 10],
    ),
    "none": ("DEADLINE_EXCEEDED: something else\n", []),
}


@pytest.mark.parametrize(("message", "missing"), MISSING.values(), ids=MISSING)
def test_who_is_missing(message, missing):
    assert missing_processes(message) == missing


@pytest.fixture
def no_cluster(monkeypatch):
    for name in [
        name for name in os.environ if re.match("JAX_COORD|JAX_NUM|JAX_PROC|SLURM_|OMPI_|TPU_|MEGASCALE_|JOBSET_", name)
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(starting, "_initialize", lambda place, launch: pytest.fail("it was started"))


def test_a_process_alone_starts_nothing(no_cluster, monkeypatch, caplog):
    start(LaunchConfig())
    start(LaunchConfig(distributed="off"))
    assert caplog.text == ""
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    start(LaunchConfig(distributed="on"))


def test_a_package_that_is_needed(no_cluster, monkeypatch):
    monkeypatch.setattr(starting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("JOBSET_NAME", "run")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(UserError, match="JobSet run: the package kubernetes is missing"):
        start(LaunchConfig())


WRONG = {
    "half": ({"num_processes": 2}, "launch.num_processes is set, but launch.process_id is not"),
    "other half": ({"process_id": 0}, "launch.process_id is set, but launch.num_processes is not"),
    "too high": (
        {"num_processes": 2, "process_id": 2},
        "launch.process_id is 2, but it must be below launch.num_processes",
    ),
    "no port": ({"coordinator": "host"}, "launch.coordinator is 'host', but it must be HOST:PORT"),
    "a wrong port": ({"coordinator": "host:99999"}, "launch.coordinator is 'host:99999'"),
    "no time": ({"timeout_seconds": 0}, "launch.timeout_seconds is 0, but it must be at least 1"),
    "off": ({"distributed": "off", "coordinator": "a:1"}, "launch.distributed is off, but launch.coordinator is set"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_section(values, message):
    with pytest.raises(UserError) as caught:
        LaunchConfig(**values)
    assert message in str(caught.value)


def test_a_run_goes_on_with_other_processes(tmp_path):
    """How it is launched is not what it computes; whatever else differs is still refused."""
    folder = RunFolder(tmp_path / "run")
    folder.create(Config(launch=LaunchConfig(coordinator="a:1", num_processes=4, process_id=0)))
    folder.check(Config())
    before = yaml.safe_load(folder.config.read_text())
    del before["launch"]
    folder.config.write_text(yaml.safe_dump(before))
    folder.check(Config(launch=LaunchConfig(heartbeat_seconds=7)))
    with pytest.raises(UserError, match=r"train\.seed: 0 there, 1 now\)"):
        folder.check(Config(train=TrainConfig(seed=1)))
