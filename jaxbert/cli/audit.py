"""`jaxbert audit`: finds the rows of a run whose labels are probably wrong."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from jaxbert.cli.output import TABLES, check_output, write_text
from jaxbert.cli.parsing import make_parser, parse

if TYPE_CHECKING:
    from jaxbert.understand.audit import Audit

_SHOWN = 10


def run(arguments: list[str]) -> int:
    """Audit the labels of a run; print the worst rows, and write all suspicious ones if `--output` names a file."""
    parser = make_parser("audit", "Find the rows of a run whose labels are probably wrong.")
    parser.add_argument("run", type=str, help="The run folder (train.output_dir), best of a run with train.folds.")
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="File for all suspicious rows, the worst first, or - for standard output: JSON lines. A name that ends in .csv "
        "or .tsv gets a table in which a person sets the actions keep, relabel or drop, for data.corrections.",
    )
    parser.add_argument(
        "--rank_by",
        type=Literal["self_confidence", "normalized_margin"],
        default="self_confidence",
        help="The score of a label, where each text has one: its probability (self_confidence), or that minus the largest "
        "probability of another label (normalized_margin).",
    )
    values = parse(parser, arguments)
    if values.output is not None:
        check_output(values.output, tables=True)
    from jaxbert.api.audit import audit
    from jaxbert.processes import is_main

    found = audit(values.run, rank_by=values.rank_by)
    if is_main():
        _show(found, values.output)
        if values.output is not None:
            separator = TABLES.get(PurePath(values.output).suffix.lower())
            write_text(values.output, found.to_json_lines() if separator is None else found.to_table(separator))
    return 0


def _show(found: Audit, output: str | None) -> None:
    from rich.text import Text

    from jaxbert.terminal import console

    summary = found.summary
    if found.suspects:
        shown = min(_SHOWN, len(found.suspects))
        console.print(f"the worst {shown} of {len(found.suspects):,} suspicious rows:", highlight=False)
    for suspect in found.suspects[:_SHOWN]:
        console.print(_told(suspect), highlight=False, markup=False, soft_wrap=True)
        console.print(Text(f"    {' '.join(suspect.get('text', '').split())}"), no_wrap=True, overflow="ellipsis")
    console.print(
        f"{summary['rows']:,} labels checked: {summary['label']:,} are probably wrong, {summary['near_duplicate']:,} rows "
        f"are similar to a row with another label, {summary['outlier']:,} are outliers",
        highlight=False,
        soft_wrap=True,
    )
    console.print(summary["note"], highlight=False, soft_wrap=True)
    if output is None and found.suspects:
        console.print("--output FILE.csv writes all of them, for data.corrections", highlight=False, soft_wrap=True)


def _told(suspect: dict[str, Any]) -> str:
    """Return what is said of a row, above its text."""

    def label(value: Any) -> str:
        return ", ".join(value) or "none" if isinstance(value, list) else str(value)

    given = f"labelled {label(suspect['given'])}"
    suggested = "" if suspect["suggested"] is None else f", suggested {label(suspect['suggested'])}"
    score = "" if suspect["score"] is None else f", score {suspect['score']:.4f}"
    reasons = ", ".join(suspect["reasons"]).replace("_", " ")
    like = f" as {', '.join(map(str, suspect['like'][:2]))}" if suspect["like"] else ""
    return f"  row {suspect['row']} of {suspect['set']}: {given}{suggested}{score} ({reasons}{like})"
