"""`jaxbert predict`: answer for texts from a file, or for lines as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from jaxbert.cli.answers import Answer, make_writer, parse_keep
from jaxbert.cli.inference_options import add_options, data_config, open_model
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse

if TYPE_CHECKING:
    import numpy as np

    from jaxbert.tasks.base import Task
    from jaxbert.train.evaluate import Chunk

_ANSWERS = 1024
"""Answers that are made at once: they are a hundred times as large as the predictions."""


def run(arguments: list[str]) -> int:
    """Predict; one JSON line an example, or a row of a table, in input order."""
    values = parse(_make_parser(), arguments)
    data, kept = data_config(values), parse_keep(values.keep)
    check_output(values.output, tables=True, source=values.input)
    from jaxbert.data.sources import STDIN, check_rows, stdin_waits
    from jaxbert.processes import is_main
    from jaxbert.terminal import ReadingProgress

    check_rows("predict", data)
    model = open_model(values, values.input)
    write = make_writer(values.output, model.task, kept, values.label_separator)
    feed = model.feed(values.input, data, tuple(kept))
    live = values.input == STDIN and stdin_waits()
    seen = values.output == "-" and sys.stdout.isatty()  # answers are progress enough
    counted = ReadingProgress(feed.name, "predicting", silent=live or seen)
    with counted, closing(model.predict(feed, may_wait=live)) as predictions:
        pieces = _texts(predictions, model.task, write, counted.add)
        try:
            if is_main():
                write_text(values.output, pieces, live=live)
            else:
                for _ in pieces:  # every process computes its part
                    pass
        except KeyboardInterrupt as stop:
            what = "what was answered is written" if live else "not all was answered"
            raise KeyboardInterrupt(f"interrupted; {what}") from stop
    return 0


def _make_parser() -> ArgumentParser:
    parser = make_parser(
        "predict", "Answer for each text by the task of the model, in input order: JSON lines, or a table."
    )
    add_options(parser)
    parser.add_argument(
        "--input",
        type=str,
        required=True,
        help="a file, hf:NAME, tfds:NAME, or - for standard input, whose lines are answered as they come",
    )
    parser.add_argument(
        "--output",
        type=str,
        default="-",
        help="a file, also in a bucket, or - for standard output: JSON lines, or a table in .csv and .tsv",
    )
    parser.add_argument(
        "--keep",
        type=str | None,
        default=None,
        metavar="COLUMN,...",
        help="columns of the input that are copied into the answers; COLUMN=NAME gives one another name there",
    )
    parser.add_argument(
        "--top_k",
        type=int | None,
        default=None,
        help="how many labels an answer shows the probabilities of, the best first; left out, all of up to 20, else 5",
    )
    return parser


def _texts(
    predictions: Iterator[tuple[Chunk, np.ndarray]],
    task: Task,
    write: Callable[[Iterable[tuple[Answer, Answer]]], str],
    count: Callable[[int], None],
) -> Iterator[str]:
    """Yield the answers as text, some at a time, and count those that have been taken."""
    for chunk, values in predictions:
        examples = chunk.examples
        for first in range(0, len(examples), _ANSWERS):
            last = min(first + _ANSWERS, len(examples))
            answers = task.answers(values, examples, first, last)
            yield write(zip(chunk.kept[first:last], answers, strict=True))
            count(last - first)
