"""`jaxbert predict`: predicts texts from a file, or lines as they arrive."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from jaxbert.cli.answers import Answer, make_writer, parse_keep
from jaxbert.cli.inference_options import (
    ANSWER_OPTIONS,
    ENGINE_OPTIONS,
    add_options,
    add_texts,
    data_config,
    open_model,
)
from jaxbert.cli.output import check_output, write_pieces
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import TrainConfig
from jaxbert.options import InferenceOptions
from jaxbert.settings import add_fields

if TYPE_CHECKING:
    import numpy as np

    from jaxbert.tasks.base import Task
    from jaxbert.train.evaluate import Chunk

_ANSWERS = 1024
"""Answers that are made at once: they take a hundred times the memory of the predictions."""
_USAGE = """\
Example:  jaxbert predict --model runs/reviews --input new.csv --output answers.jsonl
          echo "What a film" | jaxbert predict --model runs/reviews --input -
Model:    a run folder, an exported folder or a name on the Hugging Face Hub.
Input:    a file (csv, tsv, jsonl, parquet, or txt with one text per line), hf:ORG/NAME, tfds:NAME,
          or - for standard input.
Results:  one JSON object per text in the file --output, or on standard output; a table in .csv and .tsv."""
_MAIN_KEYS = ("model", "input", "output", "text", "keep", *ANSWER_OPTIONS, "max_length", "precision")


def run(arguments: list[str]) -> int:
    """Predict; write one JSON line or one row of a table per example, in input order."""
    values = parse(_make_parser(), arguments)
    data, kept = data_config(values), parse_keep(values.keep)
    check_output(values.output, tables=True, source=values.input)
    from jaxbert.data.sources import STDIN, check_rows, stdin_waits
    from jaxbert.tasks.reading import ReadingProgress

    check_rows(data)
    model = open_model(values, values.input)
    write = make_writer(values.output, model.task, kept, values.label_separator)
    feed = model.open_inputs(values.input, data, tuple(kept))
    live = values.input == STDIN and stdin_waits()
    seen = values.output == "-" and sys.stdout.isatty()  # the answers on the terminal show the progress
    counted = ReadingProgress(feed.name, "predicting", silent=live or seen)
    with counted, closing(model.predict(feed, may_wait=live)) as predictions:
        pieces = _texts(predictions, model.task, write, counted.add)
        try:
            write_pieces(values.output, pieces, live=live)
        except KeyboardInterrupt as stop:
            what = "the answers so far are written" if live else "not all texts were answered"
            raise KeyboardInterrupt(f"interrupted; {what}") from stop
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("predict", "Write a model's answer for each text, in input order.", _USAGE, _MAIN_KEYS)
    add_options(parser, batch_size=TrainConfig.eval_batch_size)
    add_texts(
        parser,
        "standard input, whose lines are answered as they arrive",
        "A name that ends in .csv or .tsv gets a table, any other JSON lines.",
    )
    parser.add_argument(
        "--keep",
        type=str | None,
        default=None,
        metavar="COLUMN,...",
        help="Columns of the input to copy into the answers; COLUMN=NAME renames one there.",
    )
    add_fields(parser, InferenceOptions, (*ANSWER_OPTIONS, *ENGINE_OPTIONS))
    return parser


def _texts(
    predictions: Iterator[tuple[Chunk, np.ndarray]],
    task: Task,
    write: Callable[[Iterable[tuple[Answer, Answer]]], str],
    count: Callable[[int], None],
) -> Iterator[str]:
    """Yield the answers as text, some at a time; `count` receives the number of answers that were written."""
    for chunk, values in predictions:
        examples = chunk.examples
        for first in range(0, len(examples), _ANSWERS):
            last = min(first + _ANSWERS, len(examples))
            answers = task.answers(values, examples, first, last)
            yield write(zip(chunk.kept[first:last], answers, strict=True))
            count(last - first)
