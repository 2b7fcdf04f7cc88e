"""Tokenizing that takes long is seen, and what takes a moment is not."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jaxbert.tasks import reading as module
from jaxbert.tasks.reading import ReadingProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def shown(monkeypatch, clock, seconds: float, terminal: bool) -> str:
    """Return what is written while 3,000 rows are read in so many seconds."""
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=screen, force_terminal=terminal, width=100))
    with ReadingProgress("a[b].csv") as reading:
        for _ in range(3):
            clock.now += seconds / 3
            reading.add(1000)
    return screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_of_what_takes_a_moment(monkeypatch, clock, terminal):
    assert shown(monkeypatch, clock, 1.5, terminal) == ""


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, clock):
    lines = shown(monkeypatch, clock, 24.0, terminal=False).splitlines()
    assert lines == ["tokenizing a[b].csv: 2,000 rows, 125 rows/s"]


def test_a_moving_line_on_a_terminal(monkeypatch, clock):
    screen = shown(monkeypatch, clock, 6.0, terminal=True)
    assert "tokenizing a[b].csv: 3,000 rows, 500 rows/s" in screen
    assert "1,000 rows" not in screen
