"""A bar chart of comparisons: one panel each, one bar per mode, whiskers from the slowest to the fastest run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from modes import label_of
from table import summarize

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLORS = {"jaxbert": "#1b6ca8", "varlen": "#c97b2d", "peer": "#8f8f8f", "legacy": "#c4b7a6"}
_NAMES = {"examples_per_second": "examples a second", "real_tokens_per_second": "real tokens a second"}


def draw(panels: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw results, each with `runs`, `rate` and perhaps `target`, one panel under another."""
    tables = {name: summarize(content["runs"], content["rate"]) for name, content in panels.items()}
    heights = [len(table) for table in tables.values()]
    figure, grid = plt.subplots(
        len(tables), 1, figsize=(9, 0.9 * len(tables) + 0.32 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for axes, (name, table) in zip(grid[:, 0], tables.items(), strict=True):
        target = panels[name].get("target") or 0.0
        _draw_panel(axes, table, target)
        axes.set_title(panels[name].get("title", name), loc="left", fontsize=10)
        axes.set_xlabel(f"{_NAMES[panels[name]['rate']]} (median)", fontsize=8)
        if target:
            axes.axvline(target, color="#a83232", linestyle="--", linewidth=1)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_panel(axes: Any, table: dict[str, dict[str, Any]], target: float) -> None:
    longest = max([target, *(row["most"] for row in table.values() if "most" in row)]) or 1.0
    for place, (mode, row) in enumerate(table.items()):
        if "unmeasured" in row:
            axes.text(0.005 * longest, place, "UNMEASURED", va="center", fontsize=8, color="#777777")
            continue
        median = row["median"]
        whiskers = [[median - row["least"]], [row["most"] - median]]
        color = _COLORS[mode.split("-")[0]]
        axes.barh(place, median, xerr=whiskers, height=0.7, color=color, error_kw={"lw": 1, "capsize": 2})
        text = f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
        axes.text(row["most"] + 0.008 * longest, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(table)), [label_of(mode) for mode in table], fontsize=8)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.12)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
