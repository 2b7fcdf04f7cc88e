"""Start Python commands from a process that has imported what they import, which is most of what a short one costs.

Ten seconds of imports (jax, transformers, scikit-learn, pandas) become a fork of some milliseconds. The process that forks
has started no backend and no thread of Python, and each command gets arguments, variables, folder, files, signals and an end
of its own, as one that begins with nothing; JAX, which reads its variables while it is imported, is told of them.
Tests of the start itself, and of what is imported when, start a new interpreter (`runs.python(..., anew=True)`).
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection
from typing import Any

import quick

from jaxbert.cli.main import QUIET

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: orphans become children of this process."""
_OPTIONS = {"stdin", "stdout", "stderr", "cwd", "errors", "encoding", "bufsize", "start_new_session"}
"""Of those of `subprocess.Popen`, the ones that a forked command has too."""
_LOCK = threading.Lock()
_BEGUN_WITH = dict(os.environ)
"""The variables before any test has changed one."""


def possible(environment: dict[str, str], options: Collection[str]) -> bool:
    """Say whether a command may be forked: it would import what the server has imported, and asks for nothing unusual."""
    if sys.platform != "linux" or not _OPTIONS.issuperset(options):
        return False
    names = filter(_read_while_importing, environment.keys() | _environment().keys())
    # A test that calls `main` leaves the variables in its own process that each command sets itself.
    return all((QUIET | environment).get(name) == (QUIET | _environment()).get(name) for name in names)


def _read_while_importing(variable: str) -> bool:
    return variable.startswith(("PYTHON", "HF_", "TRANSFORMERS_"))


@functools.cache
def _environment() -> dict[str, str]:
    """Return the variables of the server; those of JAX have their effect in the commands."""
    ours = {name: value for name, value in _BEGUN_WITH.items() if not name.startswith("JAX_")}
    # A library of linear algebra would start threads, which a fork does not take along.
    return ours | {"PYTHONPATH": quick.search_path(_BEGUN_WITH), "OPENBLAS_NUM_THREADS": "1"}


class Forked(subprocess.Popen[str]):
    """A command that is forked from the server, and a child of this process like any other."""

    def _execute_child(self, *arguments: Any) -> None:
        signature = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
        given = signature.bind(self, *arguments).arguments
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        try:
            request = {
                "words": given["args"][1:],
                "environment": given["env"],
                "folder": os.path.abspath(given["cwd"] or "."),
            }
            request |= {"session": given["start_new_session"]}
            streams = (given[name] for name in ("p2cread", "c2pwrite", "errwrite"))
            files = [number if own == -1 else own for number, own in enumerate(streams)]
            self.pid = _ask(request, files)
            self._child_created = True
        finally:
            self._close_pipe_fds(*(given[name] for name in ends))  # type: ignore[attr-defined]


def _ask(request: dict[str, Any], files: list[int]) -> int:
    """Let the server fork a command; return its number."""
    prctl = ctypes.CDLL(None).prctl
    with _LOCK, tempfile.TemporaryFile() as message:
        server = _server()
        message.write(json.dumps(request).encode())
        message.flush()
        prctl(_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(server, [b"1"], [message.fileno(), *files])
            answer = server.recv(64)
        finally:
            prctl(_SUBREAPER, 0, 0, 0, 0)
    if not answer:
        raise RuntimeError("the process that forks commands has ended: see its last lines on standard error")
    return int(answer)


@functools.cache
def _server() -> socket.socket:
    """Start the process that forks; it ends with this one."""
    here, there = socket.socketpair()
    script = os.path.join(os.path.dirname(__file__), "fork_server.py")
    words = [sys.executable, script, str(there.fileno())]
    process = subprocess.Popen(words, pass_fds=[there.fileno()], env=_environment(), stdin=subprocess.DEVNULL)
    there.close()

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here
