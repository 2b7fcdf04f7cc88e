"""The page about a search, `search.html`: trials, the best so far, what each key matters, and all trials side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbert.studies.results import ERROR, PRUNED_AT, SECONDS, Found, TrialRecord, shown_value
from jaxbert.studies.space import Dimension
from jaxbert.understand.report.charts import Plane, Series, draw
from jaxbert.understand.report.page import Html, bar, element, figure, joined_html, page, paragraphs, table, timed

if TYPE_CHECKING:
    import optuna

_WIDE, _HIGH, _EDGE, _TOP, _BOTTOM = 900, 330, 70, 34, 28
_FEWEST = 4
"""Complete trials from which importance is told."""


def search_page(study: optuna.Study, space: Sequence[Dimension], found: Found) -> str:
    """Return the page; every name and value is escaped."""
    sections = [
        ("Result", _result(space, found)),
        ("Course", _course(found)),
        *([("Compromises", _front(found))] if len(found.objectives) > 1 else []),
        ("Importance of the keys", _importance(study, space, found)),
        ("Trials side by side", _parallel(space, found)),
        ("All trials", _trials(space, found)),
    ]
    return page(f"Search for the best {found.objectives[0].name}", sections)


def _result(space: Sequence[Dimension], found: Found) -> Html:
    best = found.best
    assert best is not None
    assert best.values is not None
    name = found.objectives[0].name
    counts = {
        state: sum(record.state == state for record in found.records) for state in ("complete", "pruned", "failed")
    }
    said = f"{counts['complete']} complete, {counts['pruned']} stopped early, {counts['failed']} failed"
    rows = [
        [dimension.key, str(dimension).partition("=")[2], shown_value(best.params[dimension.key])]
        for dimension in space
    ]
    lead = element("p", f"Trial {best.number} is the best: {name} {best.values[0]:.4f}.", kind="lead")
    how = "The folder best holds its run and its model; its config.yaml trains it again."
    return joined_html(
        [lead, paragraphs(f"{len(found.records)} trials: {said}. {how}"), table(["key", "space", "best"], rows)]
    )


def _course(found: Found) -> Html:
    """Draw each trial, and the best so far."""
    objective = found.objectives[0]
    whole = sorted(found.complete, key=lambda record: record.number)
    numbers = np.array([record.number for record in whole])
    values = np.array([record.values[0] for record in whole if record.values is not None])
    best = np.minimum.accumulate(values) if objective.falls else np.maximum.accumulate(values)
    series = [Series(numbers, values, "trial", "points", 1), Series(numbers, best, "best so far")]
    stopped = [record for record in found.records if record.state == "pruned" and record.points]
    if stopped:
        at = np.array([record.number for record in stopped])
        last = np.array([record.points[max(record.points)] for record in stopped])
        series.append(Series(at, last, "stopped early", "points", 2))
    drawing = draw(series, Plane("trial", objective.name, whole=True))
    curves = [
        Series(np.array([*steps]), np.array([*steps.values()]), colour=1 if record is not found.best else 0)
        for record in found.records
        if len(steps := dict(sorted(record.points.items()))) > 1
    ]
    parts = [figure(drawing, "The value of each trial; a stopped one at its last evaluation.")]
    if curves:
        drawing = draw(curves, Plane("step", objective.name, whole=True))
        parts.append(figure(drawing, "The evaluations of each trial; the best one in the colour of the best so far."))
    return element("div", *parts, kind="charts")


def _front(found: Found) -> Html:
    """Draw two objectives against each other, and list the trials that no other one beats in all."""
    names = [one.name for one in found.objectives]
    values = np.array([record.values for record in found.complete])
    front = sorted((record for record in found.front), key=lambda record: record.values or ())
    edge = np.array([record.values for record in front])
    series = [Series(values[:, 1], values[:, 0], "trial", "points", 1), Series(edge[:, 1], edge[:, 0], "front", "dots")]
    rows = [[record.number, *(record.values or ())] for record in front]
    chart = figure(
        draw(series, Plane(names[1], names[0])),
        "No other trial is better in one objective and at least as good in the others.",
    )
    return joined_html([element("div", chart, kind="charts"), table(["trial", *names], rows, sortable=True)])


def importances(study: optuna.Study, objective: int = 0) -> dict[str, float]:
    """Return the share of the variance of an objective that each key explains, the largest first; empty if unknown."""
    import optuna

    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(complete) < _FEWEST or len({trial.values[objective] for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: trial.values[objective]
            )
        except (ValueError, RuntimeError):
            return {}
    return {key: float(share) for key, share in found.items() if math.isfinite(share)}


def _importance(study: optuna.Study, space: Sequence[Dimension], found: Found) -> Html:
    shares = importances(study)
    if not shares:
        return paragraphs(f"At least {_FEWEST} complete trials with different values are needed.")
    said = (
        f"How much of the differences in {found.objectives[0].name} each key explains (functional analysis of variance over "
        "the complete trials). With few trials this is rough."
    )
    rows = [[key, element("td", f"{share:.0%}", kind="number"), bar(share)] for key, share in shares.items()]
    fixed = [dimension.key for dimension in space if dimension.key not in shares]
    alone = f"Not varied: {', '.join(fixed)}." if fixed else None
    return joined_html([paragraphs(said), table(["key", "share", ""], rows), paragraphs(alone)])


def _parallel(space: Sequence[Dimension], found: Found) -> Html:
    """Draw a line for each complete trial across an axis for each key, the better the stronger."""
    objective = found.objectives[0]
    whole = [*reversed(found.complete)]
    values = [record.values[0] for record in whole if record.values is not None]
    low, high = min(values), max(values)
    axes = [*(dimension.key.partition(".")[2] for dimension in space), objective.name]
    across = [_EDGE + place * (_WIDE - 2 * _EDGE) / max(len(axes) - 1, 1) for place in range(len(axes))]
    bottom = _HIGH - _BOTTOM

    def height(share: float) -> float:
        return bottom - share * (bottom - _TOP)

    def line(record: TrialRecord, value: float, rank: int) -> Html:
        shares = [dimension.place(record.params[dimension.key]) for dimension in space]
        shares.append((value - low) / (high - low) if high > low else 0.5)
        points = " ".join(f"{x:.1f},{height(share):.1f}" for x, share in zip(across, shares, strict=True))
        strong = (rank + 1) / len(whole)
        colour = "var(--first)" if record is found.best else "var(--second)"
        style = f"fill:none;stroke:{colour};stroke-width:{1 + 2 * (record is found.best)};opacity:{0.15 + 0.85 * strong:.2f}"
        return element("polyline", element("title", _named(record, value, objective.name)), points=points, style=style)

    ends = [*map(_ends, space), (f"{low:.4f}", f"{high:.4f}")]
    parts = []
    for x, name, (least, most) in zip(across, axes, ends, strict=True):
        parts.append(element("line", x1=x, x2=x, y1=_TOP, y2=bottom, style="stroke:var(--line)"))
        for y, text, weight in ((12, name, 600), (_TOP - 6, most, 400), (bottom + 14, least, 400)):
            style = f"fill:var(--ink);font-size:11px;font-weight:{weight}"
            parts.append(element("text", text, x=f"{x:.1f}", y=y, text_anchor="middle", style=style))
    lines = [line(record, value, rank) for rank, (record, value) in enumerate(zip(whole, values, strict=True))]
    box = f"0 0 {_WIDE} {_HIGH}"
    drawing = element(
        "svg", *parts, *lines, viewBox=box, role="img", aria_label="trials side by side", style="min-width:40rem"
    )
    caption = "A line for each complete trial. A better trial has a stronger line; the best one is thick."
    return figure(element("div", drawing, kind="scroll"), caption)


def _ends(dimension: Dimension) -> tuple[str, str]:
    ends = dimension.ends
    return shown_value(ends[0]), shown_value(ends[-1])


def _named(record: TrialRecord, value: float, name: str) -> str:
    params = ", ".join(f"{key} {shown_value(found)}" for key, found in record.params.items())
    return f"trial {record.number}: {name} {value:.4f}, {params}"


def _trials(space: Sequence[Dimension], found: Found) -> Html:
    head = [
        "trial",
        "state",
        *(one.name for one in found.objectives),
        *(dimension.key for dimension in space),
        "seconds",
        "",
    ]

    def cell(value: Any) -> Html:
        return element("td", shown_value(value), kind="number" if isinstance(value, int | float) else None)

    rows = []
    for record in found.records:
        values = record.values or (None,) * len(found.objectives)
        told = record.told
        note = f"after step {told[PRUNED_AT]}" if PRUNED_AT in told else told.get(ERROR, "")
        measured = [element("td", "" if value is None else f"{value:,.4f}", kind="number") for value in values]
        given = [cell(record.params.get(dimension.key)) for dimension in space]
        rows.append(
            [
                record.number,
                record.state,
                *measured,
                *given,
                element("td", timed(told.get(SECONDS, "")), kind="number"),
                note,
            ]
        )
    return table(head, rows, sortable=True)
