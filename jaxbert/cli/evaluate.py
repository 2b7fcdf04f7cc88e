"""`jaxbert evaluate`: measures a model on labelled examples."""

from __future__ import annotations

import functools

from jaxbert.cli.inference_options import ENGINE_OPTIONS, LABEL_OPTIONS, add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import DataConfig
from jaxbert.options import InferenceOptions
from jaxbert.settings import add_fields

_USAGE = """\
Example:  jaxbert evaluate --model runs/reviews --data test.csv --output metrics.json
Model:    a run folder, an exported folder or a name on the Hugging Face Hub.
Data:     a file (csv, tsv, jsonl, parquet), hf:ORG/NAME or tfds:NAME. --text and --label name its
          columns.
Results:  a table on the terminal; all metrics as JSON in the file --output, or on standard output."""
_MAIN_KEYS = (
    *("model", "data", "text", "text_pair", "label", "label_map", "output", "max_length", "batch_size", "precision"),
)


def run(arguments: list[str]) -> int:
    """Evaluate a model; print a table, and write all metrics as JSON."""
    values = parse(_make_parser(), arguments)
    data = data_config(values)
    check_output(values.output, source=values.data)
    from jaxbert.plain import to_json
    from jaxbert.processes import is_main
    from jaxbert.train.report import print_metrics

    model = open_model(values, values.data)
    metrics = model.evaluate(values.data, data).metrics
    if is_main():
        print_metrics(metrics, values.data, "the JSON below" if values.output == "-" else values.output)
        write_text(values.output, to_json(metrics) + "\n")
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("evaluate", "Measure a model on labelled examples.", _USAGE, _MAIN_KEYS)
    add_options(parser)
    parser.add_argument("--data", type=str, required=True, help="The labelled examples: a file, hf:NAME or tfds:NAME.")
    add_fields(parser, DataConfig, LABEL_OPTIONS)
    add_fields(parser, InferenceOptions, ENGINE_OPTIONS)
    parser.add_argument(
        "--output", type=str, default="-", help="File for all metrics as JSON, or - for standard output."
    )
    return parser
