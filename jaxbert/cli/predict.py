"""`jaxbert predict`: answer for texts from a file or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxbert.cli.inference_options import add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse

if TYPE_CHECKING:
    import numpy as np

    from jaxbert.data.examples import Examples
    from jaxbert.tasks.base import Task

_ANSWERS = 4096


def run(arguments: list[str]) -> int:
    """Predict; one JSON line an example, in input order."""
    parser = make_parser(
        "predict", "Answer for each text by the task of the model: one JSON line an example, in input order."
    )
    add_options(parser)
    parser.add_argument("--input", type=str, required=True, help="a file, hf:NAME, tfds:NAME, or - for standard input")
    parser.add_argument("--output", type=str, default="-", help="a file, also in a bucket, or - for standard output")
    parser.add_argument(
        "--top_k",
        type=int | None,
        default=None,
        help="how many labels an answer shows the probabilities of, the best first; left out, all of up to 20, else 5",
    )
    values = parse(parser, arguments)
    data = data_config(values)
    check_output(values.output, source=values.input)
    from jaxbert.data.sources import check_rows
    from jaxbert.train.processes import is_main

    check_rows("predict", data)
    model = open_model(values, values.input)
    examples = model.read(values.input, data, role="predict", labelled=False)
    predictions = model.predict(examples)
    if is_main():
        write_text(values.output, _json_lines(model.task, predictions, examples))
    return 0


def _json_lines(task: Task, predictions: np.ndarray, examples: Examples) -> Iterator[str]:
    """Yield the answers one by one: all at once are a hundred times as large as the predictions."""
    for first in range(0, len(examples), _ANSWERS):
        for answer in task.answers(predictions, examples, first, min(first + _ANSWERS, len(examples))):
            yield json.dumps(answer, ensure_ascii=False) + "\n"
