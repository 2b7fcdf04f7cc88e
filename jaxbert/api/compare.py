"""Compare runs from Python, as `jaxbert compare` does."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jaxbert.bucket import path_text
from jaxbert.config import LaunchConfig
from jaxbert.errors import UserError, kind_of
from jaxbert.launch.start import start
from jaxbert.train.runtime import prepare_process
from jaxbert.understand.compare import Comparison, compare_runs


def compare(runs: Sequence[str | os.PathLike[str]], *, set_name: str | None = None, timed: bool = False) -> Comparison:
    """Compare complete runs on a held-out set that all have.

    Args:
      runs: two or more run folders; each is compared with the first one.
      set_name: the name of the set, such as `test` or `validation.en`; None: `test` if all runs have it, or else the first
        set that all have.
      timed: whether the models answer again for some examples of the set, in turns, to be timed.

    Returns:
      The metrics and the size of each run's model, and for each pair the intervals of the differences (95%, paired
      bootstrap of 10,000 resamples), McNemar's test and the examples with different answers. `to_dict()` returns plain
      values.

    Raises:
      UserError: if a folder is no complete run, or the runs have different tasks, rows or labels.
    """
    prepare_process()
    start(LaunchConfig())
    if not isinstance(runs, list | tuple):
        raise UserError(f"runs is {kind_of(runs)}, but it must be a list of run folders: [RUN, RUN]")
    return compare_runs([path_text(run, "a run") for run in runs], set_name, timed=timed)
