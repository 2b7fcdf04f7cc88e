"""The terminal, shared by all parts of the package: one console on stderr, a spinner, progress through a source."""

from __future__ import annotations

import logging
import time
from importlib.util import find_spec

from rich.console import Console
from rich.text import Text

console = Console(stderr=True, markup=False)
PLAIN_LINE_SECONDS = 10.0
"""Seconds between two lines of progress without a terminal."""
_SHORT_SECONDS = 2.0


def shows_bars() -> bool:
    """Return whether a bar can move: on a terminal, and in a notebook with widgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def mute() -> None:
    """Leave the terminal to another process of the run; errors are still printed."""
    console.quiet = True
    logging.getLogger("jaxbert").setLevel(logging.ERROR)


def _spinner() -> str:
    return "dots" if console.encoding.startswith("utf") else "line"


class Status:
    """Shows the current work: with a spinner on a terminal, else one line each time; use it as a context manager."""

    def __init__(self, first: str) -> None:
        self._status = console.status(first, spinner=_spinner(), refresh_per_second=4)

    def __enter__(self) -> Status:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def say(self, line: str) -> None:
        """Show another line."""
        self._status.update(Text(line))
        if not console.is_terminal:
            console.print(line, highlight=False, soft_wrap=True)


class ReadingProgress:
    """Shows progress through a source, unless reading takes only a moment or it is `silent`."""

    def __init__(self, name: str, doing: str = "tokenizing", *, silent: bool = False) -> None:
        self._name, self._doing, self._silent = name, doing, silent
        self._rows = 0
        self._begin = self._last_plain_line = time.monotonic()
        self._status = console.status("", spinner=_spinner())

    def __enter__(self) -> ReadingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def add(self, rows: int) -> None:
        """Count rows, and show the count now and then."""
        self._rows += rows
        if self._silent:
            return
        now = time.monotonic()
        rate = f"{self._rows / max(now - self._begin, 1e-9):,.0f} rows/s"
        line = f"{self._doing} {self._name}: {self._rows:,} rows, {rate}"
        if console.is_terminal and now - self._begin > _SHORT_SECONDS:
            self._status.start()
            self._status.update(Text(line))
        elif not console.is_terminal and now - self._last_plain_line > PLAIN_LINE_SECONDS:
            self._last_plain_line = now
            console.print(Text(line), soft_wrap=True)
