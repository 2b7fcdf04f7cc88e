"""Out-of-fold predictions are read as they were written, for every form of labels, and by any reader of Parquet."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath

from jaxbert.errors import UserError
from jaxbert.runs.out_of_fold import OutOfFold, read_out_of_fold, write_out_of_fold

ROWS, FOLDS = np.array([0, 2, 3], np.int64), np.array([1, 0, 1], np.int32)
SHARES = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)
FORMS = {
    "classification": OutOfFold("classification", ("坏", "好"), ROWS, FOLDS, np.array([1, 0, 1], np.int32), SHARES),
    "multi_label": OutOfFold("multi_label", ("a", "b"), ROWS, FOLDS, np.array([[1, 1], [0, 0], [0, 1]], bool), SHARES),
    "regression": OutOfFold(
        "regression", (), ROWS, FOLDS, np.array([0.5, 2, -1], np.float32), None, np.array([1, 2, 3], np.float32)
    ),
    "multiple_choice": OutOfFold("multiple_choice", (), ROWS, FOLDS, np.array([1, 0, 0], np.int32), SHARES),
}
WRITTEN = {
    "classification": ["好", "坏", "好"],
    "multi_label": [["a", "b"], [], ["b"]],
    "regression": [0.5, 2.0, -1.0],
    "multiple_choice": [1, 0, 0],
}


@pytest.mark.parametrize("task", FORMS)
def test_what_is_read_is_what_was_written(task, tmp_path):
    form = FORMS[task]
    write_out_of_fold(epath.Path(tmp_path), form)
    assert [path.name for path in tmp_path.iterdir()] == ["out_of_fold.parquet"]
    found = read_out_of_fold(epath.Path(tmp_path))
    assert (found.task, found.names, len(found)) == (task, form.names, 3)
    for name in ("rows", "folds", "labels", "probabilities", "scores"):
        values, expected = getattr(found, name), getattr(form, name)
        assert (values is None) == (expected is None), name
        if expected is not None:
            assert values.dtype == expected.dtype, name
            np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("task", FORMS)
def test_other_readers_see_names_and_plain_columns(task, tmp_path):
    write_out_of_fold(epath.Path(tmp_path), FORMS[task])
    table = pq.read_table(tmp_path / "out_of_fold.parquet")
    assert table.column("row").to_pylist() == [0, 2, 3]
    assert table.column("fold").to_pylist() == [1, 0, 1]
    assert table.column("label").to_pylist() == WRITTEN[task]
    assert json.loads(table.schema.metadata[b"labels"]) == list(FORMS[task].names)
    last = "score" if task == "regression" else "probabilities"
    assert table.column_names == ["row", "fold", "label", last]
    assert table.column(last).to_pylist() == ([1.0, 2.0, 3.0] if task == "regression" else SHARES.tolist())


def test_a_run_without_the_file_or_with_a_damaged_one_is_a_line(tmp_path):
    with pytest.raises(UserError, match=r"has no out_of_fold\.parquet: train it with train\.folds"):
        read_out_of_fold(epath.Path(tmp_path))
    (tmp_path / "out_of_fold.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"out_of_fold\.parquet is damaged"):
        read_out_of_fold(epath.Path(tmp_path))
