"""`jaxbert evaluate`: measure a model on labelled examples."""

from __future__ import annotations

from jaxbert.cli.inference_options import LABEL_OPTIONS, add_data_options, add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse


def run(arguments: list[str]) -> int:
    """Evaluate; a table for people, and all metrics as JSON."""
    parser = make_parser("evaluate", "Measure a model on labelled examples: a table, and all metrics as JSON.")
    add_options(parser, batch_size=None)
    parser.add_argument("--data", type=str, required=True, help="a file, hf:NAME or tfds:NAME")
    add_data_options(parser, LABEL_OPTIONS)
    parser.add_argument("--output", type=str, default="-", help="a file for the JSON, or - for standard output")
    values = parse(parser, arguments)
    data = data_config(values)
    check_output(values.output, source=values.data)
    from jaxbert.plain import to_json
    from jaxbert.processes import is_main
    from jaxbert.train.report import print_metrics

    model = open_model(values, values.data)
    metrics = model.evaluate(values.data, data)
    if is_main():
        print_metrics(metrics, values.data, "the JSON below" if values.output == "-" else values.output)
        write_text(values.output, to_json(metrics) + "\n")
    return 0
