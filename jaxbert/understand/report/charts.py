"""Charts as SVG, drawn by matplotlib: they take the colours and the font of the page, and hold no text of the user.

Equal values give equal bytes: identifiers come from a fixed salt, and nothing holds a date.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxbert.understand.report.page import Html

_INK, _LINE, _FIRST, _SECOND, _THIRD = "#010203", "#020304", "#030405", "#040506", "#050607"
_COLOURS = {
    _INK: "var(--ink)",
    _LINE: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _THIRD: "var(--good)",
}
"""The colours that matplotlib draws with, and those of the page that take their place, light or dark."""
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxbert",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_SIZE = (4.0, 2.6)
_LEFT, _RIGHT, _BOTTOM, _HEIGHT = 0.18, 0.97, 0.18, 0.77
"""Where the axes begin and end, and how high they are, as shares of the figure."""
_DIGIT, _BESIDE_DIGITS = 0.0205, 0.08
"""Width of a digit on the axis of y, and of the name and the tick beside it, as shares of the figure's width."""
_POWER = 0.06
"""Height of the power of ten above the axis of y, as a share of the figure's height."""
_MOST_POINTS = 300
_REMARKS = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_IDENTIFIERS = re.compile(r' id="[A-Za-z0-9]+_[\w]+"')
_BLANKS = re.compile(r">\s+<")


@dataclass(frozen=True, eq=False)
class Series:
    """The points of one line or cloud."""

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    """What the legend calls it; no legend without a name."""
    kind: Literal["line", "dots", "cloud", "points"] = "line"
    """`dots`: a line with dots; `cloud`: many faint dots; `points`: few strong ones."""
    colour: Literal[0, 1, 2] = 0


@dataclass(frozen=True)
class Plane:
    """What surrounds the points of a chart."""

    x_name: str
    y_name: str
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    diagonal: bool = False
    """Whether the line y = x is drawn."""
    upright: float | None = None
    """Where a vertical line is drawn."""
    whole: bool = False
    """Whether the values of x are whole numbers, such as steps."""


def draw(series: Sequence[Series], plane: Plane) -> Html:
    """Return a chart as an SVG element that is as wide as its place on the page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(_SETTINGS):
        whole = Figure(figsize=_SIZE)
        canvas = FigureCanvasSVG(whole)
        axes = whole.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, _HEIGHT))
        for one in series:
            colour = (_FIRST, _SECOND, _THIRD)[one.colour]
            if one.kind == "cloud":
                axes.plot(one.x, one.y, ".", color=colour, markersize=3, alpha=0.5, label=one.name or None)
            elif one.kind == "points":
                axes.plot(one.x, one.y, "o", color=colour, markersize=3.5, label=one.name or None)
            else:
                dots = "o" if one.kind == "dots" or len(one.x) == 1 else ""
                axes.plot(
                    one.x, one.y, marker=dots, markersize=3.5, linewidth=1.4, color=colour, label=one.name or None
                )
        if plane.diagonal:
            axes.axline((0, 0), slope=1, color=_INK, linewidth=0.8, linestyle="--", zorder=1)
        if plane.upright is not None:
            axes.axvline(plane.upright, color=_INK, linewidth=1, linestyle=":")
        if any(one.name for one in series):
            axes.legend(loc="best", fontsize=8)
        axes.set(xlabel=plane.x_name, ylabel=plane.y_name, xlim=plane.x_limits, ylim=plane.y_limits)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=plane.whole))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if not plane.y_limits:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=False)
        low, high = sorted(axes.yaxis.get_view_interval())
        places = [place for place in axes.yaxis.get_majorticklocs() if low <= place <= high]
        numbers = axes.yaxis.get_major_formatter().format_ticks(places)
        left = max(_LEFT, _BESIDE_DIGITS + _DIGIT * max(map(len, numbers), default=0))
        height = _HEIGHT - (_POWER if axes.yaxis.get_major_formatter().get_offset() else 0)
        axes.set_position((left, _BOTTOM, _RIGHT - left, height))
        file = io.StringIO()
        canvas.print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _themed(file.getvalue(), f"{plane.y_name} by {plane.x_name}")


def _themed(svg: str, label: str) -> Html:
    """Return the element alone, in the colours of the page."""
    kept = _REMARKS.sub("", svg[svg.index("<svg") :])
    kept = _BLANKS.sub("><", _IDENTIFIERS.sub("", kept)).strip()
    for drawn, themed in _COLOURS.items():
        kept = kept.replace(drawn, themed)
    box = re.search(r'viewBox="[^"]+"', kept)
    assert box is not None
    inner = kept[kept.index(">") + 1 :]
    return Html(f'<svg {box[0]} role="img" aria-label="{label}">{inner}')


def thinned(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` points: the means of consecutive ones, with the last x of each group."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).astype(np.int64)
    return x[edges[1:] - 1], np.add.reduceat(y, edges[:-1]) / np.diff(edges)


def picked(count: int, most: int = _MOST_POINTS) -> np.ndarray:
    """Return at most `most` indices below `count`, evenly spaced, with the first and the last one."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
