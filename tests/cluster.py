"""Several processes of one run on this machine, each with some fake devices, for tests."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import quick
from runs import finish, python, read_metrics

PATIENCE_SECONDS = 180

# Starting processes takes longer than a small run: several runs may share them.
IN_TURN = """
import json, sys
from jaxbert.cli import main as cli

for arguments in json.loads(sys.argv[1]):
    code = cli.main(arguments)
    if code:
        break
cli.end(code)
sys.exit(code)
"""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """So many processes with so many devices each."""

    processes: int
    devices: int

    @contextlib.contextmanager
    def start(self, *runs: list[str], program: str = "") -> Iterator[list[subprocess.Popen[str]]]:
        """Start `jaxbert ARGUMENTS` in each process, several in turn, or a program; what still runs at the end is killed."""
        words = ["-m", "jaxbert", *runs[0]] if len(runs) == 1 else ["-c", program or IN_TURN, json.dumps(runs)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = f"--xla_force_host_platform_device_count={self.devices}"
        several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(self.processes)}
        running: list[subprocess.Popen[str]] = []
        try:
            for index in range(self.processes):
                mine = {**several, "JAX_PROCESS_ID": str(index)} if self.processes > 1 else {}
                running.append(python(*words, variables=mine | quick.variables(flags)))
            yield running
        finally:
            kill(running)

    def run(self, *runs: list[str]) -> list[str]:
        """Run to the end and return what each process wrote to standard error."""
        with self.start(*runs) as running:
            ends = [finish(process, seconds=300 * len(runs)) for process in running]
        assert [code for code, _, _ in ends] == [0] * self.processes, ends
        return [err for _, _, err in ends]


def kill(running: list[subprocess.Popen[str]]) -> None:
    """End processes as a crash of their machine does, and wait until they are gone."""
    for process in running:
        process.kill()
    for process in running:
        process.communicate()


def losses(run: Path) -> list[tuple[int, float]]:
    """Return step and loss of each line of metrics that has a loss."""
    return [(line["step"], line["train_loss"]) for line in read_metrics(run) if "train_loss" in line]


def wait_for(run: Path, step: int, running: list[subprocess.Popen[str]]) -> None:
    """Return when the metrics of a step are written; none of the processes may end before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    metrics = run / "metrics.jsonl"
    while time.monotonic() < deadline:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if _last_step(lines) >= step:
            return
        ended = [process for process in running if process.poll() is not None]
        assert not ended, [(process.returncode, process.communicate()[1]) for process in ended]
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached")


def _last_step(lines: list[str]) -> int:
    """Return the step of the last whole line; the one behind it may be half written."""
    return int(lines[-2].split(",")[0].removeprefix('{"step": ')) if len(lines) > 1 else 0
