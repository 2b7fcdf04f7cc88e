"""SIGINT and SIGTERM: the first asks the loop to save and stop, the second stops at once.

Several processes have to stop after the same step: the one that got the signal hands it to JAX's preemption service, and
all learn from it at which of their dispatches.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from types import FrameType

import jax

from jaxbert.processes import stop_agreed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 75


class StoppedError(Exception):
    """A signal ended the run after its state was saved; run it again to go on."""

    def __init__(self, step: int, way: str = "run the same command to go on") -> None:
        super().__init__(f"stopped after step {step}, which is saved; {way}")
        self.step = step
        """The last step."""


class Interrupt:
    """While entered, a signal is remembered until the loop asks; the handler does nothing else."""

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
        return stop_agreed(self._dispatches)

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
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
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
