"""Lists of labels and scores, from fields of all kinds to arrays."""

from __future__ import annotations

import numpy as np
import pytest

from jaxbert.config import DataConfig
from jaxbert.data.label_column import Labels
from jaxbert.data.label_kinds import encode_lists, fit_label_lists, make_label_column, scores_of
from jaxbert.data.labels import LabelSet, encode
from jaxbert.data.table import Table, Wanted
from jaxbert.errors import UserError


def read(values, kind: str, labelled: bool | None = True, **data) -> Labels | None:
    wanted = Wanted.of(DataConfig(**data), labelled, kind)
    column = make_label_column(wanted, "rows.csv")
    half = len(values) // 2
    codes = []
    for part, first in ((values[:half], 2), (values[half:], 2 + half)):
        rows = range(first, first + len(part))
        codes.append(column.add(Table([""] * len(part), None, part, None, "rows.csv", rows)))
    legend = column.finish()
    return None if legend is None else Labels(np.concatenate(codes), legend, "rows.csv")


LISTS = {
    "texts": ["joy, love", "", "love", "anger"],
    "lists": [["joy", "love"], [], ["love"], ["anger"]],
    "another order and twice": ["love,joy,love", None, "love", ["anger"]],
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_names(name):
    labels = read(LISTS[name], "list")
    space = fit_label_lists(labels, DataConfig(), None)
    assert space.names == ("anger", "joy", "love")
    expected = [[False, True, True], [False, False, False], [False, False, True], [True, False, False]]
    np.testing.assert_array_equal(encode_lists(labels, space), expected)


@pytest.mark.parametrize(
    "values", [["4,27", "0", "", "27"], [[4, 27], [0], [], [27]], [np.array([4, 27]), 0, None, "27"]]
)
def test_lists_of_numbers(values):
    labels = read(values, "list")
    found = encode_lists(labels, fit_label_lists(labels, DataConfig(), 28))
    assert [np.flatnonzero(row).tolist() for row in found] == [[4, 27], [0], [], [27]]


def test_another_separator():
    labels = read(["a, b;c", "c"], "list", label_separator=";")
    assert fit_label_lists(labels, DataConfig(), None).names == ("a, b", "c")


def test_what_is_no_list_of_labels_is_refused():
    with pytest.raises(UserError, match=r"rows.csv, row 3: column 'label' holds a fraction \(0.5\) among its labels"):
        read(["a", [0.5]], "list")
    with pytest.raises(UserError, match="no example has a label"):
        fit_label_lists(read(["", ""], "list"), DataConfig(), None)
    labels = read(["a", "a, d"], "list")
    with pytest.raises(UserError, match="row 3: label 'd' is unknown"):
        encode_lists(labels, LabelSet(("a", "b")))
    assert read(["a", "b"], "list", labelled=False) is None


def test_scores():
    labels = read(["1", 2.5, 3, np.float64(4.25)], "number")
    assert scores_of(labels).tolist() == [1.0, 2.5, 3.0, 4.25]
    assert scores_of(labels).dtype == np.float32


@pytest.mark.parametrize("value", ["high", float("nan"), "inf", [1], True, "1e99"])
def test_what_is_no_score_is_refused(value):
    with pytest.raises(UserError, match=r"rows.csv, row 4: column 'label' holds .*, but a score is a finite number"):
        read([1.0, 2.0, value], "number")


def test_a_score_that_is_missing():
    with pytest.raises(UserError, match="row 3: column 'label' is empty"):
        read([1.0, " "], "number")
    assert read([1.0, None], "number", labelled=None) is None


@pytest.mark.parametrize(("kind", "value"), [("name", []), ("list", [[0.5]]), ("number", ["soon"])])
@pytest.mark.parametrize("source", ["shards", "shards/*.csv", "shards/**/*.csv"])
def test_a_row_in_one_of_several_files(source, kind, value):
    column = make_label_column(Wanted.of(DataConfig(), True, kind), source)
    column.add(Table(["a"], None, ["1"], None, "shards/a.csv", [2], file="a.csv"))
    with pytest.raises(UserError, match=r"^shards/b.csv, row 2: column 'label'"):
        column.add(Table(["b"], None, [value[0] if value else None], None, "shards/b.csv", [2], file="b.csv"))


def test_a_label_that_is_unknown_in_one_of_several_files():
    column = make_label_column(Wanted.of(DataConfig(), True), "shards")
    codes = [
        column.add(Table(["a", "b"], None, ["x", label], None, f"shards/{file}", [2, 3], file=file))
        for label, file in (("x", "a.csv"), ("y", "b.csv"))
    ]
    with pytest.raises(UserError, match=r"^shards/b.csv, row 3: label 'y' is unknown"):
        encode(Labels(np.concatenate(codes), column.finish(), "shards"), LabelSet(("x", "z")))
