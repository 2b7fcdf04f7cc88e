"""Runs in Python on the problem of `runs`: its rows in memory, and a callback that remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runs import Problem, random_rows

import jaxbert

SETTINGS = {"epochs": 2, "batch_size": 16, "log_every": 1, "learning_rate": 1e-3, "model__scan_layers": True}


def rows_of(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return the rows of `Problem` as dictionaries."""
    return [{"text": text, "label": label} for text, label in random_rows(count, seed)]


class Recorder(jaxbert.Callback):
    """Remembers what it is told; asks for the end behind a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[tuple[str, int]] = []
        self.values: list[Any] = []
        self.stop_at = stop_at

    def _note(self, event: str, step: int, values: Any) -> str | None:
        self.events.append((event, step))
        self.values.append(values)
        return jaxbert.STOP if event == "step" and step == self.stop_at else None

    def on_step(self, step: int, values: Any) -> str | None:
        return self._note("step", step, values)

    def on_evaluate(self, step: int, metrics: Any) -> str | None:
        return self._note("evaluate", step, metrics)

    def on_save(self, step: int, path: Any) -> str | None:
        return self._note("save", step, path)


@dataclass
class Run:
    """A run of 14 steps on rows in memory."""

    problem: Problem
    result: jaxbert.Result
    recorder: Recorder
    asked: list[tuple[list[str], list[str]]]
    """What a metric of its own was called with."""
