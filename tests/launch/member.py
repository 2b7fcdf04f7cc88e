"""One process of several in the tests of `start`: joins the others, adds up with them, and then does what its argument says.

The argument is a list, one thing for each process: `wait,kill` lets process 0 wait and kills process 1.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from jaxbert.cli import main as cli


def run(arguments: list[str]) -> int:
    """Stand in for a verb of the command line."""
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    from jaxbert.config import LaunchConfig
    from jaxbert.errors import UserError
    from jaxbert.launch.start import start
    from jaxbert.processes import is_main
    from jaxbert.terminal import console
    from jaxbert.train.runtime import prepare_process

    prepare_process()
    start(LaunchConfig(timeout_seconds=60, heartbeat_seconds=int(os.environ.get("HEARTBEAT", "100"))))
    number = jax.process_index()
    assert is_main() == (number == 0)
    total = process_allgather(np.array([number + 1])).sum()
    line = f"process {number} of {jax.process_count()}: {len(jax.devices())} devices, sum {total}\n"
    console.print(f"told by process {number}")
    os.write(1, line.encode())  # in one piece: the processes share their standard output
    task = (arguments[0].split(",") * jax.process_count())[number]
    if task == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "mistake":
        raise UserError("a mistake of one process")
    if task == "wait":
        time.sleep(60)
    while task == "add":
        process_allgather(np.array([number]))
    return int(task) if task.isdigit() else 0


if __name__ == "__main__":
    cli.VERBS["member"] = ""
    sys.modules["jaxbert.cli.member"] = sys.modules["__main__"]
    sys.argv = [sys.argv[0], "member", *sys.argv[1:]]
    cli.entry()
