"""The out-of-fold predictions of a run with folds: for each training row, those of the model that did not see the row.

They are one Parquet file of the run folder, which other programs read too; `understand.folds` makes it. The metadata of its
schema hold the name of the task (`task`) and the names of the labels (`labels`) as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from jaxbert.bucket import fetched, staged
from jaxbert.errors import UserError, foreign_errors

FILE = "out_of_fold.parquet"
"""The name of the file in the run folder."""
_PROBABILITIES, _SCORE = "probabilities", "score"


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The predictions for N training rows, in the order of `data.train`; each by the fold that did not train on the row."""

    task: str
    """The name of the task."""
    names: tuple[str, ...]
    """The names of the C labels; empty for regression and multiple choice."""
    rows: np.ndarray
    """int64 [N]: the record of `data.train`, counted from 0, of which each line is; rising."""
    folds: np.ndarray
    """int32 [N]: the fold whose model has predicted the row, from 0."""
    labels: np.ndarray
    """The given labels. classification: indices into `names`, int32 [N]; multi_label: bool [N, C]; regression: scores,
    float32 [N]; multiple_choice: places of the right choices from 0, int32 [N]."""
    probabilities: np.ndarray | None
    """float32 [N, C]; for choices that differ in number, the columns after the last one are 0. None for regression."""
    scores: np.ndarray | None = None
    """The predicted scores of a regression, float32 [N], else None."""

    def __len__(self) -> int:
        return len(self.rows)

    def written_labels(self) -> list[Any]:
        """Return the labels as the file has them: a name, the names of several labels, a number or the place of a choice."""
        if self.labels.ndim == 2:
            return [[self.names[label] for label in np.flatnonzero(row)] for row in self.labels]
        if self.names:
            return [self.names[label] for label in self.labels]
        return self.labels.tolist()


def write_out_of_fold(folder: epath.Path, found: OutOfFold) -> None:
    """Write the file of a run folder, completely or not at all."""
    columns = {
        "row": pa.array(found.rows, pa.int64()),
        "fold": pa.array(found.folds, pa.int32()),
        "label": pa.array(found.written_labels(), _label_type(found.labels, found.names)),
    }
    if found.probabilities is not None:
        columns[_PROBABILITIES] = pa.array(list(found.probabilities.astype(np.float32)), pa.list_(pa.float32()))
    if found.scores is not None:
        columns[_SCORE] = pa.array(found.scores, pa.float32())
    table = pa.table(columns).replace_schema_metadata(
        {"task": json.dumps(found.task), "labels": json.dumps(found.names, ensure_ascii=False)}
    )
    with staged(folder) as local:
        unfinished = local / f"{FILE}.tmp"
        pq.write_table(table, unfinished)
        unfinished.replace(local / FILE)


def _label_type(labels: np.ndarray, names: tuple[str, ...]) -> pa.DataType:
    """Return the type of the column of labels."""
    if labels.ndim == 2:
        return pa.list_(pa.string())
    return pa.string() if names else pa.from_numpy_dtype(labels.dtype)


def read_out_of_fold(folder: epath.Path) -> OutOfFold:
    """Read the file of a run folder.

    Raises:
      UserError: if the run has none, or it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"{folder} has no {FILE}: train it with train.folds, for instance --train.folds 5")
    with foreign_errors(f"{path} is damaged: remove {folder} and train again"):
        table = pq.read_table(fetched(path))
        metadata = table.schema.metadata
        task, names = (json.loads(metadata[key]) for key in (b"task", b"labels"))
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        written = columns["label"]
        probabilities = columns.get(_PROBABILITIES)
        scores = columns.get(_SCORE)
        return OutOfFold(
            task=task,
            names=tuple(names),
            rows=columns["row"].to_numpy(),
            folds=columns["fold"].to_numpy(),
            labels=_labels(written, names),
            probabilities=None
            if probabilities is None
            else probabilities.flatten().to_numpy().reshape(len(written), -1),
            scores=None if scores is None else scores.to_numpy(),
        )


def _labels(written: pa.Array, names: list[str]) -> np.ndarray:
    """Return labels as numbers again."""
    place = {name: index for index, name in enumerate(names)}
    if pa.types.is_list(written.type):
        given = np.zeros((len(written), len(names)), bool)
        for row, found in enumerate(written.to_pylist()):
            given[row, [place[name] for name in found]] = True
        return given
    if names:
        return np.array([place[name] for name in written.to_pylist()], np.int32)
    return written.to_numpy()
