"""Everything that a run would read, looked at without a step: what was understood, and which lengths suit it."""

from __future__ import annotations

from typing import Any

from jaxbert.config import Config
from jaxbert.data.overview import DOCUMENTS
from jaxbert.data.proposal import describe_choice, propose
from jaxbert.models.families import longest_input
from jaxbert.tasks import task_class
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.train.start import open_start
from jaxbert.train.vocabulary import with_vocabulary

_PLACES = 1000
"""Duplicates, leaks and empty texts that are named by their rows, of each kind."""


def inspect_data(config: Config) -> dict[str, Any]:
    """Read every data set of a run and return what was understood of it.

    Returns:
      The content of `data` in `summary.json` with more rows named, `now` (the lengths as the configuration has them) and
      `proposal`.

    Raises:
      UserError: for anything wrong in the configuration or the data, as a run would say it.
    """
    start = open_start(with_vocabulary(config))
    positions = longest_input(start.bert_config)
    max_length = resolve_max_length(config.data.max_length, positions)
    task = task_class(config.task)
    overview = task.read(config, start.tokenizer, max_length, start.trained_head(task, config.model)).overview
    result = overview.to_dict(_PLACES)
    train = overview.train
    if train.unit == DOCUMENTS:  # which fill examples of any length
        return result
    batch_size, seed, lengths = config.train.batch_size, config.train.seed, train.seen.lengths
    result["now"] = describe_choice(
        lengths, max_length, batch_size, seed, windows=train.windows, row_length=config.data.row_length
    )
    result["proposal"] = propose(lengths, positions, batch_size, seed, windows=train.windows)
    return result
