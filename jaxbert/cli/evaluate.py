"""`jaxbert evaluate`: measure a model on labelled examples."""

from __future__ import annotations

import json

from jaxbert.cli.inference_options import add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse


def run(arguments: list[str]) -> int:
    """Evaluate; a table for people, and all metrics as JSON."""
    parser = make_parser("evaluate", "Measure a model on labelled examples: a table, and all metrics as JSON.")
    add_options(parser)
    parser.add_argument("--data", type=str, required=True, help="a file, hf:NAME or tfds:NAME")
    parser.add_argument("--label", type=str, default="label", help="column of the label")
    parser.add_argument("--output", type=str, default="-", help="a file for the JSON, or - for standard output")
    values = parse(parser, arguments)
    check_output(values.output, source=values.data)
    from jaxbert.train.processes import is_main
    from jaxbert.train.report import print_metrics

    model = open_model(values, values.data)
    examples = model.read(values.data, data_config(values, values.label), role="test", labelled=True)
    metrics = model.evaluate(examples)
    if is_main():
        print_metrics(metrics, values.data)
        write_text(values.output, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return 0
