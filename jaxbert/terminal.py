"""The terminal, shared by all parts of the package: one console on stderr, a spinner for the current work."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.text import Text

console = Console(stderr=True, markup=False)
PLAIN_LINE_SECONDS = 10.0
"""Seconds between two lines of progress without a terminal."""


def mute() -> None:
    """Leave the terminal to another process of the run; errors are still printed."""
    console.quiet = True
    logging.getLogger("jaxbert").setLevel(logging.ERROR)


def spinner() -> str:
    """Return the name of a spinner that the terminal can show."""
    return "dots" if console.encoding.startswith("utf") else "line"


class Status:
    """Shows the current work: with a spinner on a terminal, else one line each time; use it as a context manager."""

    def __init__(self, first: str) -> None:
        self._status = console.status(first, spinner=spinner(), refresh_per_second=4)

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
