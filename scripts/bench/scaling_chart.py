"""A chart of predicted scaling: a panel per model and kind of scaling, and a band between the bounds for each chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from scaling_tables import rows_of, tokens_per_second

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLORS = {"v5e": "#c97b2d", "v6e": "#1b6ca8", "v5p": "#5b8c5a"}


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw tokens per second over chips, both axes logarithmic, with a line of slope 1 from each first slice."""
    models = list(dict.fromkeys(point["model"] for point in content["points"].values() if "error" not in point))
    figure, grid = plt.subplots(
        len(models), 2, figsize=(10, 3.6 * len(models)), squeeze=False, sharex=True, sharey="row"
    )
    for line, model in zip(grid, models, strict=True):
        for axes, kind in zip(line, ("weak", "strong"), strict=True):
            _draw_panel(axes, [point for point in rows_of(content, kind) if point["model"] == model])
            fixed = "rows a chip" if kind == "weak" else "rows a step"
            axes.set_title(f"BERT-{model}, {kind} scaling (the same {fixed})", loc="left", fontsize=10)
        line[0].set_ylabel("million tokens a second", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("chips", fontsize=9)
    figure.suptitle(
        "PREDICTED: from compiled steps and published speeds; nothing ran on a TPU\n"
        "bands: from the upper bound of a step's time to the lower; dotted: linear",
        fontsize=10,
    )
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_panel(axes: Any, points: list[dict[str, Any]]) -> None:
    for chip, color in _COLORS.items():
        series = sorted((point for point in points if point["chip"] == chip), key=lambda point: point["chips"])
        if not series:
            continue
        chips = [point["chips"] for point in series]
        low, high = zip(*(tokens_per_second(point) for point in series), strict=True)
        low, high = ([value / 1e6 for value in values] for values in (low, high))
        axes.fill_between(chips, low, high, color=color, alpha=0.25, linewidth=0)
        axes.plot(chips, high, color=color, marker="o", markersize=4, label=chip)
        axes.plot(chips, low, color=color, marker="o", markersize=4)
        axes.plot(chips, [high[0] * count / chips[0] for count in chips], color=color, linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
