"""`jaxbert robustness`: disturbs the texts of labelled rows, and tells how many answers change."""

from __future__ import annotations

import functools
from typing import Any

from jsonargparse import Namespace

from jaxbert.cli.inference_options import ENGINE_OPTIONS, LABEL_OPTIONS, add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_out, write_text
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import DataConfig
from jaxbert.errors import UserError
from jaxbert.options import InferenceOptions, RobustnessOptions
from jaxbert.settings import add_fields
from jaxbert.understand.perturb import check_kind

_USAGE = """\
Example:  jaxbert robustness --model runs/reviews --data test.csv
          jaxbert robustness --model runs/reviews --data test.csv --kinds typos,case --output texts.jsonl
Model:    a run folder, an exported folder or a name on the Hugging Face Hub; classification,
          multi_label or regression.
Data:     labelled rows that the model was not trained on, as for `jaxbert evaluate`.
Results:  a table on the terminal and all numbers as JSON on standard output. A run keeps them
          (robustness.json), and `jaxbert report` shows them."""
_MAIN_KEYS = ("model", "data", "kinds", "strengths", "seed", "output", "text", "text_pair", "label", "batch_size")


def run(arguments: list[str]) -> int:
    """Disturb texts and compare answers; print a table, and write all numbers as JSON."""
    values = parse(_make_parser(), arguments)
    data = data_config(values)
    options = _options(values)
    if values.output is not None:
        check_output(values.output, source=values.data)
    from jaxbert.plain import to_json
    from jaxbert.processes import is_main
    from jaxbert.terminal import console
    from jaxbert.understand.robustness import keep_robustness, measure_robustness

    model = open_model(values, values.data)
    found = measure_robustness(model, values.data, data, options)
    if not is_main():
        return 0
    numbers = {"data": values.data, "seed": options.seed, **found.to_dict()}
    console.print(_table(numbers), highlight=False)
    if keep_robustness(values.model, numbers):
        console.print(f"jaxbert report {values.model} shows this too", highlight=False, soft_wrap=True, markup=False)
    if values.output is not None:
        write_text(values.output, found.lines())
    write_out(to_json(numbers) + "\n")
    return 0


def _options(values: Namespace) -> RobustnessOptions:
    """Return the kinds and strengths, which are lists with commas."""
    kinds, strengths = ([part.strip() for part in (values[name] or "").split(",")] for name in ("kinds", "strengths"))
    try:
        shares = [float(part) for part in strengths if part]
    except ValueError as error:
        raise UserError(f"--strengths {values.strengths} are no numbers: give shares of a text, 0.05,0.1") from error
    found = RobustnessOptions([kind for kind in kinds if kind] or None, shares or None, values.seed)
    for kind in found.kinds or ():
        check_kind(kind)
    return found


def _table(numbers: dict[str, Any]) -> Any:
    """Return the numbers as a table of the terminal."""
    from rich.table import Table

    from jaxbert.understand.robustness import disturbance_rows

    head, *rows = disturbance_rows(numbers)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    return table


@functools.cache
def _make_parser() -> Parser:
    title = "Put faults into the texts of labelled rows, and tell how many answers change."
    parser = make_parser("robustness", title, _USAGE, _MAIN_KEYS)
    add_options(parser)
    parser.add_argument("--data", type=str, required=True, help="The labelled rows: a file, hf:NAME or tfds:NAME.")
    add_fields(parser, DataConfig, LABEL_OPTIONS)
    parser.add_argument(
        "--kinds",
        type=str | None,
        default=None,
        help="Kinds of disturbances, typos,case: typos, case, punctuation, spacing, homophones, look_alikes, dropped_words, "
        "repeated_words. If not set, all of them; homophones need pip install 'jaxbert[robustness]'.",
    )
    parser.add_argument(
        "--strengths",
        type=str | None,
        default=None,
        help="Shares of a text's letters or words that are changed, at least one. If not set, 0.05,0.1,0.2.",
    )
    add_fields(parser, RobustnessOptions, ["seed"])
    add_fields(parser, InferenceOptions, ENGINE_OPTIONS)
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="File for the disturbed texts with the answers before and after, as JSON lines.",
    )
    return parser
