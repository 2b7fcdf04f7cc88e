"""`jaxbert inspect`: shows the data that a run would read, without training."""

from __future__ import annotations

import functools
from typing import Any

from jaxbert.cli.output import check_output, write_numbers
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.settings import add_config, to_config

_NAMED = 5
_USAGE = """\
Example:  jaxbert inspect --data.train train.csv --data.validation dev.csv --output data.json
Data:     the keys are those of `jaxbert train`; a YAML file for --config holds them too.
Results:  a table on the terminal: rows, columns, labels, lengths, duplicates, and a proposal for
          data.max_length and data.row_length. --output FILE adds everything as JSON."""
_MAIN_KEYS = (
    *("task", "model.name_or_path", "data.train", "data.validation", "data.test", "data.text", "data.label"),
    *("data.label_format", "data.max_length", "output"),
)


def run(arguments: list[str]) -> int:
    """Inspect the data; print a table, and write everything as JSON if `--output` names a file."""
    values = parse(_make_parser(), arguments)
    config = to_config(values)
    if values.output is not None:
        check_output(values.output)
    from jaxbert.train.run import inspect_data
    from jaxbert.train.runtime import prepare_process

    prepare_process(config.precision.compute)
    result = inspect_data(config)
    _show(result)
    write_numbers(result, values.output)
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("inspect", "Show how the data of a run are read, without training.", _USAGE, _MAIN_KEYS)
    add_config(parser)
    parser.add_argument(
        "--output", type=str | None, default=None, help="File for the results as JSON, or - for standard output."
    )
    return parser


def _show(result: dict[str, Any]) -> None:
    from jaxbert.terminal import console
    from jaxbert.train.report import data_notes, data_table, length_bars

    console.print(data_table(result))
    lines = data_notes(result)
    for name, source in result["sources"].items():
        lines += [f"{name}, lengths in tokens:", *(f"  {line}" for line in length_bars(source))]
        places = source["duplicates"]["places"]
        lines += [f"{name}, the same text in {_group(place)}" for place in places[:_NAMED]]
        lines += _rest(len(source["duplicates"]["places"]), source["duplicates"]["texts"], f"{name}, repeated texts")
    for leak in result["leaks"]:
        first, second = leak["sets"]
        lines += [f"row {p[second]} of {second} is row {p[first]} of {first}" for p in leak["places"][:_NAMED]]
        lines += _rest(len(leak["places"]), leak["rows"], f"rows of {second} that are in {first}")
    for title, key in (("with the current settings", "now"), ("proposed settings", "proposal")):
        if key in result:
            lines.append(f"{title}: {_choice(result[key])}")
    lines += [result["few_labels"]["sentence"]] if "few_labels" in result else []
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _group(place: dict[str, Any]) -> str:
    rows = f"rows {', '.join(map(str, place['rows']))}"
    labels = place.get("labels", [])
    return rows + (f", labels {', '.join(labels)}" if len(set(labels)) > 1 else "")


def _rest(named: int, count: int, what: str) -> list[str]:
    shown = min(named, _NAMED)
    return [f"{what}: {count - shown:,} more (--output FILE names up to 1,000)"] if count > shown else []


def _choice(choice: dict[str, Any]) -> str:
    cut = f"{choice['cut']:,} texts cut, {choice['tokens_lost']:.2%} of the tokens lost"
    return (
        f"data.max_length {choice['max_length']} ({cut if choice['cut'] else 'nothing is cut'}), rows of "
        f"{choice['row_length']} tokens, {choice['packing_efficiency']:.1%} of them real"
    )
