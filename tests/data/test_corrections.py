"""A person's corrections of labels are obeyed, or refused with the line and what to do."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from runs import VOCAB, make_config, write_csv
from transformers import BertTokenizer

from jaxbert.data.corrections import read_corrections, text_mark
from jaxbert.data.tokens import hash_texts
from jaxbert.errors import UserError
from jaxbert.tasks import task_class
from jaxbert.tasks.base import Inputs

ROWS = [("w1 good", "good"), ("w2 bad", "bad"), ("w3 fine", "bad"), ("w4 awful", "bad"), ("w5 w6", "good")]
HEADER = ("action", "row", "label", "given", "text_hash")


def line(action: str, record: int, label: str = "", given: str | None = None, rows=ROWS) -> tuple[str, ...]:
    """Return a line about a row of the csv file, whose header is row 1."""
    text, now = rows[record][:2]
    return action, str(record + 2), label, now if given is None else given, text_mark(hash_texts([text])[0])


def read(
    folder: Path, lines: list[tuple[str, ...]], rows=ROWS, task: str = "classification", header=HEADER, **data
) -> Inputs:
    """Read training rows with corrections."""
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    train = write_csv(folder / "train.csv", rows)
    fixes = write_csv(folder / "fixes.csv", lines, header)
    data = {"train": str(train), "corrections": str(fixes), "cache_dir": str(folder / "cache")} | data
    config = make_config(task, **{f"data__{key}": value for key, value in data.items()})
    return task_class(task).read(config, BertTokenizer(vocab=str(folder / "vocab.txt")), 48)


def names(inputs: Inputs) -> list[str]:
    return [inputs.task.output_names[label] for label in inputs.train.labels]


def test_rows_are_relabelled_and_dropped(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "jaxbert"):
        inputs = read(tmp_path, [line("Relabel", 2, "good"), line("drop", 4), line("keep", 0, "bad")])
    assert names(inputs) == ["good", "bad", "good", "bad"]
    assert inputs.train.rows.tolist() == [0, 1, 2, 3]
    assert inputs.overview.train.to_dict(5)["labels"] == {"bad": 2, "good": 2}
    assert "data.corrections, train: 1 rows have another label, 1 are left out, 1 are kept as they are" in caplog.text


def test_the_cache_keeps_the_labels_as_written(tmp_path):
    assert names(read(tmp_path, [line("relabel", 2, "good")])) == ["good", "bad", "good", "bad", "good"]
    entries = sorted((tmp_path / "cache").iterdir())
    assert names(read(tmp_path, [], corrections=None)) == [label for _, label in ROWS]
    assert names(read(tmp_path, [line("relabel", 0, "bad")])) == ["bad", "bad", "bad", "bad", "good"]
    assert sorted((tmp_path / "cache").iterdir()) == entries


def test_files_are_applied_one_after_another(tmp_path):
    second = write_csv(tmp_path / "second.csv", [line("relabel", 2, "bad", "good"), line("drop", 3)], HEADER)
    files = [str(tmp_path / "fixes.csv"), str(second)]
    inputs = read(tmp_path, [line("relabel", 2, "good"), line("relabel", 0, "bad")], corrections=files)
    assert names(inputs) == ["bad", "bad", "bad", "good"]
    write_csv(second, [line("keep", 1), line("keep", 3)], HEADER)
    with pytest.raises(UserError, match="train has no row 5 any more, because an earlier file drops it"):
        read(tmp_path, [line("drop", 3)], corrections=files)


def test_the_split_of_a_validation_set_does_not_change(tmp_path):
    rows = [(f"w{i} w{i + 1}", "good" if i % 2 else "bad") for i in range(20)]
    before = read(tmp_path, [], rows, corrections=None, validation_fraction=0.25).validation["validation"]
    changed = int(before.rows[1])
    other = "bad" if changed % 2 else "good"
    fixes = [line("relabel", changed, other, rows=rows), line("drop", int(before.rows[0]), rows=rows)]
    after = read(tmp_path, fixes, rows, validation_fraction=0.25).validation["validation"]
    assert after.rows.tolist() == before.rows[1:].tolist()
    assert after.labels[0] == 1 - before.labels[1]
    np.testing.assert_array_equal(after.labels[1:], before.labels[2:])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [("relabl", "2", "good", "good", "t0")],
            "row 2: the action is 'relabl', but it must be keep, relabel or drop; did you",
        ),
        ([("drop", "99", "", "good", "t0")], "train has no row 99: the corrections are of other data"),
        ([("drop", "2", "", "good", "t0000000000000000")], "row 2 of train has another text than the corrected one"),
        (
            [line("relabel", 1, "so-so")],
            "row 2: label 'so-so' is unknown; the labels known from training are 'bad', 'good'",
        ),
        ([line("relabel", 1, "")], "row 2: column 'label' is empty"),
        ([line("keep", 1), line("drop", 1)], "row 3: row 3 of train is corrected twice (first in"),
        ([line("drop", 1, given="good")], "row 3 of train does not have the label 'good' any more"),
        ([line("drop", record) for record in range(5)], "data.corrections drops all rows of a set"),
    ],
    ids=["action", "row", "text", "label", "empty", "twice", "given", "all"],
)
def test_what_does_not_match_is_refused(tmp_path, lines, said):
    with pytest.raises(UserError) as caught:
        read(tmp_path, lines)
    assert said in str(caught.value)
    assert "fixes.csv" in str(caught.value) or "all rows" in said


def test_files_that_hold_no_corrections(tmp_path):
    for header, row, said in (
        (("text", "label"), ROWS[0], "no column 'row' (data.corrections)"),
        (("row", "label"), ("2", "bad"), "no column 'action', so it holds no corrections: `jaxbert audit"),
    ):
        path = write_csv(tmp_path / "fixes.csv", [row], header)
        with pytest.raises(UserError) as caught:
            read_corrections(str(path))
        assert said in str(caught.value)
    with pytest.raises(UserError, match=r"must be a \.csv file"):
        read_corrections("suspects.jsonl")
    assert read_corrections([]) == []


def test_a_set_that_the_run_lacks(tmp_path):
    with pytest.raises(UserError, match="corrects a row of 'validation', but the run has the sets 'train'"):
        read(tmp_path, [(*line("drop", 1), "validation")], header=(*HEADER, "set"))


def test_several_labels_and_scores(tmp_path):
    rows = [("w1", "joy"), ("w2", "love"), ("w3", "joy,love")]
    fixes = [
        line("relabel", 0, '["joy", "love"]', rows=rows),
        line("relabel", 1, "", rows=rows),
        line("drop", 2, rows=rows),
    ]
    assert read(tmp_path, fixes, rows, "multi_label").train.labels.tolist() == [[True, True], [False, False]]
    rows = [("w1", "0.5"), ("w2", "2"), ("w3", "3")]
    inputs = read(tmp_path, [line("relabel", 1, "1.25", rows=rows), line("keep", 0, rows=rows)], rows, "regression")
    assert inputs.train.labels.tolist() == [0.5, 1.25, 3]


def test_marks_in_columns_are_corrected_by_name(tmp_path):
    rows = [("w1", "1", "0"), ("w2", "0", "1"), ("w3", "1", "1")]
    (tmp_path / "marks").mkdir()
    path = write_csv(tmp_path / "marks" / "train.csv", rows, ("text", "joy", "love"))
    fixes = [line("relabel", 0, "love", "joy", rows), line("relabel", 1, "", "love", rows)]
    found = read(tmp_path, fixes, train=str(path), label=["joy", "love"], task="multi_label")
    assert found.train.labels.tolist() == [[False, True], [False, False], [True, True]]


def test_numbers_are_corrected_as_they_are_written(tmp_path):
    rows = [("w1", "0"), ("w2", "1"), ("w3", "1")]
    fixes = [line("relabel", 1, "0", "LABEL_1", rows), line("relabel", 0, "LABEL_1", "0", rows)]
    assert read(tmp_path, fixes, rows).train.labels.tolist() == [1, 0, 1]
    stars = [("w1", "5"), ("w2", "3"), ("w3", "5")]
    assert names(read(tmp_path, [line("relabel", 1, "5", rows=stars)], stars)) == ["5", "5", "5"]
