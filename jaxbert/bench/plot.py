"""A bar chart of a sweep; only this module imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxbert.bench.sweep import Row, best_row

_LABELS = {"examples_per_second": "training examples/s", "predict_examples_per_second": "predicted examples/s"}
_BAR, _BEST, _FAILED = "#8fa8c4", "#d9822b", "#999999"


def plot_sweep(rows: Sequence[Row], metric: str, path: Path) -> None:
    """Draw one bar per combination, the best one in another colour, to an image file (its extension is the format).

    Args:
      rows: the rows of the sweep, at least one with a result.
      metric: the metric that the bars show.
      path: the image file.

    Raises:
      OSError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    best = best_row(rows, metric)
    values = [row["result"][metric] or 0.0 if "result" in row else 0.0 for row in rows]
    bars = axes.barh(
        range(len(rows)), values, color=[_BEST if i == best else _BAR for i in range(len(rows))], height=0.7
    )
    texts = [f"{v:,.0f}{'  best' if i == best else ''}" if v else "" for i, v in enumerate(values)]
    axes.bar_label(bars, texts, padding=4)
    for i, row in enumerate(rows):
        if "error" in row:
            axes.text(0, i, f" failed: {_shortened(row['error'], 70)}", va="center", color=_FAILED, style="italic")
    axes.set_yticks(range(len(rows)), [_name(row["settings"]) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(_LABELS[metric])
    if best is not None:
        figure.suptitle(_title(rows[best]["result"]), fontsize=11)
    figure.savefig(path, dpi=120)


def _name(settings: dict[str, str]) -> str:
    """Return the settings as text without the sections of the keys, which the rest makes plain."""
    return ", ".join(f"{key.split('.')[-1]} {_shortened(value, 40)}" for key, value in settings.items())


def _title(result: dict[str, Any]) -> str:
    versions = result["versions"]
    return (
        f"jaxbert bench: {Path(result['model']).name}, {result['lengths']}, {result['devices']} x {result['device']}\n"
        f"jaxbert {versions['jaxbert']}, jax {versions['jax']}, Python {versions['python']}"
    )


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
