"""local.sh: what it starts, what it passes on, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from runs import ROOT

LOCAL = ROOT / "scripts" / "launch" / "local.sh"
STAND_IN = Path(__file__).with_name("stand_in.sh")


def local(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHON": str(STAND_IN), "XLA_FLAGS": ""} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["bash", str(LOCAL), *arguments], env=environment, **pipes)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_every_process_knows_its_place():
    code, out, err = finish(local("-n", "3", "-d", "4", "--", "nothing", XLA_FLAGS="--other=1"))
    assert code == 0
    lines = sorted(out.splitlines())
    address = lines[0].split()[-1]
    assert address.startswith("localhost:")
    assert lines == [f"process {number} of 3 at {address}" for number in range(3)]
    flags = "cpu --other=1 --xla_force_host_platform_device_count=4"
    assert sorted(err.splitlines()) == [f"[{number}] {flags}" for number in range(3)]


def test_arguments_arrive_as_they_are():
    _, out, _ = finish(local("-n", "1", "--", "echo", "a b", "$HOME", "it's", "--n"))
    assert out.splitlines()[-1] == "<a b><$HOME><it's><--n>"


def test_a_failure_ends_the_others_and_is_the_exit_code():
    code, _, err = finish(local("--", "fail"))
    assert code == 3
    assert "process 1 ended with 3: ending the other 1" in err
    assert "[0] signal 0" in err


def test_who_does_not_listen_is_killed(tmp_path):
    code, _, _ = finish(local("--grace", "1", "--", "deaf", str(tmp_path / "pid")))
    assert code == 4
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_that_stopped_after_saving_ends_no_other():
    code, _, err = finish(local("--", "stop"))
    assert code == 75
    assert "ending" not in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_are_passed_on(name):
    process = local("--", "signal")
    assert process.stdout is not None
    ready = 0
    while ready < 2:
        ready += process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    code, _, err = finish(process)
    assert code == 75
    assert sorted(line for line in err.splitlines() if "signal" in line) == ["[0] signal 0", "[1] signal 1"]


def test_a_dry_run_prints_and_runs_nothing():
    code, out, err = finish(local("--dry-run", "-n", "2", "-d", "3", "--", "train", "--config", "a b.yaml"))
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert line.startswith("+ env JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=3 ")
        assert f"JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={number} " in line
        assert line.endswith("-m jaxbert train --config 'a b.yaml'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "2"], "nothing to run"),
        (["-n", "0", "--", "train"], "-n is '0'"),
        (["-d", "x", "--", "train"], "-d is 'x'"),
        (["-n"], "-n needs a value"),
        (["train"], "unknown option train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_said(arguments, message):
    code, _, err = finish(local(*arguments))
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
