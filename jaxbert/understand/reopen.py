"""Open a complete run again, with its data and the predictions of its exported model."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxbert.bucket import fetched
from jaxbert.config import COLUMN_KEYS, DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.labels import Head
from jaxbert.errors import UserError
from jaxbert.models.families import longest_input
from jaxbert.plain import read_json, read_yaml
from jaxbert.processes import is_main
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.identity import check_data
from jaxbert.settings import make_config, make_data_config
from jaxbert.tasks.base import Outcome, count_predictions
from jaxbert.tasks.reading import resolve_max_length, set_name
from jaxbert.train.evaluate import average_metrics
from jaxbert.train.inference import Finished, TrainedModel, open_trained

_ROUNDING = 1e-3
"""Metrics that differ less are those of the same model, perhaps on another device."""
_NEEDED = ("data", "eval", "test", "steps", "exported_step")
"""The keys of a summary that everything reads that opens a run again."""
logger = logging.getLogger("jaxbert")


def reopen(path: str | os.PathLike[str]) -> Finished:
    """Open a complete run: read its data again, from the token cache if it is there, and its predictions.

    Predictions that the folder does not hold, as a run of an older version, are computed and kept.

    Raises:
      UserError: if the folder is not a complete run, or its data have changed or are not there any more.
    """
    folder = RunFolder(path)
    folder.check_run()
    if not folder.summary.exists():
        raise UserError(f"{folder.path} is a run that has not finished: run the same command again to finish it")
    summary = read_json(folder.summary)
    if missing := [key for key in _NEEDED if key not in summary]:
        raise UserError(
            f"{folder.summary} has no {', '.join(missing)}: it was changed, or an older version wrote it: train again"
        )
    model = open_trained(os.fspath(path))
    config = make_config(os.fspath(fetched(folder.config)), {"train": {"output_dir": os.fspath(folder.path)}})
    head = Head(model.task.output_names, folder.path.name) if model.task.label_names_in_head else None
    longest = resolve_max_length(config.data.max_length, longest_input(model.predictor.model.config))  # as in training
    inputs = type(model.task).read(config, model.tokenizer, longest, head)
    check_data(folder, config, inputs)
    sets = {set_name("validation", name): examples for name, examples in inputs.validation.items()}
    sets |= {set_name("test", name): examples for name, examples in inputs.test.items()}
    return Finished(config, folder, inputs, model, _outcomes_of(folder, model, sets), summary)


def with_metrics_of_now(finished: Finished) -> Finished:
    """Return a run whose summary has the metrics of its exported model as that is now.

    They differ from those in `summary.json` if the export was written again, as `jaxbert calibrate` does: a line says so,
    and the summary has `exported_again`.
    """
    summary, changed = dict(finished.summary), False
    for part, role in (("eval", "validation"), ("test", "test")):
        before = summary.get(part) or {}
        outcomes = {name.partition("."): outcome for name, outcome in finished.outcomes.items()}
        now = {own: outcome.metrics for (of, _, own), outcome in outcomes.items() if of == role}
        sets = before.get("sets") or dict.fromkeys(now, before)
        if now.keys() == sets.keys() and any(_differ(sets[name], metrics) for name, metrics in now.items()):
            summary[part], changed = average_metrics(now), True
    if not changed:
        return finished
    logger.warning(
        "%s has changed since the run, so its metrics are not those in %s",
        *(finished.folder.export, finished.folder.summary.name),
    )
    return dataclasses.replace(finished, summary=summary | {"exported_again": True})


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether a number is another one in two collections of metrics."""
    pairs = [(before[name], value) for name, value in now.items() if isinstance(value, float) and name in before]
    return any(
        not math.isclose(old, new, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        for old, new in pairs
        if isinstance(old, int | float) and math.isfinite(new)
    )


def _outcomes_of(folder: RunFolder, model: TrainedModel, sets: Mapping[str, Examples]) -> dict[str, Outcome]:
    """Return the outcome of each set, from the run folder or computed; those that are computed are kept there."""
    kept = folder.read_predictions()
    found: dict[str, np.ndarray] = {
        name: kept[name]
        for name, examples in sets.items()
        if name in kept and len(kept[name]) == count_predictions(model.task, examples)
    }
    missing = {name: examples for name, examples in sets.items() if name not in found}
    if missing:
        evaluation = model.predictor.evaluate(model.params, missing, model.task)
        found |= {name: outcome.predictions for name, outcome in evaluation.outcomes.items()}
        if is_main():
            folder.write_predictions(found)
    return {name: Outcome(model.task, sets[name], rows) for name, rows in found.items()}


def columns_of(name: str) -> DataConfig:
    """Return the columns that a run has read; for any other model, the default columns."""
    path = RunFolder(name).config
    content = read_yaml(path, str(path)) if path.exists() else None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        return DataConfig()
    kept = {key: data[key] for key in COLUMN_KEYS if key in data}
    return make_data_config(DataConfig(), kept)
