"""Open a complete run again, with its data and the predictions of its exported model."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
from jaxbert.train.inference import Finished, TrainedModel, open_trained


def reopen(path: str | os.PathLike[str]) -> Finished:
    """Open a complete run: read its data again, from the token cache if it is there, and its predictions.

    Predictions that the folder does not hold, as a run of an older version, are computed and kept.

    Raises:
      UserError: if the folder is not a complete run, or its data have changed or are not there any more.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise UserError(f"{folder.path} is not a run folder: it has no config.yaml")
    if not folder.summary.exists():
        raise UserError(f"{folder.path} is a run that has not finished: run the same command again to finish it")
    model = open_trained(os.fspath(path))
    config = make_config(os.fspath(fetched(folder.config)), {"train": {"output_dir": os.fspath(folder.path)}})
    head = Head(model.task.output_names, folder.path.name) if model.task.label_names_in_head else None
    longest = resolve_max_length(config.data.max_length, longest_input(model.predictor.model.config))  # as in training
    inputs = type(model.task).read(config, model.tokenizer, longest, head)
    check_data(folder, config, inputs)
    sets = {set_name("validation", name): examples for name, examples in inputs.validation.items()}
    sets |= {set_name("test", name): examples for name, examples in inputs.test.items()}
    summary = read_json(folder.summary)
    return Finished(config, folder, inputs, model, _outcomes_of(folder, model, sets), summary)


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
