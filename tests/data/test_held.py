"""Rows in memory are read as those of a file are: the same tables, the same messages."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest

from jaxbert.api.rows import name_sources
from jaxbert.config import DataConfig
from jaxbert.data.memory import find_held, hold
from jaxbert.data.records import open_records
from jaxbert.data.sources import check_source, open_source
from jaxbert.data.table import Facts
from jaxbert.errors import UserError

ROWS = [{"text": "fine film", "label": "good", "n": 1}, {"text": "poor film", "label": "bad", "n": 2}]
DATA = DataConfig()


def frame(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def polars(rows):
    return pytest.importorskip("polars").DataFrame(rows)


def dataset(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


KINDS = {"list": list, "pandas": frame, "polars": polars, "dataset": dataset}


def read(spec, role="train", labelled=True, **keys):
    (table,) = open_source(spec, DataConfig(**keys), role=role, labelled=labelled, kept=("n",)).parts()
    return table.texts, list(table.labels or ()), list(table.rows), table.kept_rows()


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_that_of_a_file(kind, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with hold(KINDS[kind](ROWS), "train") as spec:
        assert spec == "memory:train"
        check_source(spec)
        assert read(spec) == read(str(path))


@pytest.mark.parametrize("kind", ["list", "pandas"])
def test_records_are_those_of_a_file(kind, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"tokens": ["fine", "film"], "tags": [0, 1]}, {"tokens": ["poor"], "tags": [1]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with hold(KINDS[kind](rows), "train") as spec:
        found = [record for _, _, record in open_records(spec, "train", DATA).begin(Facts())]
    assert found == [record for _, _, record in open_records(str(path), "train", DATA).begin(Facts())]


@pytest.mark.parametrize(
    ("kind", "missing"), [("list", None), ("list", float("nan")), ("pandas", None), ("pandas", "NA"), ("dataset", None)]
)
def test_a_missing_label_is_refused_with_its_row(kind, missing):
    if missing == "NA":
        missing = pytest.importorskip("pandas").NA
    rows = [*ROWS, {"text": "no label", "label": missing, "n": 3}]
    with (
        hold(KINDS[kind](rows), "train") as spec,
        pytest.raises(UserError, match=r"^train \(.+\), row 3: column 'label' is empty"),
    ):
        read(spec)


def test_names_of_classes_are_kept():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    with hold(rows.with_format("numpy"), "train") as spec:
        (table,) = open_source(spec, DATA, role="train", labelled=True).parts()
        assert (table.labels, table.label_names) == ([1, 0], ["bad", "good"])
        assert open_records(spec, "train", DATA).label_names("label") == ["bad", "good"]


def test_what_is_missing_in_a_frame_is_none():
    """Whatever pandas has for it, in every column."""
    rows = frame([{"text": "a", "n": 1.5, "tokens": ["a"]}, {"text": None, "n": float("nan"), "tokens": None}])
    with hold(rows, "train") as spec:
        _, (_, _, record) = open_records(spec, "train", DATA).begin(Facts())
    assert record == {"text": None, "n": None, "tokens": None}


def test_numbers_of_numpy_are_python_s():
    rows = [
        {"text": "a", "label": np.int64(1), "n": np.array([1, 2])},
        {"text": "b", "label": np.int64(0), "n": (3, 4)},
    ]
    with hold(rows, "train") as spec:
        _, labels, _, kept = read(spec)
    assert [type(label) for label in labels] == [int, int]
    assert kept == [{"n": [1, 2]}, {"n": [3, 4]}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "good")], r'train, row 1: is a tuple \(.*\), but each row must name its columns: \[\{"text": "A fine'),
        ([ROWS[0], "b"], r"train, row 2: is text \('b'\)"),
        ({"text": ["a"]}, r"train: is an object \(.*\), but it must be a path, a list of rows"),
        (7, r"train: is a number \(7\)"),
        ((row for row in ROWS), "train: is a value of type generator"),
    ],
)
def test_what_is_no_rows_is_refused_with_the_form(rows, message):
    with pytest.raises(UserError, match=f"^{message}"), hold(rows, "train"):
        pass


def test_several_splits_are_refused():
    datasets = pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r'give one of its splits, dataset\["train"\]'):
        hold(datasets.DatasetDict({"train": dataset(ROWS)}), "train").__enter__()


def test_no_rows_and_no_column():
    with hold([], "train") as spec, pytest.raises(UserError, match=r"^train \(list of rows\): no rows"):
        read(spec)
    for kind in ("list", "pandas"):
        with (
            hold(KINDS[kind]([{"texts": "a"}]), "train") as spec,
            pytest.raises(UserError, match=r"did you mean 'texts'"),
        ):
            read(spec)


def test_a_name_is_free_again():
    with hold(ROWS, "train") as first, hold(ROWS, "train") as second:
        assert (first, second) == ("memory:train", "memory:train-2")
    with pytest.raises(UserError, match="memory of a Python program, which are not here"):
        find_held(first)


def test_only_sets_to_evaluate_on_have_names():
    """A dictionary of training rows is no list of sets: it is refused with its own name, and not as a key's value."""
    datasets = pytest.importorskip("datasets")
    with ExitStack() as stack:
        assert name_sources(stack, {"en": ROWS}, "validation") == {"en": "memory:validation.en"}
        with pytest.raises(
            UserError, match=r'train: is a datasets.DatasetDict: give one of its splits, dataset\["train"\]'
        ):
            name_sources(stack, datasets.DatasetDict({"train": dataset(ROWS)}), "train")
        with pytest.raises(UserError, match=r"train: is an object \(.*\), but it must be a path, a list of rows"):
            name_sources(stack, {"text": ["a"], "label": ["good"]}, "train")
