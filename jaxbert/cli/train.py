"""`jaxbert train`: fine-tunes BERT for a task and exports it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import Config
from jaxbert.settings import add_config, to_config

_USAGE = """\
Example:  jaxbert train --data.train train.csv --data.validation dev.csv \\
            --train.output_dir runs/reviews
Data:     files (csv, tsv, jsonl, parquet), hf:ORG/NAME or tfds:NAME. --data.text and --data.label
          name their columns. `jaxbert inspect` shows how the data are read, without training.
Results:  in the folder --train.output_dir: checkpoints, metrics and export/, which PyTorch reads too.
Resume:   run the same command again. A YAML file for --config holds the same keys."""
_MAIN_KEYS = (
    *("task", "model.name_or_path", "data.train", "data.validation", "data.text", "data.label"),
    *("train.output_dir", "train.epochs", "train.batch_size", "optimizer.learning_rate"),
)


def run(arguments: list[str]) -> int:
    """Train; exit with 75 if a signal stopped the run after saving."""
    return train(to_config(parse(_make_parser(), arguments)))


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("train", "Fine-tune BERT for a task (--task) and export it.", _USAGE, _MAIN_KEYS)
    add_config(parser)
    return parser


def train(config: Config, fractions: str | None = None) -> int:
    """Run the configuration, or its curve at these shares of the rows, and return the exit code."""
    from jaxbert.tasks.reading import training_spec

    if config.train.epochs or config.train.max_steps:  # without a step, no rows are needed
        training_spec(config.data)  # before a model is downloaded from the Hub
    from jaxbert.api.finetune import start_curve, start_run

    return until_stopped(lambda: start_run(config) if fractions is None else start_curve(config, fractions))


def until_stopped(work: Callable[[], object]) -> int:
    """Do what trains, and return the exit code: 75 if a signal stopped it after saving."""
    from jaxbert.errors import STOPPED_EXIT_CODE, StoppedError
    from jaxbert.terminal import console

    try:
        work()
    except StoppedError as stop:
        console.print(str(stop), highlight=False, soft_wrap=True)
        return STOPPED_EXIT_CODE
    return 0
