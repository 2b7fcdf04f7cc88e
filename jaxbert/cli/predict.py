"""`jaxbert predict`: label texts from a file or standard input."""

from __future__ import annotations

from collections.abc import Iterable

from jaxbert.cli.inference_options import add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse


def run(arguments: list[str]) -> int:
    """Predict; one JSON line an example, in input order."""
    parser = make_parser("predict", "Label texts: one JSON line an example, in input order.")
    add_options(parser)
    parser.add_argument("--input", type=str, required=True, help="a file, hf:NAME, tfds:NAME, or - for standard input")
    parser.add_argument("--output", type=str, default="-", help="a file, or - for standard output")
    values = parse(parser, arguments)
    check_output(values.output)
    from jaxbert.data.sources import read

    table = read(values.input, data_config(values), role="predict", labelled=False)
    model = open_model(values)
    answers = model.task.answers(model.predict(table))
    write_text(values.output, _json_lines(answers))
    return 0


def _json_lines(answers: Iterable[dict]) -> str:
    import json

    return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
