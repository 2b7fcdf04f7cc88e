"""A readable error message when JAX's runtime ends the process by itself.

When a start fails, the runtime writes the reason and a stack trace, and aborts; Python sees no exception (jaxlib 0.10.2 and
0.12). The abort is a signal, and its handler can still write a message.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

_STDERR = 2
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


@contextlib.contextmanager
def abort_explained(explain: Callable[[str], str], code: int) -> Iterator[None]:
    """While entered, an abort prints `explain(written output)` as a one-line error and ends the process with `code`.

    Other output to standard error meanwhile is written at the end.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said, os.fdopen(os.dup(_STDERR), "w", encoding="utf-8") as stderr:

        @_HANDLER
        def handle(number: int) -> None:
            try:
                print(f"error: {' '.join(explain(_content(said)).split())}", file=stderr, flush=True)
            finally:
                os._exit(code)

        os.dup2(said.fileno(), _STDERR)
        before = _set_handler(ctypes.cast(handle, ctypes.c_void_p))
        try:
            yield
        finally:
            _set_handler(before)
            sys.stderr.flush()
            os.dup2(stderr.fileno(), _STDERR)
            stderr.write(_content(said))


def _content(file: Any) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _set_handler(handler: Any) -> Any:
    """Set C's handler of the abort; Python's own handler would run too late."""
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return set_handler(signal.SIGABRT, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process at once: Python's handler would run only when the runtime returns."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def roll_call(seconds: int) -> Iterator[None]:
    """Let the coordinator name the missing processes after `seconds`; by default it waits an hour, and others do not know.

    No version of JAX so far passes this time-out on. If the setting is not found, no process is named.
    """
    from jax._src.lib import _jax

    service: Any = getattr(_jax, "get_distributed_runtime_service", None)
    if "cluster_register_timeout" not in (getattr(service, "__doc__", None) or ""):
        yield
        return
    _jax.get_distributed_runtime_service = functools.partial(service, cluster_register_timeout=seconds)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = service
