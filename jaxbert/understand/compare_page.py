"""A comparison of runs as one HTML file, made of the same parts as the report of a run."""

from __future__ import annotations

from typing import Any

from jaxbert.understand.compare import Comparison, Difference, Differing, Pair
from jaxbert.understand.paired import LEVEL, RESAMPLES
from jaxbert.understand.report.page import (
    Html,
    element,
    joined_html,
    page,
    paragraphs,
    subsection,
    table,
    text_cell,
    timed,
)

_WIDE, _HIGH, _EDGE = 180, 18, 6
_SIZES = {
    "parameters": "parameters",
    "layers": "layers",
    "columns": "feed-forward columns",
    "tokens": "tokens of the vocabulary",
    "answers_per_second": "answers a second",
}
"""The parts of a size, and how pages call them."""


def comparison_page(comparison: Comparison) -> str:
    """Return the page; every name and text is escaped."""
    sections = [("Metrics", metrics_part(comparison))]
    sections += [(f"{pair.second} beside {pair.first}", pair_part(pair)) for pair in comparison.pairs]
    return page(f"Comparison of {', '.join(comparison.metrics)}", sections)


def metrics_part(comparison: Comparison) -> Html:
    """Return the metrics and the sizes of all runs, side by side."""
    examples = f"{comparison.examples:,} examples, the same for all runs."
    lead = f"Task {comparison.task}, set {comparison.set_name}, {examples}"
    if comparison.other_sets:
        lead += f" Other sets that all runs have: {', '.join(comparison.other_sets)}."
    runs = comparison.metrics
    names = dict.fromkeys(name for metrics in runs.values() for name in metrics)
    rows: list[list[object]] = [[name, *(metrics.get(name) for metrics in runs.values())] for name in names]
    return joined_html([paragraphs(lead), table(["metric", *runs], rows + size_rows(comparison))])


def size_rows(comparison: Comparison) -> list[list[object]]:
    """Return the rows of a table with the sizes of all models; those that are equal for all are left out."""
    sizes, rows = comparison.sizes.values(), list[list[object]]()
    for name, said in _SIZES.items():
        values = [getattr(size, name) for size in sizes]
        if name == "parameters" or len(set(values)) > 1:
            texts: list[object] = ["" if value is None else f"{value:,.0f}" for value in values]
            cells = map(timed, texts) if name == "answers_per_second" else texts
            rows.append([said, *(element("td", cell, kind="number") for cell in cells)])
    return rows


def pair_part(pair: Pair) -> Html:
    """Return the differences of a pair, and the texts that both answer differently."""
    widest = max((abs(edge) for found in pair.differences for edge in (found.low, found.high)), default=0.0) or 1.0
    head = ["metric", f"{pair.second} minus {pair.first}", f"{LEVEL:.0%} interval", "", "better"]
    how = f"Intervals: paired bootstrap, {RESAMPLES:,} resamples, fixed seed. An interval around 0 shows no difference."
    most = f"The {len(pair.shown)} whose answers differ most in quality." if pair.differing > len(pair.shown) else None
    shown = ["row", "text", "right", pair.first, pair.second]
    return joined_html(
        [
            table(head, [_difference_row(found, widest) for found in pair.differences], caption=how),
            paragraphs(pair.mcnemar_sentence()),
            subsection(
                f"Different answers: {pair.differing:,}",
                table(shown, map(_differing_row, pair.shown), caption=most) if pair.shown else element("p", "None."),
            ),
        ]
    )


def _difference_row(found: Difference, widest: float) -> list[object]:
    interval = f"{found.low:+.4f} to {found.high:+.4f}"
    cells = [element("td", text, kind="number") for text in (f"{found.value:+.4f}", interval)]
    return [found.metric, *cells, _picture(found, widest), found.better or "not clear"]


def _picture(found: Difference, widest: float) -> Html:
    """Return a drawing of an interval, with a line at 0."""

    def place(value: float) -> str:
        return f"{_EDGE + (value / widest + 1) / 2 * (_WIDE - 2 * _EDGE):.1f}"

    low, high, zero, middle = place(found.low), place(found.high), place(0), _HIGH / 2
    return element(
        "svg",
        element("line", x1=zero, y1=0, x2=zero, y2=_HIGH),
        element("line", x1=low, y1=middle, x2=high, y2=middle, kind="found"),
        element("circle", cx=place(found.value), cy=middle, r=4),
        kind="interval",
        viewBox=f"0 0 {_WIDE} {_HIGH}",
        role="img",
        aria_label="interval",
    )


def _differing_row(found: Differing) -> list[object]:
    answers = [
        element("td", _answer(given), kind={None: None, True: "right", False: "wrong"}[right], dir="auto")
        for given, right in ((found.first, found.first_right), (found.second, found.second_right))
    ]
    return [found.row, text_cell(found.text), element("td", _answer(found.expected), dir="auto"), *answers]


def _answer(value: Any) -> str:
    """Return an answer as text: a label, several labels or tags, a number, the number of a choice."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return (", ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"
