"""`jaxbert search`: finds good values of some keys by many trials."""

from __future__ import annotations

import functools
import json

from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.cli.train import until_stopped
from jaxbert.options import SearchOptions
from jaxbert.settings import add_config, add_section, to_config

_USAGE = """\
Example:  jaxbert search --data.train train.csv --data.validation dev.csv \\
            --search.space optimizer.learning_rate=log:1e-5:5e-4 \\
            --search.space train.batch_size=16,32,64 --train.output_dir runs/search
Data:     as for `jaxbert train`; trials are compared on data.validation, or in folds (train.folds).
Results:  in the folder --train.output_dir: search.json, search.html, a run folder for each trial in
          trials/, and best/, the run folder of the best one.
Resume:   run the same command again; run it several times at once to share the trials."""
_MAIN_KEYS = (
    *("search.space", "search.method", "search.trials", "search.seconds", "search.objectives", "search.storage"),
    *("data.train", "data.validation", "train.output_dir"),
)
_SPACE = "--search.space"


def run(arguments: list[str]) -> int:
    """Search; exit with 75 if a signal stopped it."""
    values = parse(_make_parser(), _gathered(arguments))
    config, options = to_config(values), SearchOptions(**values.search.as_dict())
    from jaxbert.tasks.reading import training_spec

    training_spec(config.data)  # before a model is downloaded from the Hub
    from jaxbert.api.search import start_search

    return until_stopped(lambda: start_search(config, options))


def _gathered(arguments: list[str]) -> list[str]:
    """Return the arguments with all `--search.space KEY=...` as one list."""
    rest, space = list[str](), list[str]()
    left = iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag != _SPACE:
            rest.append(argument)
        elif equals:
            space.append(value)
        elif (following := next(left, None)) is not None:
            space.append(following)
        else:
            rest.append(argument)
    return [*rest, _SPACE, json.dumps(space)] if space else rest


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("search", "Find good values of some keys by many trials.", _USAGE, _MAIN_KEYS)
    add_section(parser, SearchOptions, "search")
    add_config(parser)
    return parser
