"""Makes Ctrl-C reliable: `KeyboardInterrupt` is raised again until it is caught."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

_SECONDS = 1.0
_again: threading.Timer | None = None


def listen() -> None:
    """Replace Python's handler of SIGINT, unless the signal is ignored, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _drop_interruption


def heard() -> None:
    """Stop raising the last interruption: it was caught, and the work is about to end."""
    if _again is not None:
        _again.cancel()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, and again every second until `heard` is called.

    An exception that is raised inside a callback or a conversion of a library may be lost (seen with NumPy and jaxlib).
    """
    global _again
    _again = threading.Timer(_SECONDS, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    _again.daemon = True
    _again.start()
    raise KeyboardInterrupt


def _drop_interruption(dropped: Any) -> None:
    """Print nothing about an interruption that a callback could not raise: it is raised again."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
