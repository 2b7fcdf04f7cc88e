"""The training examples that are nearest to a text: cosine of the pooled vectors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jax import Array

from jaxbert.data.examples import Examples
from jaxbert.data.overview import TRAIN
from jaxbert.errors import UserError
from jaxbert.tasks.base import Batch, Task
from jaxbert.tasks.pooling import pool_windows
from jaxbert.tasks.reading import TextTask
from jaxbert.train.evaluate import Predictor
from jaxbert.train.inference import Finished, TrainedModel
from jaxbert.understand.records import Record, read_records
from jaxbert.understand.reopen import reopen

_DIGITS = 6


class _Vectors(Task):
    """Predicts nothing: its predictions are the pooled vectors."""

    name = "vectors"

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the pooled vectors, [B, S, D]."""
        return outputs["pooled"].astype("float32")


@dataclass
class TrainingExamples:
    """The training examples of a run with their vectors, of length 1, float32 [N, D]."""

    finished: Finished
    predictor: Predictor
    vectors: np.ndarray = field(init=False)

    @classmethod
    def of(cls, run: str | os.PathLike[str], model: TrainedModel) -> TrainingExamples:
        """Read the training data of a run again, and compute their vectors with its model.

        Raises:
          UserError: if the folder is not a complete run, its data are gone, or its texts have no pooled vectors.
        """
        if not isinstance(model.task, TextTask):
            raise UserError("neighbours are found for texts with labels or scores only: leave the option out")
        known = model.predictor
        predictor = Predictor(known.model, _Vectors(), known.mesh, known.call, known.batch_size)
        return cls(reopen(run), predictor)

    def __post_init__(self) -> None:
        self.vectors = self._vectors_of(self.finished.inputs.train)

    def _vectors_of(self, examples: Examples) -> np.ndarray:
        rows = self.predictor(self.finished.model.params, Examples(examples.tokens))
        rows = pool_windows(rows, examples, "mean")
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def nearest(self, examples: Examples, count: int) -> list[list[dict[str, Any]]]:
        """Return for each example the `count` nearest training examples, the nearest first.

        Each has `row` (its number in the source), `text`, for pairs `text_pair`, `label` and `similarity`, the cosine.
        """
        count = min(count, len(self.vectors))
        similar = self._vectors_of(examples) @ self.vectors.T
        chosen = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similar, chosen, axis=1), axis=1, kind="stable")
        chosen = np.take_along_axis(chosen, order, axis=1)
        return [
            [self._entry(int(index), float(similar[example, index])) for index in own]
            for example, own in enumerate(chosen)
        ]

    @cached_property
    def _records(self) -> list[Record]:
        """The training texts; they take less memory than their vectors."""
        train, task = self.finished.inputs.train, self.finished.model.task
        assert isinstance(task, TextTask)
        return read_records(self.finished.config, task, TRAIN, train, np.arange(len(train)))

    def _entry(self, index: int, similarity: float) -> dict[str, Any]:
        """Return what is told of a training example."""
        record, task = self._records[index], self.finished.model.task
        pair = {} if record.pair is None else {"text_pair": record.pair}
        return {
            "row": record.row if isinstance(record.row, int) else str(record.row),
            "text": record.text,
            **pair,
            "label": _label(task, self.finished.inputs.train, index),
            "similarity": round(similarity, _DIGITS),
        }


def _label(task: Task, examples: Examples, index: int) -> Any:
    """Return the label of a training example: a name, a list of names, or a score."""
    assert examples.labels is not None
    label = examples.labels[index]
    if not task.output_names:
        return round(float(label), _DIGITS)
    if label.ndim:
        return [task.output_names[number] for number in np.flatnonzero(label)]
    return task.output_names[int(label)]
