"""`jaxbert compare`: compares complete runs on their common held-out set."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from jaxbert.cli.output import check_output, write_numbers, write_text
from jaxbert.cli.parsing import Parser, make_parser, parse

if TYPE_CHECKING:
    from rich.table import Table

    from jaxbert.understand.compare import Comparison, Pair

_SHOWN = 3
"""Examples with differing answers that the terminal shows for each pair."""


def run(arguments: list[str]) -> int:
    """Compare runs; print tables, and write the page and the numbers."""
    values = parse(_make_parser(), arguments)
    if values.page is not None:
        check_output(values.page, "--page")
    if values.output is not None:
        check_output(values.output)
    from jaxbert.api.compare import compare
    from jaxbert.processes import is_main
    from jaxbert.terminal import console

    comparison = compare(values.runs, set_name=values["set"], timed=values.timed)
    if not is_main():
        return 0
    _show(comparison)
    written = write_numbers(comparison.to_dict(), values.output)
    if values.page is not None:
        from jaxbert.understand.compare_page import comparison_page

        write_text(values.page, comparison_page(comparison))
        written = f"page: {values.page}; {written}"
    console.print(written, highlight=False, soft_wrap=True, markup=False)
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("compare", "Compare complete runs on a held-out set that all of them have.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run folders; each is compared with the first one.")
    parser.add_argument(
        "--set",
        type=str | None,
        default=None,
        help="Name of the held-out set: test, validation, validation.NAME. If not set, test if all runs have it, or else "
        "the first set that all have.",
    )
    parser.add_argument(
        "--timed",
        type=bool,
        default=False,
        help="Whether to time the models: each predicts up to 512 examples of the set again, in turns.",
    )
    parser.add_argument(
        "--page", type=str | None, default="comparison.html", help="HTML file with everything; null to write none."
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="File for the results as JSON, or - for standard output."
    )
    return parser


def _show(comparison: Comparison) -> None:
    from jaxbert.terminal import console

    console.print(_metrics(comparison), highlight=False)
    for pair in comparison.pairs:
        console.print(_differences(pair), highlight=False)
        tested = pair.mcnemar_sentence()
        lines = [*([] if tested is None else [tested]), f"{pair.differing:,} of {comparison.examples:,} answers differ"]
        for found in pair.shown[:_SHOWN]:
            text = " ".join(found.text.split())[:100]
            lines.append(f"  row {found.row}: {text!r} is {found.expected}; {found.first} and {found.second}")
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _metrics(comparison: Comparison) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{comparison.set_name}, {comparison.examples:,} examples", title_justify="left")
    for name in ("metric", *comparison.metrics):
        table.add_column(Text(name), overflow="fold")
    runs = comparison.metrics.values()
    for name in dict.fromkeys(name for metrics in runs for name in metrics):
        table.add_row(name, *(f"{metrics[name]:.4f}" if name in metrics else "" for metrics in runs))
    sizes = comparison.sizes.values()
    table.add_row("parameters", *(f"{size.parameters:,}" for size in sizes))
    rates = [size.answers_per_second for size in sizes]
    if any(rate is not None for rate in rates):
        table.add_row("answers a second", *("" if rate is None else f"{rate:,.0f}" for rate in rates))
    return table


def _differences(pair: Pair) -> Table:
    from rich.table import Table
    from rich.text import Text

    from jaxbert.understand.paired import LEVEL

    table = Table(title=f"{pair.second} minus {pair.first}", title_justify="left")
    for name in ("metric", "difference", f"{LEVEL:.0%} interval", "better"):
        table.add_column(name)
    for found in pair.differences:
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        table.add_row(found.metric, f"{found.value:+.4f}", interval, Text(found.better or "not clear"))
    return table
