"""The audit of a run's labels in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from jaxbert.api.finetune import Result
from jaxbert.api.rows import Data, name_sources
from jaxbert.config import LaunchConfig, PrecisionConfig
from jaxbert.launch.start import start
from jaxbert.train.runtime import prepare_process
from jaxbert.understand.audit import Audit, audit_run
from jaxbert.understand.confident import RankBy


def audit(
    run: str | os.PathLike[str] | Result,
    *,
    rank_by: RankBy = "self_confidence",
    train: Data | None = None,
    validation: Data | Mapping[str, Data] | None = None,
    test: Data | Mapping[str, Data] | None = None,
) -> Audit:
    """Find the rows of a complete run whose labels are probably wrong, as `jaxbert audit` does.

    Args:
      run: the run folder, or the result of `finetune`.
      rank_by: the score of a label where each text has one: `self_confidence`, the probability of the given label, or
        `normalized_margin`, that minus the largest probability of another label, scaled from [-1, 1] to [0, 1].
      train: the training rows again, if the run had them in memory.
      validation: the validation rows again, if the run had them in memory.
      test: the test rows again, if the run had them in memory.

    Returns:
      The suspicious rows, the worst first, and a summary.

    Raises:
      UserError: if the folder is no complete run, its data have changed, its task has no labels to judge, or the run has
        neither folds nor a validation or test set.
    """
    prepare_process(PrecisionConfig.compute)
    start(LaunchConfig())
    with ExitStack() as stack:
        for role, data in (("train", train), ("validation", validation), ("test", test)):
            if data is not None:
                name_sources(stack, data, role)
        return audit_run(run.folder if isinstance(run, Result) else run, rank_by)
