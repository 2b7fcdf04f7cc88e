"""In a notebook a bar is one widget, drawn now and then by the program itself; without widgets there are lines."""

from __future__ import annotations

import sys
import types

import pytest
from rich.console import Console

from jaxbert import terminal
from jaxbert.runs.folder import RunFolder
from jaxbert.train import report


class Output:
    """Stands for the widget: what is displayed while it is entered belongs to it, and each drawing replaces the last."""

    inside = None

    def __init__(self):
        self.drawn = []

    def __enter__(self):
        Output.inside = self

    def __exit__(self, *_):
        Output.inside = None

    def clear_output(self, wait):
        self.drawn.clear()

    def close(self):
        self.drawn.clear()


@pytest.fixture
def notebook(monkeypatch):
    """Stand in for IPython and its widgets; return what was displayed."""
    shown = []

    def display(*things):
        (shown if Output.inside is None else Output.inside.drawn).extend(things)

    console = Console(stderr=True, markup=False, force_jupyter=True, width=100)
    for module in (terminal, report):
        monkeypatch.setattr(module, "console", console)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "ipywidgets", types.SimpleNamespace(Output=Output))
    monkeypatch.setattr(report, "_DRAW_SECONDS", 0.0)
    return shown


def take_steps(folder):
    with report.Report(RunFolder(folder), 3, 0, writes=False) as shown:
        assert not shown._bar.live.auto_refresh
        shown.compiling(2)
        for step in (1, 2, 3):
            shown.progress(step, 0.5, 10.0, 100.0, 0)
            if step == 2:
                shown.say("step 2: accuracy 1.0")


def said(things):
    """Return the text of what is displayed, without empty lines."""
    texts = [thing._repr_mimebundle_([], [])["text/plain"] for thing in things if not isinstance(thing, Output)]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def test_a_bar_is_one_widget(notebook, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "find_spec", lambda name: object())
    drawn = []
    close = Output.close
    monkeypatch.setattr(Output, "close", lambda self: (drawn.extend(self.drawn), close(self)))
    take_steps(tmp_path)
    assert sum(isinstance(thing, Output) for thing in notebook) == 1
    assert said(notebook) == ["step 2: accuracy 1.0"]
    (bar,) = said(drawn)
    assert "3/3" in bar


def test_without_widgets_there_are_lines(notebook, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    take_steps(tmp_path)
    lines = [
        "compiling the step for 2 rows",
        "step 1/3  loss 0.5000  10 examples/s  100 tokens/s",
        "step 2: accuracy 1.0",
    ]
    assert said(notebook) == lines
