"""The learning curve: what a model reaches with growing shares of the training rows, and whether more would help.

For each share and each fold a model is trained on that share of the fold's training rows and measured on the rows that were
held out. `folds` does the training; every share is a part of the next one. The sentence at the end compares the last two
shares fold by fold: with Student's t distribution, is the mean of the differences above 0? Its forecast for twice the rows
is a straight line over the logarithm of the number of rows, fitted to the last three shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.bucket import staged, write_whole
from jaxbert.config import Config
from jaxbert.data.split import make_order
from jaxbert.errors import UserError
from jaxbert.plain import to_json
from jaxbert.processes import is_main
from jaxbert.tasks.metrics import falls, value_of
from jaxbert.train.run import NOTHING, Additions, Run
from jaxbert.understand.folds import Division, Part, Trainings, start_divided

FILES = ("curve.json", "curve.png")
"""The numbers and the chart, in the run folder."""
_CERTAIN = 0.95
_FITTED = 3
_LINE, _BAND, _FORECAST = "#3b6ea5", "#3b6ea5", "#d9822b"


def read_shares(text: str) -> list[Fraction]:
    """Return the shares in a text such as `1/4,1/2,1`, in rising order.

    Raises:
      UserError: if one is no share above 0 and at most 1, or there are fewer than two.
    """
    if not isinstance(text, str):
        raise UserError(f"fractions is {text!r}, but it must be text with shares, such as '1/4,1/2,1'")
    shares = []
    for part in text.split(","):
        try:
            share = Fraction(part.strip())
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        if not 0 < share <= 1:
            raise UserError(
                f"--fractions: {part.strip()!r} must be a share of the rows above 0 and at most 1, such as 1/4"
            )
        shares.append(share)
    if len(set(shares)) < 2:
        raise UserError(f"--fractions {text}: a curve needs at least two different shares, such as 1/4,1/2,1")
    return sorted(set(shares))


def run_curve(config: Config, shares: Sequence[Fraction], additions: Additions = NOTHING) -> dict[str, Any]:
    """Train at growing shares of the training rows; write `curve.json` and `curve.png`, and return the content of the first.

    The same call resumes a stopped one, and adds shares to a complete one.

    Raises:
      UserError: for a mistake in configuration, data or model, before the first step.
      StoppedError: if a signal ended the run after saving.
    """

    def check(run: Run, division: Division) -> None:
        smallest = math.floor(shares[0] * min(len(division.learned(k)) for k in range(division.count)))
        if smallest < config.train.batch_size:
            raise UserError(
                f"--fractions: {shares[0]} of the training rows is {smallest}, less than train.batch_size "
                f"({config.train.batch_size}): leave the smallest shares out, or lower it"
            )

    if config.train.folds is None:
        raise UserError("train.folds is null, but a curve is measured in folds: leave it out, or give a number")
    with start_divided(config, additions, check) as (started, division):
        run = started.run
        order = make_order(division.strata, config.train.seed, division.groups)
        parts = {share: _parts(run, division, np.argsort(order), share) for share in shares}
        trainings = Trainings(started, [part for of_share in parts.values() for part in of_share])
        points = []
        for share, of_share in parts.items():
            measured = [trainings.measure(part) for part in of_share]
            points.append(
                {
                    "fraction": str(share),
                    "rows": float(np.mean([len(part.learned) for part in of_share])),
                    "each": [found.metrics for found in measured],
                    "seconds": round(sum(found.summary["seconds"] for found in measured), 2),
                }
            )
        result = {"metric": run.best_metric, "folds": division.count, "points": points}
        result |= {"verdict": verdict(points, run.best_metric), "compilations": started.log.count}
        if is_main():
            with run.folder.writing(), staged(run.folder.path) as local:
                draw_curve(result, local / FILES[1])
            write_whole(run.folder.path / FILES[0], to_json(result) + "\n")
        return result


def _parts(run: Run, division: Division, place: np.ndarray, share: Fraction) -> list[Part]:
    """Return one training for each fold with this share of its rows; the smaller shares are parts of the larger ones.

    `place` is the place of each example in an order, whose first examples are taken, [N].
    """
    name = f"{share.numerator}-{share.denominator}"
    shown = "all rows" if share == 1 else f"{share} of the rows"
    found = []
    for fold in range(division.count):
        learned = division.learned(fold)
        taken = np.sort(learned[np.argsort(place[learned])][: math.floor(share * len(learned))])
        folder = run.folder.fold(fold) if share == 1 else run.folder.share(name, fold)
        found.append(Part(f"{shown}, fold {fold + 1} of {division.count}", folder, taken, division.held_out(fold)))
    return found


def verdict(points: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Return what the curve says: the last gain, its 95% interval, a forecast for twice the rows, and a `sentence`.

    Args:
      points: at least two shares with `rows` and `each`, the metrics of the folds.
      metric: the metric that is compared.
    """
    from scipy import stats

    sign = -1 if falls(metric) else 1
    values = np.array([[value_of(of_fold, metric) for of_fold in point["each"]] for point in points])
    rows = np.array([point["rows"] for point in points])
    steps = values[-1] - values[-2]
    count = len(steps)
    width = float(stats.t.ppf((1 + _CERTAIN) / 2, count - 1) * steps.std(ddof=1) / math.sqrt(count))
    gain = float(steps.mean())
    slope, start = np.polyfit(np.log2(rows[-_FITTED:]), values[-_FITTED:].mean(1), 1)
    forecast = float(start + slope * np.log2(2 * rows[-1]))
    better, worse = gain * sign - width > 0, gain * sign + width < 0
    moved = f"from {rows[-2]:,.0f} to {rows[-1]:,.0f} rows {metric} changed by {gain:+.4f} ± {width:.4f}"
    rule = f"(mean over {count} folds and its 95% interval)"
    if not np.isfinite(values).all():
        said = f"the curve says nothing: {metric} is not a number in some of the trainings"
    elif better:
        ahead = f"at twice the rows the line through the last shares has {forecast:.4f}"
        said = f"more labels would help: {moved} {rule}; {ahead}"
    elif worse:
        said = f"more rows made it worse: {moved} {rule}; look at the labels of the added rows"
    else:
        said = f"no sign that more labels would help: {moved} {rule}, which may be chance"
    return {"gain": gain, "interval": width, "forecast": forecast, "helps": bool(better), "sentence": said}


def draw_curve(result: dict[str, Any], path: Path) -> None:
    """Draw the mean and the spread over the folds against the number of rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric, points = result["metric"], result["points"]
    rows = np.array([point["rows"] for point in points])
    values = np.array([[value_of(of_fold, metric) for of_fold in point["each"]] for point in points])
    mean, std = values.mean(1), values.std(1, ddof=1)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.fill_between(rows, mean - std, mean + std, color=_BAND, alpha=0.18, linewidth=0, label="± standard deviation")
    axes.plot(rows, mean, color=_LINE, marker="o", label=f"mean over {result['folds']} folds")
    axes.plot(
        [rows[-1], 2 * rows[-1]],
        [mean[-1], result["verdict"]["forecast"]],
        color=_FORECAST,
        linestyle="--",
        marker="o",
        markerfacecolor="white",
        label="forecast for twice the rows",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([*rows, 2 * rows[-1]], [f"{n:,.0f}" for n in (*rows, 2 * rows[-1])])
    axes.minorticks_off()
    axes.set_xlabel("training rows")
    axes.set_ylabel(metric)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
