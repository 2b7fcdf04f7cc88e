"""`jaxbert predict`: label texts from a file or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxbert.cli.inference_options import add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse

if TYPE_CHECKING:
    import numpy as np

    from jaxbert.tasks.classification import Classification

_ANSWERS = 4096


def run(arguments: list[str]) -> int:
    """Predict; one JSON line an example, in input order."""
    parser = make_parser("predict", "Label texts: one JSON line an example, in input order.")
    add_options(parser)
    parser.add_argument("--input", type=str, required=True, help="a file, hf:NAME, tfds:NAME, or - for standard input")
    parser.add_argument("--output", type=str, default="-", help="a file, or - for standard output")
    values = parse(parser, arguments)
    check_output(values.output)
    from jaxbert.data.sources import open_source
    from jaxbert.train.processes import is_main

    source = open_source(values.input, data_config(values), role="predict", labelled=False)
    model = open_model(values)
    predictions = model.predict(source)
    if is_main():
        write_text(values.output, _json_lines(model.task, predictions))
    return 0


def _json_lines(task: Classification, predictions: np.ndarray) -> Iterator[str]:
    """Yield the answers one by one: all at once are a hundred times as large as the predictions."""
    for start in range(0, len(predictions), _ANSWERS):
        for answer in task.answers(predictions[start : start + _ANSWERS]):
            yield json.dumps(answer, ensure_ascii=False) + "\n"
