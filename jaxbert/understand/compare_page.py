"""A comparison of runs as one HTML file: it opens without a network and without scripts, in light and dark, and prints."""

from __future__ import annotations

import html
from typing import Any

from jaxbert.understand.compare import Comparison, Difference, Differing, Pair
from jaxbert.understand.paired import LEVEL, RESAMPLES

_LONGEST = 600
"""Characters of a text that are shown."""
_WIDE, _HIGH, _EDGE = 180, 18, 6
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d5d9de; --soft: #f3f5f7; --good: #17703a;
  --bad: #a3301f; --mark: #2f5f9e; --dim: #5d666f }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #15181b; --line: #3a4148; --soft: #1f2429;
  --good: #6cc58e; --bad: #ee8f80; --mark: #8ab4ee; --dim: #9aa4ad } }
@media print { :root { --ink: #000; --paper: #fff; --line: #bbb; --soft: #fff; --dim: #444 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 62rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
th { background: var(--soft) } td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 14rem }
.right { color: var(--good) } .wrong { color: var(--bad) } .dim { color: var(--dim) }
svg { vertical-align: middle } svg line { stroke: var(--dim) } svg .interval { stroke: var(--mark); stroke-width: 3 }
svg circle { fill: var(--mark) }
tr { break-inside: avoid }
"""


def comparison_page(comparison: Comparison) -> str:
    """Return the page; every name and text is escaped."""
    names = ", ".join(map(html.escape, comparison.metrics))
    parts = [
        f"<h1>Comparison of {names}</h1>",
        f"<p>{_lead(comparison)}</p>",
        _metrics_table(comparison),
        *(_pair_part(pair) for pair in comparison.pairs),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = f"<title>Comparison of {names}</title><style>{_STYLE}</style>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}{title}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"
    )


def _lead(comparison: Comparison) -> str:
    text = (
        f"Task {comparison.task}, set {comparison.set_name}, {comparison.examples:,} examples, the same for all runs."
    )
    if comparison.other_sets:
        text += f" Other sets that all runs have: {', '.join(comparison.other_sets)}."
    return html.escape(text)


def _metrics_table(comparison: Comparison) -> str:
    runs = comparison.metrics
    names = list(dict.fromkeys(name for metrics in runs.values() for name in metrics))
    head = "".join(f"<th>{html.escape(run)}</th>" for run in runs)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(_number(metrics.get(name)) for metrics in runs.values()) + "</tr>"
        for name in names
    )
    return _table(f"<th>metric</th>{head}", rows)


def _pair_part(pair: Pair) -> str:
    first, second = html.escape(pair.first), html.escape(pair.second)
    widest = max((abs(edge) for found in pair.differences for edge in (found.low, found.high)), default=0.0) or 1.0
    head = f"<th>metric</th><th>{second} &minus; {first}</th><th>{LEVEL:.0%} interval</th><th></th><th>better</th>"
    rows = "".join(_difference_row(found, widest) for found in pair.differences)
    how = f"Intervals: paired bootstrap, {RESAMPLES:,} resamples, fixed seed. An interval with 0 in it shows no difference."
    parts = [f"<h2>{second} beside {first}</h2>", _table(head, rows), f'<p class="dim">{how}</p>']
    if pair.mcnemar is not None:
        parts.append(f"<p>{html.escape(mcnemar_sentence(pair))}</p>")
    parts.append(f"<h3>Different answers: {pair.differing:,}</h3>")
    if pair.shown:
        if pair.differing > len(pair.shown):
            parts.append(f'<p class="dim">The {len(pair.shown)} whose answers differ most in quality.</p>')
        head = f"<th>row</th><th>text</th><th>right</th><th>{first}</th><th>{second}</th>"
        parts.append(_table(head, "".join(map(_differing_row, pair.shown))))
    return "\n".join(parts)


def mcnemar_sentence(pair: Pair) -> str:
    """Return the result of McNemar's test as text."""
    assert pair.mcnemar is not None
    only = f"{pair.mcnemar['only_first_right']:,} examples only for {pair.first}, {pair.mcnemar['only_second_right']:,} only"
    return f"Right: {only} for {pair.second}. McNemar's exact test: p = {pair.mcnemar['p_value']:.3g}."


def _difference_row(found: Difference, widest: float) -> str:
    def place(value: float) -> float:
        return _EDGE + (value / widest + 1) / 2 * (_WIDE - 2 * _EDGE)

    middle = _HIGH / 2
    picture = (
        f'<svg width="{_WIDE}" height="{_HIGH}" role="img" aria-label="interval">'
        f'<line x1="{place(0):.1f}" y1="0" x2="{place(0):.1f}" y2="{_HIGH}"/>'
        f'<line class="interval" x1="{place(found.low):.1f}" y1="{middle}" x2="{place(found.high):.1f}" y2="{middle}"/>'
        f'<circle cx="{place(found.value):.1f}" cy="{middle}" r="4"/></svg>'
    )
    interval = f"{found.low:+.4f} to {found.high:+.4f}"
    better = '<span class="dim">not clear</span>' if found.better is None else html.escape(found.better)
    return (
        f"<tr><td>{html.escape(found.metric)}</td>{_number(found.value, '+.4f')}"
        f'<td class="number">{interval}</td><td>{picture}</td><td>{better}</td></tr>'
    )


def _differing_row(found: Differing) -> str:
    text = found.text if len(found.text) <= _LONGEST else found.text[:_LONGEST] + "…"
    cells = [f'<td class="text">{html.escape(text)}</td>', f"<td>{_answer(found.expected)}</td>"]
    for given, right in ((found.first, found.first_right), (found.second, found.second_right)):
        kind = {None: "", True: "right", False: "wrong"}[right]
        cells.append(f'<td class="{kind}">{_answer(given)}</td>')
    return f'<tr><td class="number">{html.escape(found.row)}</td>{"".join(cells)}</tr>'


def _answer(value: Any) -> str:
    """Return an answer as text: a label, several labels or tags, a number, the number of a choice."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        return html.escape(", ".join(map(str, value))) or '<span class="dim">none</span>'
    return html.escape(str(value)) or '<span class="dim">none</span>'


def _number(value: float | None, form: str = ".4f") -> str:
    return f'<td class="number">{"" if value is None else format(value, form)}</td>'


def _table(head: str, rows: str) -> str:
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
