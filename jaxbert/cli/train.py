"""`jaxbert train`: fine-tune BERT for a task and export it."""

from __future__ import annotations

from jaxbert.cli.parsing import add_config, make_parser, parse, to_config
from jaxbert.config import Config


def run(arguments: list[str]) -> int:
    """Train; exit 75 if a signal stopped the run after saving."""
    parser = make_parser("train", "Fine-tune BERT for a task (--task) and export it.")
    add_config(parser)
    return train(to_config(parse(parser, arguments)))


def train(config: Config) -> int:
    """Do the run that `config` says, and return the exit code."""
    from jaxbert.checks import check
    from jaxbert.launch.start import start
    from jaxbert.runs.folder import RunFolder
    from jaxbert.terminal import console
    from jaxbert.train.interrupt import EXIT_CODE, StoppedError
    from jaxbert.train.report import print_summary
    from jaxbert.train.run import run_training
    from jaxbert.train.runtime import prepare_process

    check(config)  # before all processes are waited for
    prepare_process(config.precision.compute)
    start(config.launch)
    try:
        summary = run_training(config)
    except StoppedError as stop:
        console.print(str(stop), highlight=False, soft_wrap=True)
        return EXIT_CODE
    print_summary(summary, RunFolder(config.train.output_dir))
    return 0
