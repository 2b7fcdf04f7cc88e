"""Runs for tests of audits: data that are read, with predictions made by hand in place of a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from etils import epath
from runs import VOCAB, make_config
from transformers import BertTokenizer

from jaxbert.runs.out_of_fold import OutOfFold, write_out_of_fold
from jaxbert.tasks import task_class
from jaxbert.tasks.base import Outcome


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def hand_made(folder: Path, task: str, predictions: np.ndarray | None = None, **data: Any) -> Any:
    """Return a finished run whose model has these `predictions` for its validation set; `data` are keys of that section."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(VOCAB) + "\n")
    config = make_config(task, **{f"data__{key}": value for key, value in data.items()})
    inputs = task_class(task).read(config, BertTokenizer(vocab=str(vocabulary)), 48)
    outcomes = (
        {}
        if predictions is None
        else {"validation": Outcome(inputs.task, inputs.validation["validation"], predictions)}
    )
    run = epath.Path(folder / "run")
    run.mkdir(exist_ok=True)
    model = SimpleNamespace(task=inputs.task)
    return SimpleNamespace(
        config=config, folder=SimpleNamespace(path=run), inputs=inputs, model=model, outcomes=outcomes
    )


def add_folds(
    finished: Any, probabilities: np.ndarray | None, names: tuple[str, ...] | None = None, **changes: Any
) -> None:
    """Write the out-of-fold predictions of the training rows, with the labels in the order of `names`."""
    train, task = finished.inputs.train, finished.model.task
    own = task.output_names
    names = own if names is None else names
    labels = np.asarray(train.labels)
    if names and labels.ndim == 1:
        labels = np.array([names.index(own[label]) for label in labels], np.int32)
    records = train.source_rows(np.arange(len(train)))
    values = {"task": task.name, "names": names, "rows": records, "folds": np.zeros(len(records), np.int32)}
    values |= {"labels": labels, "probabilities": probabilities}
    write_out_of_fold(finished.folder.path, OutOfFold(**(values | changes)))
