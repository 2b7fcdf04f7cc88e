"""`jaxbert bench --sweep`: checks every combination, times them one after another, and shows the results.

This process never starts JAX: the combinations need the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from jaxbert.bench.options import BenchOptions
from jaxbert.bench.sweep import Axes, Row, combinations, describe, parse_axes, run_row, sweep_result
from jaxbert.cli import insist
from jaxbert.cli.output import check_output, write_numbers
from jaxbert.cli.parsing import Parser, parse
from jaxbert.errors import UserError
from jaxbert.settings import KEYS, nearest_key, to_config

_INTERRUPTED = 130
_IMAGES = (".png", ".svg", ".pdf")


def run_sweep(parser: Parser, arguments: list[str], values: Namespace, options: BenchOptions, flags: list[str]) -> int:
    """Time every combination; a failure becomes a row with its error, and an interruption keeps the finished rows.

    Args:
      parser: the parser of the command line.
      arguments: the arguments of the command line.
      values: the parsed arguments.
      options: the options that are not part of the configuration.
      flags: flags of each combination's command line besides the configuration and the lengths.
    """
    from jaxbert.terminal import console

    axes = parse_axes(values.sweep)
    _check_axes(parser, arguments, axes)
    if options.profile is not None:
        raise UserError("--profile traces a single run: leave out --sweep or --profile")
    plot = _plot_path(values)
    metric = "predict_examples_per_second" if options.mode == "predict" else "examples_per_second"
    rows: list[Row] = []
    code = 0
    try:
        _time_all(parser, arguments, axes, flags, rows)
    except KeyboardInterrupt:
        if not rows:
            raise
        insist.heard()
        code = _INTERRUPTED
        console.print("interrupted: the rows that were timed are kept", highlight=False)
    _report(sweep_result(axes, rows, metric), values.output, plot)
    return code


def _check_axes(parser: Parser, arguments: list[str], axes: Axes) -> None:
    """Check each key, and each value separately, as the command line would."""
    known = [*KEYS, "lengths"]
    for key, texts in axes.items():
        if key not in known:
            raise UserError(f"--sweep {key}: there is no such key{nearest_key(key, known)}")
        for text in texts:
            parse(parser, [*arguments, f"--{key}={text}"])


def _plot_path(values: Namespace) -> Path | None:
    """Return the path of the image: as given, or beside the JSON; None if that is in a bucket."""
    plot = values.plot
    if plot is None:
        if values.output in (None, "-") or "://" in values.output:
            return None
        plot = str(Path(values.output).with_suffix(".png"))
    if Path(plot).suffix not in _IMAGES:
        raise UserError(f"--plot {plot} must end in {', '.join(_IMAGES)}")
    if "://" in plot:
        raise UserError(f"--plot {plot} must be a file on this machine")
    if plot == values.output:
        raise UserError(f"--output {plot} is for the JSON, but the image of the sweep has that name: choose another")
    check_output(plot, "--plot")
    return Path(plot).expanduser()


def _time_all(parser: Parser, arguments: list[str], axes: Axes, flags: list[str], rows: list[Row]) -> None:
    """Append a row for each combination; an interruption keeps the rows so far."""
    from rich.text import Text

    from jaxbert.terminal import console

    everything = combinations(axes)
    for number, settings in enumerate(everything, 1):
        values = parse(parser, [*arguments, *(f"--{key}={text}" for key, text in settings.items())])
        lengths = [] if values.lengths is None else [f"--lengths={values.lengths}"]
        place = f"{number}/{len(everything)}  {describe(settings)}"
        with console.status(Text(place)):
            rows.append(_time_one(settings, values, [*flags, *lengths]))
        console.print(f"{place}: {_outcome(rows[-1])}", highlight=False, soft_wrap=True)


def _time_one(settings: dict[str, str], values: Namespace, flags: Sequence[str]) -> Row:
    try:
        config = to_config(values)
    except UserError as error:
        return {"settings": settings, "error": str(error)}
    return run_row(settings, config.to_dict(), flags)


def _outcome(row: Row) -> str:
    from jaxbert.bench.table import headline

    return headline(row["result"]) if "result" in row else f"failed: {row['error']}"


def _report(result: dict[str, Any], output: str | None, plot: Path | None) -> None:
    from jaxbert.bench.table import sweep_table
    from jaxbert.terminal import console

    rows = result["rows"]
    best = None if result["best"] is None else [row["settings"] for row in rows].index(result["best"])
    console.print(sweep_table(rows, best), highlight=False)
    written = []
    if output is not None:
        write_numbers(result, output)
        written.append("standard output" if output == "-" else output)
    if best is None:
        raise UserError(f"no combination could be timed; error of the first one: {rows[0]['error']}")
    if plot is not None:
        written.append(_draw(result, plot))
    timed = sum("result" in row for row in rows)
    console.print(
        f"{timed} of {result['combinations']} combinations timed, best: {describe(result['best'])}; "
        + (f"written: {', '.join(written)}" if written else "--output FILE saves all numbers and a chart"),
        highlight=False,
        soft_wrap=True,
    )


def _draw(result: dict[str, Any], plot: Path) -> str:
    from jaxbert.bench.plot import plot_sweep

    try:
        plot_sweep(result["rows"], result["metric"], plot)
    except OSError as error:
        raise UserError(f"--plot {plot} cannot be written: {error.strerror}") from error
    return str(plot)
