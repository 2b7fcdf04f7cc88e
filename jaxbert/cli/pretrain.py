"""`jaxbert pretrain`: trains a new model or a checkpoint on raw text, and exports it for fine-tuning."""

from __future__ import annotations

import functools

from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.cli.train import train
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.settings import add_config, to_config

_USAGE = """\
Example:  jaxbert pretrain --data.train books.txt --model.name_or_path small --pretrain.vocab_size 8000 \\
            --train.output_dir runs/books
Data:     text files with a blank line between documents (or see --pretrain.documents), or tables
          with a column of texts.
Results:  in the folder --train.output_dir; `jaxbert train --model.name_or_path FOLDER` fine-tunes it.
Resume:   run the same command again. A YAML file for --config holds the same keys."""
_MAIN_KEYS = (
    *("model.name_or_path", "model.vocab", "data.train", "data.validation", "data.max_length", "pretrain.vocab_size"),
    *("train.output_dir", "train.max_steps", "train.batch_size", "optimizer.learning_rate"),
)


def run(arguments: list[str]) -> int:
    """Pretrain; exit with 75 if a signal stopped the run after saving."""
    values = parse(_make_parser(), arguments)
    if values.task not in (Config.task, "pretraining"):
        raise UserError(f"task is {values.task}, but `jaxbert pretrain` has its own: leave the key out")
    values.task = "pretraining"
    return train(to_config(values))


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("pretrain", "Pretrain BERT on raw text and export it for fine-tuning.", _USAGE, _MAIN_KEYS)
    add_config(parser)
    return parser
