"""Ctrl-C that is not lost: `KeyboardInterrupt` is raised until somebody has heard it."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

_SECONDS = 1.0
_again: threading.Timer | None = None


def listen() -> None:
    """Take over SIGINT from Python, unless it is ignored, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _drop_interruption


def heard() -> None:
    """Raise no more for the last interruption: it was caught, and what ends the work begins."""
    if _again is not None:
        _again.cancel()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, and again every second until it is heard.

    One that is raised inside a callback or a conversion of a library may be dropped there (seen with NumPy and jaxlib).
    """
    global _again
    _again = threading.Timer(_SECONDS, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    _again.daemon = True
    _again.start()
    raise KeyboardInterrupt


def _drop_interruption(dropped: Any) -> None:
    """Say nothing of an interruption that a callback could not raise: it comes again."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
