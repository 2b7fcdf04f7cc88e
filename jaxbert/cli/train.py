"""`jaxbert train`: fine-tune BERT for a task and export it."""

from __future__ import annotations

from jaxbert.cli.parsing import make_parser, parse
from jaxbert.config import Config
from jaxbert.settings import add_config, to_config


def run(arguments: list[str]) -> int:
    """Train; exit 75 if a signal stopped the run after saving."""
    parser = make_parser("train", "Fine-tune BERT for a task (--task) and export it.")
    add_config(parser)
    return train(to_config(parse(parser, arguments)))


def train(config: Config) -> int:
    """Do the run that `config` says, and return the exit code."""
    from jaxbert.api.finetune import start_run
    from jaxbert.errors import STOPPED_EXIT_CODE, StoppedError
    from jaxbert.terminal import console

    try:
        start_run(config)
    except StoppedError as stop:
        console.print(str(stop), highlight=False, soft_wrap=True)
        return STOPPED_EXIT_CODE
    return 0
