"""The process that `forked` starts: import what the commands of tests import, then fork one for each request."""

from __future__ import annotations

import gc
import io
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from jaxbert.cli.main import _quiet

MODULES = (
    "jaxbert.train.run",
    "jaxbert.api.finetune",
    "jaxbert.api.model",
    "jaxbert.bench.sweep",
    "jaxbert.plan.planner",
    "jax.experimental.multihost_utils",
    "pandas",
    "pyarrow",
    "scipy.stats",
    "sklearn.metrics",
    "joblib",
    "transformers.models.bert.tokenization_bert",
)
"""The start of a command imports these, or its first step does."""


def serve(requests: socket.socket) -> None:
    """Fork a command for each request until the other end is closed; return in the commands alone."""
    while True:
        _, files, _, _ = socket.recv_fds(requests, 1, 4)
        if not files:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            command = os.fork()
            if command:  # this process ends, so that the command becomes a child of the one that asked
                os.write(writing, str(command).encode())
                os._exit(0)
            os.close(reading)
            os.close(writing)
            requests.close()
            become(*files)
            return
        os.waitpid(between, 0)
        os.close(writing)
        requests.sendall(os.read(reading, 64))
        for number in (reading, *files):
            os.close(number)


def become(message: int, *streams: int) -> None:
    """Take over streams, variables, folder and arguments of the command."""
    with open(message, "rb") as file:
        file.seek(0)
        request: dict[str, Any] = json.load(file)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in tests/conftest.py: nohup has it ignored
    sys.stdin = reopened(0, "rb", sys.stdin)
    sys.stdout = reopened(1, "wb", sys.stdout)
    sys.stderr = reopened(2, "wb", sys.stderr)
    sys.argv = request["words"]
    tell_jax()


def reopened(number: int, mode: str, before: TextIO) -> TextIO:
    """Return a stream of a number with the encoding and the buffering of the one before."""
    raw = before.write_through and mode == "wb"
    binary = open(number, mode, buffering=0 if raw else -1, closefd=False)  # noqa: SIM115 (for the life of the process)
    return io.TextIOWrapper(
        binary, before.encoding, before.errors, line_buffering=before.line_buffering, write_through=before.write_through
    )


def tell_jax() -> None:
    """Let JAX's variables have the effect that they have while it is imported."""
    for variable, text in os.environ.items():
        name = variable.lower()
        if variable.startswith("JAX_") and name in jax.config.values:
            before = jax.config.values[name]
            value: Any = text
            if isinstance(before, bool):
                value = text.lower() in ("1", "true", "t", "yes", "y", "on")
            elif isinstance(before, int | float):
                value = type(before)(text)
            jax.config.update(name, value)


def run(words: list[str]) -> None:
    """Run `python WORDS`: -m MODULE, -c PROGRAM or a file, and what they get."""
    if words[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    if words[0] == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *words[2:]]
        program, name = words[1], "<string>"
    else:
        sys.path[0] = os.path.dirname(words[0])
        program, name = Path(words[0]).read_text("utf-8"), words[0]
        main.__file__ = name
    exec(compile(program, name, "exec"), main.__dict__)


if __name__ == "__main__":
    _quiet()  # libraries read some of its variables while they are imported
    import jax

    for module in MODULES:
        __import__(module)
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    run(sys.argv)
