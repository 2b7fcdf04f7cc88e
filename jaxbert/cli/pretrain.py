"""`jaxbert pretrain`: learn the language of raw text, from a new model or a checkpoint, and export it for fine-tuning."""

from __future__ import annotations

import dataclasses

from jaxbert.cli.parsing import make_parser, parse
from jaxbert.cli.train import train
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.settings import add_config, to_config


def run(arguments: list[str]) -> int:
    """Pretrain; exit 75 if a signal stopped the run after saving."""
    parser = make_parser("pretrain", "Pretrain BERT on raw text and export it for fine-tuning.")
    add_config(parser)
    config = to_config(parse(parser, arguments))
    if config.task not in (Config.task, "pretraining"):
        raise UserError(f"task is {config.task}, but `jaxbert pretrain` has its own: leave the key out")
    return train(dataclasses.replace(config, task="pretraining"))
