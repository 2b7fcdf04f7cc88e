"""Agreement between the processes of a run: the main process, waiting for all, stopping together.

With one process every function here returns at once. `launch` starts the processes.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbert.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST = 1 << 12
"""The most bytes of a message from one process to the others."""
_GONE = r"Connection (closed|reset) by peer|heartbeat|[Cc]oordination service|Gloo \w+ failed"


def another_is_gone(error: BaseException) -> bool:
    """Return whether an exception is that of a collective whose other process is gone."""
    return jax.process_count() > 1 and re.search(_GONE, str(error)) is not None


def is_main() -> bool:
    """Return whether this process writes the run folder and prints to the terminal."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Return whether this process is the whole run."""
    return jax.process_count() == 1


def wait_for_all(name: str) -> None:
    """Wait until all processes have called this function with this name."""
    if not is_alone():
        multihost_utils.sync_global_devices(name)


def main_decides(decide: Callable[[], None]) -> None:
    """Let the main process do something that may raise a UserError; all processes wait for it.

    Raises:
      UserError: in all processes, if the main process raises one.
    """
    if is_alone():
        decide()
        return
    said = b""
    if is_main():
        try:
            decide()
        except UserError as error:
            said = str(error).encode()[:_LONGEST]
    message = np.zeros(_LONGEST, np.uint8)
    message[: len(said)] = np.frombuffer(said, np.uint8)
    heard = bytes(np.asarray(multihost_utils.broadcast_one_to_all(message))).rstrip(b"\0")
    if heard:
        raise UserError(heard.decode(errors="replace"))


def all_alike(checksum: bytes) -> bool:
    """Return whether all processes call with the same 16 bytes."""
    if is_alone():
        return True
    found = multihost_utils.process_allgather(np.frombuffer(checksum, np.uint8))
    return bool((found == found[:1]).all())


class Interrupt:
    """While entered, SIGINT or SIGTERM is recorded until the loop asks; the handler does nothing else.

    The first signal asks to save and stop, the second stops at once. Several processes must stop after the same step: the
    process with the signal passes it to JAX's preemption service, which tells all of them after which dispatch to stop.
    """

    def __init__(self) -> None:
        self._received = False
        self._dispatches = 0
        self._notice: _PreemptionNotice | None = None
        self._previous: dict[int, object] = {}

    def agreed(self) -> bool:
        """Return whether to save and stop now; all processes call it once after each dispatch and get the same answer."""
        if is_alone():
            return self._received
        if self._received and self._notice is not None:
            self._notice.send()
        self._dispatches += 1
        return multihost_utils.reached_preemption_sync_point(self._dispatches)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            previous = self._previous.get(number)
            if previous is signal.default_int_handler:  # in a user's program or a notebook, which must not end
                signal.default_int_handler(number, frame)
            os._exit(128 + number)
        self._received = True

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            if not is_alone():
                self._notice = _PreemptionNotice()
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        if self._notice is not None:
            self._notice.restore()


class _PreemptionNotice:
    """The C handler of SIGTERM by JAX's preemption service, which Python's own handler replaces.

    It notifies all processes. Our own signals must reach it too.
    """

    def __init__(self) -> None:
        self._set_handler = ctypes.CDLL(None).signal
        self._set_handler.restype, self._set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        self._address = self._set_handler(signal.SIGTERM, None)
        self._sent = False

    def send(self) -> None:
        """Notify all processes, once."""
        if self._address and not self._sent:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self._address)(signal.SIGTERM)
        self._sent = True

    def restore(self) -> None:
        """Restore the handler of SIGTERM."""
        self._set_handler(signal.SIGTERM, self._address)


def on_host(tree: Any) -> Any:
    """Return complete NumPy arrays in every process; all processes call it, and devices gather one tensor at a time."""

    def gather(array: Any) -> Any:
        if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
            assert isinstance(array.sharding, NamedSharding)
            assert isinstance(array.sharding.mesh, Mesh)
            array = jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
        return jax.device_get(array)

    return jax.tree.map(gather, tree)
