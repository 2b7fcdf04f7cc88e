"""What the processes of a run agree on: who speaks and writes, when all have come so far, when all stop.

With one process every function here does nothing or the obvious. Start-up is `launch`'s part.
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

from jaxbert.data.tokens import Encoded, Shard
from jaxbert.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST = 1 << 12
"""Bytes of a message from one process to the others."""
_GONE = r"Connection (closed|reset) by peer|heartbeat|[Cc]oordination service|Gloo \w+ failed"


def another_is_gone(error: BaseException) -> bool:
    """Say whether an exception is what a collective raises when a process at its other end is gone."""
    return jax.process_count() > 1 and re.search(_GONE, str(error)) is not None


def is_main() -> bool:
    """Say whether this process writes the run folder and speaks to the terminal."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Say whether this process is the whole run."""
    return jax.process_count() == 1


def wait_for_all(name: str) -> None:
    """Return when all processes have come to this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def main_decides(decide: Callable[[], None]) -> None:
    """Let the main process do something that it may refuse; all wait for it.

    Raises:
      UserError: in all processes, where it refuses.
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
    """Say whether all processes come with the same 16 bytes."""
    if is_alone():
        return True
    found = multihost_utils.process_allgather(np.frombuffer(checksum, np.uint8))
    return bool((found == found[:1]).all())


class Interrupt:
    """While entered, SIGINT or SIGTERM is remembered until the loop asks; the handler does nothing else.

    The first one asks to save and stop, the second stops at once. Several processes have to stop after the same step: the
    one that got the signal hands it to JAX's preemption service, and all learn from it at which of their dispatches.
    """

    def __init__(self) -> None:
        self._received = False
        self._dispatches = 0
        self._notice: _PreemptionNotice | None = None
        self._previous: dict[int, object] = {}

    def agreed(self) -> bool:
        """Say whether to save and stop now; all processes ask once after each dispatch, and get the same answer."""
        if jax.process_count() == 1:
            return self._received
        if self._received and self._notice is not None:
            self._notice.send()
        self._dispatches += 1
        return multihost_utils.reached_preemption_sync_point(self._dispatches)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            previous = self._previous.get(number)
            if previous is signal.default_int_handler:  # a program of the user, a notebook: it must not end as a whole
                signal.default_int_handler(number, frame)
            os._exit(128 + number)
        self._received = True

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            if jax.process_count() > 1:
                self._notice = _PreemptionNotice()
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        if self._notice is not None:
            self._notice.restore()


class _PreemptionNotice:
    """The handler of SIGTERM that JAX's preemption service installed in C, which Python's own replaces.

    It takes note for all processes. A signal of ours has to reach it too.
    """

    def __init__(self) -> None:
        self._set_handler = ctypes.CDLL(None).signal
        self._set_handler.restype, self._set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        self._address = self._set_handler(signal.SIGTERM, None)
        self._sent = False

    def send(self) -> None:
        """Tell all processes, once."""
        if self._address and not self._sent:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self._address)(signal.SIGTERM)
        self._sent = True

    def restore(self) -> None:
        """Give SIGTERM back."""
        self._set_handler(signal.SIGTERM, self._address)


def on_host(tree: Any) -> Any:
    """Return arrays as NumPy's, whole in every process; all processes call it, and devices hold one tensor at a time."""

    def gather(array: Any) -> Any:
        if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
            assert isinstance(array.sharding, NamedSharding)
            assert isinstance(array.sharding.mesh, Mesh)
            array = jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
        return jax.device_get(array)

    return jax.tree.map(gather, tree)


def tokenizing_shard() -> Shard:
    """Return what this process tokenizes, with the network of the devices to exchange it."""
    if jax.process_count() == 1:
        return Shard()
    return Shard(jax.process_index(), jax.process_count(), _gather_encoded, _all_say_yes)


def _all_say_yes(mine: bool) -> bool:
    return bool(multihost_utils.process_allgather(np.int32(mine)).all())


def _gather_encoded(mine: Encoded) -> list[Encoded]:
    """Send all arrays as one, padded to a power of two so that few programs are compiled.

    The columns of all processes have the same names, dtypes (of 4 or 8 bytes) and shapes behind the first axis.
    """
    columns = dict(mine.columns)
    arrays = [mine.ids, mine.lengths, mine.first_lengths, mine.windows, mine.whole, *columns.values()]
    words = [np.ascontiguousarray(array).reshape(-1).view(np.int32) for array in arrays]
    sizes = np.array([*map(len, words), mine.cut], np.int32)
    all_sizes = np.asarray(multihost_utils.process_allgather(sizes))
    longest = int(all_sizes[:, :-1].sum(1).max())
    message = np.zeros(1 << longest.bit_length(), np.int32)
    content = np.concatenate(words)
    message[: len(content)] = content
    messages = np.asarray(multihost_utils.process_allgather(message))

    def unpack(message: np.ndarray, sizes: np.ndarray) -> Encoded:
        ends = np.cumsum(sizes[:-1])
        parts = np.split(message[: ends[-1]], ends[:-1])
        found = [part.view(a.dtype).reshape(-1, *a.shape[1:]) for part, a in zip(parts, arrays, strict=True)]
        ids, lengths, first_lengths, windows, whole, *others = found
        further = dict(zip(columns, others, strict=True))
        return Encoded(ids, lengths, first_lengths, int(sizes[-1]), windows, whole, further)

    return [unpack(message, sizes) for message, sizes in zip(messages, all_sizes, strict=True)]
