"""Lists of labels and scores, from fields of all kinds to arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxbert.config import DataConfig
from jaxbert.data.label_column import LabelRules, Labels, scores_of
from jaxbert.data.label_lists import encode_lists, fit_label_lists
from jaxbert.data.labels import Head, LabelSet, encode, meaning_of
from jaxbert.data.store import make_label_column
from jaxbert.data.table import Facts, Table, Wanted
from jaxbert.errors import UserError


def read(values, kind: str, labelled: bool | None = True, names=None, **data) -> Labels | None:
    wanted = Wanted.of(DataConfig(**data), labelled, kind)
    column = make_label_column(wanted, "rows.csv")
    half = len(values) // 2
    codes = []
    for part, first in ((values[:half], 2), (values[half:], 2 + half)):
        rows = range(first, first + len(part))
        codes.append(column.add(Table([""] * len(part), None, part, names, "rows.csv", rows)))
    vocabulary = column.finish()
    return None if vocabulary is None else Labels(np.concatenate(codes), vocabulary, "rows.csv")


LISTS = {
    "texts": ["joy, love", "", "love", "anger"],
    "lists": [["joy", "love"], [], ["love"], ["anger"]],
    "another order": ["love,joy", None, "love", ["anger"]],
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_names(name):
    labels = read(LISTS[name], "list")
    space = fit_label_lists(labels, LabelRules(), None)
    assert space.names == ("anger", "joy", "love")
    expected = [[False, True, True], [False, False, False], [False, False, True], [True, False, False]]
    np.testing.assert_array_equal(encode_lists(labels, space), expected)


@pytest.mark.parametrize(
    "values", [["4,27", "0", "", "27"], [[4, 27], [0], [], [27]], [np.array([4, 27]), 0, None, "27"]]
)
def test_lists_of_numbers(values):
    labels = read(values, "list")
    found = encode_lists(labels, fit_label_lists(labels, LabelRules(), 28))
    assert [np.flatnonzero(row).tolist() for row in found] == [[4, 27], [0], [], [27]]


def test_another_separator():
    labels = read(["a, b;c", "c"], "list", label_separator=";")
    assert fit_label_lists(labels, LabelRules(), None).names == ("a, b", "c")


def test_what_is_no_list_of_labels_is_refused():
    with pytest.raises(UserError, match=r"rows.csv, row 3: column 'label' holds a fraction \(0.5\) among its labels"):
        read(["a", [0.5]], "list")
    with pytest.raises(UserError, match="no example has a label"):
        fit_label_lists(read(["", ""], "list"), LabelRules(), None)
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
def test_a_row_in_one_of_several_files(kind, value):
    column, facts = make_label_column(Wanted.of(DataConfig(), True, kind), "shards"), Facts(files=["a.csv", "b.csv"])
    column.add(Table(["a"], None, ["1"], None, "shards/a.csv", [2], facts))
    with pytest.raises(UserError, match=r"^shards/b.csv, row 2: column 'label'"):
        column.add(Table(["b"], None, [value[0] if value else None], None, "shards/b.csv", [2], facts))


def test_a_label_that_is_unknown_in_one_of_several_files():
    column, facts = make_label_column(Wanted.of(DataConfig(), True), "shards"), Facts(files=["a.csv", "b.csv"])
    codes = [
        column.add(Table(["a", "b"], None, ["x", label], None, f"shards/{file}", [2, 3], facts))
        for label, file in (("x", "a.csv"), ("y", "b.csv"))
    ]
    with pytest.raises(UserError, match=r"^shards/b.csv, row 3: label 'y' is unknown"):
        encode(Labels(np.concatenate(codes), column.finish(), "shards"), LabelSet(("x", "z")))


def lists(values, *, rules=LabelRules(), num_labels=None, known=None, **data):  # noqa: B008 (frozen)
    """Return the names of the labels, and those of each text."""
    labels = read(values, "list", **data)
    space = known or fit_label_lists(labels, rules, num_labels)
    found = encode_lists(labels, space, rules)
    assert (found.dtype, found.shape) == (bool, (len(values), len(space)))
    return space.names, [[space.names[i] for i in np.flatnonzero(row)] for row in found]


FOUR = tuple(f"LABEL_{i}" for i in range(4))
HOT = [[0, 3], [], [1], [0, 1, 2, 3]]
WRITTEN = {
    "numbers": lambda marks: marks,
    "fractions": lambda marks: [float(mark) for mark in marks],
    "booleans": lambda marks: [mark == 1 for mark in marks],
    "arrays": lambda marks: np.array(marks),
    "a text with separators": lambda marks: ",".join(map(str, marks)),
    "a text with blanks": lambda marks: " , ".join(map(str, marks)),
    "a text of fractions": lambda marks: ",".join(str(float(mark)) for mark in marks),
    "Python": str,
    "Python's booleans": lambda marks: str([mark == 1 for mark in marks]),
    "JSON": lambda marks: json.dumps([mark == 1 for mark in marks]),
    "NumPy": lambda marks: str(np.array(marks)),
    "NumPy's fractions": lambda marks: str(np.array(marks, float)),
    "NumPy's booleans": lambda marks: str(np.array(marks) == 1),
    "NumPy's own numbers": lambda marks: repr([np.int64(mark) for mark in marks]),
    "an array": lambda marks: repr(np.array(marks)),
    "texts": lambda marks: [str(mark) for mark in marks],
}


@pytest.mark.parametrize("way", WRITTEN)
def test_multi_hot(way):
    values = [WRITTEN[way]([int(i in places) for i in range(4)]) for places in HOT]
    expected = [[FOUR[i] for i in places] for places in HOT]
    assert lists(values) == (FOUR, expected)
    assert lists(values, rules=LabelRules(["d", "c", "b", "a"]))[1][0] == ["d", "a"]
    assert lists(values, known=LabelSet(FOUR, "position"))[1] == expected
    assert lists(values, known=LabelSet(("d", "c", "b", "a")))[1][0] == ["d", "a"]


NAMED = {
    "Python": ["['joy', 'it\\'s']", "[]", "['love']"],
    "JSON": ['["joy", "it\'s"]', "[]", '["love"]'],
    "NumPy": ["['joy' \"it's\"]", "[]", "['love']"],
    "NumPy over two lines": ["['joy'\n \"it's\"]", "[]", "['love']"],
    "an array": ["array(['joy', \"it's\"], dtype=object)", "array([], dtype=object)", "array(['love'], dtype=object)"],
    "NumPy's texts": ["[np.str_('joy'), np.str_(\"it's\")]", "[]", "[np.str_('love')]"],
    "tuples": ["('joy', \"it's\")", "()", "('love',)"],
    "sets": ["{'joy', \"it's\"}", "set()", "{'love'}"],
    "nothing is nan": ["['joy', \"it's\"]", "nan", "['love']"],
    "nothing is None": ["['joy', \"it's\"]", "None", "['love']"],
    "nothing is a null": [["joy", "it's"], None, ["love"]],
    "without quotes": ["[joy, it's]", "[]", "[love]"],
    "Postgres": ["{joy,it's}", "{}", "{love}"],
    "blanks": [" joy , it's,", "  ", "love "],
}


@pytest.mark.parametrize("way", NAMED)
def test_names_in_lists_that_are_written_out(way):
    assert lists(NAMED[way]) == (("it's", "joy", "love"), [["it's", "joy"], [], ["love"]])


@pytest.mark.parametrize(
    "values", [["[4, 27]", "[0]", "[]"], ["[ 4 27]", "[0]", "[]"], [[4.0, 27.0], [0.0], []], ["4,27", "0", ""]]
)
def test_indices_in_lists_that_are_written_out(values):
    assert lists(values, num_labels=28)[1] == [["LABEL_4", "LABEL_27"], ["LABEL_0"], []]


def test_varying_lengths_and_larger_numbers_are_indices():
    assert lists([[0], [0, 1], [1]])[1] == [["LABEL_0"], ["LABEL_0", "LABEL_1"], ["LABEL_1"]]
    assert lists([[0, 1], [1, 2], [0, 2]])[1][1] == ["LABEL_1", "LABEL_2"]
    assert lists([[1, 2], [3, 5]])[0] == ("1", "2", "3", "5")
    assert lists([[1, 2], [3, 5]], rules=LabelRules(format="indices"))[0] == tuple(f"LABEL_{i}" for i in range(6))


def test_pairs_of_0_and_1_have_two_readings(caplog):
    pairs = [[0, 1], [1, 0], [0, 1]]
    with pytest.raises(UserError, match=r"row 2: \[0, 1\] can be two indices, .* set data.label_format to indices or"):
        lists(pairs)
    two = ("LABEL_0", "LABEL_1")
    assert lists(pairs, rules=LabelRules(format="multi_hot")) == (two, [["LABEL_1"], ["LABEL_0"], ["LABEL_1"]])
    assert lists(pairs, rules=LabelRules(format="indices"))[1] == [list(two)] * 3
    assert not caplog.records
    assert lists(pairs, num_labels=2)[1][0] == ["LABEL_1"]
    assert lists(pairs, rules=LabelRules(["a", "b"]))[1][1] == ["a"]
    assert "lists such as [0, 1] are taken as multi-hot, because there are 2 labels" in caplog.records[0].getMessage()
    # As fractions, or with a label that would stand twice, they have one.
    assert lists([[0.0, 1.0], [1.0, 0.0]])[1] == [["LABEL_1"], ["LABEL_0"]]
    assert lists([*pairs, [0, 0]])[1] == [["LABEL_1"], ["LABEL_0"], ["LABEL_1"], []]
    # Training has decided.
    assert lists(pairs, known=LabelSet(("a", "b"), "position"))[1][0] == ["b"]
    assert lists(pairs, known=LabelSet(("a", "b"), "index"))[1][0] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            [[1, 0, 0], [0, 1, 0], [1, 0]],
            "row 4: a list of 2 values, but a multi-hot list has one for each of 3 labels",
        ),
        ([[1, 0, 0], [0, 1, 0], []], "row 4: a list of 0 values"),
        ([[1, 0, 0], [0, 1, 0], [0, 2, 0]], "row 4: a multi-hot list holds 2, but each of its values is 0 or 1"),
        ([[1, 0, 0], [0, 1, 0], ["a"]], "row 4: a multi-hot list holds 'a'"),
        ([[4, 27], [3], [0], [0, 0]], "row 5: label 0 stands twice in one list: remove one; multi-hot lists need"),
        ([[4, 27], [3, 3]], "row 3: label 3 stands twice"),
        (["joy,love,joy"], "row 2: label 'joy' stands twice in one list: remove one"),
        ([["3", 3], [2]], "row 2: label 3 stands twice"),
        (
            [[0.3, 0.7], [1.0, 0.0]],
            "shares of labels (soft labels) are not supported",
        ),
        (["[0.3, 0.7]"], "row 2: column 'label' holds a fraction (0.3) among its labels"),
        (["a", [True, 1]], "row 3: column 'label' holds true or false (True) among its labels"),
        ([["a"], True], "row 3: column 'label' holds true or false (True) among its labels"),
        ([["a"], [""]], "row 3: column 'label' holds an empty text ('') among its labels"),
        ([["a"], {"a": 1}], "row 3: column 'label' holds an object"),
        (["a,b", "[a, b"], "row 3: '[a, b' cannot be read as a list: write it as JSON"),
        (["[0 0 ... 0]", "[0 1 ... 0]"], "row 2: '[0 0 ... 0]' cannot be read as a list"),
        (["['a']", "[b]"], "row 3: '[b]' cannot be read as a list"),
        (["a;b", "a"], "row 2: 'a;b' holds ';': if it separates labels, set data.label_separator"),
        (["a|b", "a"], "row 2: 'a|b' holds '|'"),
        (["好、坏", "好"], "row 2: '好、坏' holds '、'"),
        (["4 27", "3"], "row 2: '4 27' holds ' '"),
        (["0101", "1010"], "row 2: label '0101' looks like 0 and 1 for several labels"),
        (["1,2", "3,n/a"], "row 3: label 'n/a' is no whole number"),
        (["a,b", "b,A"], "row 3: label 'A' differs only in its spelling from 'a'"),
    ],
)
def test_lists_that_are_wrong_or_have_two_readings(values, expected):
    with pytest.raises(UserError) as caught:
        lists(values)
    assert expected in str(caught.value)


def test_a_name_may_look_like_anything_where_it_is_said():
    rules = LabelRules(format="names")
    assert lists(["a;b,[c]", "4 27"], rules=rules) == (("4 27", "[c]", "a;b"), [["[c]", "a;b"], ["4 27"]])
    assert lists([[1, 2], ["1"]], rules=rules) == (("1", "2"), [["1", "2"], ["1"]])


def test_training_decides_for_every_later_file():
    names, position, index = (
        LabelSet(("a", "b"), "name"),
        LabelSet(("a", "b", "c"), "position"),
        LabelSet(FOUR, "index"),
    )
    assert lists(["a", "b,a"], known=position)[1] == [["a"], ["a", "b"]]
    assert lists([[1, 0, 0], [1, 0, 0]], known=position)[1] == [["a"], ["a"]]
    assert lists([[3], [0, 3]], known=index)[1] == [["LABEL_3"], ["LABEL_0", "LABEL_3"]]
    assert lists([[1, 0, 0, 1]], known=index, rules=LabelRules(format="multi_hot"))[1] == [["LABEL_0", "LABEL_3"]]
    for known, values, expected in (
        (names, [[0, 1], [1]], "row 2: label 0 is unknown"),
        (index, [[1, 0, 0, 1]], "label 0 stands twice in one list"),
        (position, [[0], [2]], "row 2: a list of 1 values"),
        (position, [[1, 0, 0, 1]], "row 2: a list of 4 values, but a multi-hot list has one for each of 3 labels"),
    ):
        with pytest.raises(UserError, match=expected):
            lists(values, known=known)


def test_several_columns():
    columns = {"label": ["toxic", "rude", "sad"]}
    rows = [(1, "0", 0.0), ("1.0", "TRUE", False), (0, 0, True)]
    assert lists(rows, **columns) == (("toxic", "rude", "sad"), [["toxic"], ["toxic", "rude"], ["sad"]])
    assert lists(rows, rules=LabelRules(["sad", "Rude", "toxic"]), **columns)[1][1] == ["Rude", "toxic"]
    assert lists(rows, known=LabelSet(("sad", "rude", "toxic")), **columns)[1][1] == ["rude", "toxic"]
    renamed = LabelRules(map={"toxic": "bad"})
    assert lists(rows, known=LabelSet(("sad", "rude", "bad"), "position"), rules=renamed, **columns)[1][0] == ["bad"]
    for row, expected in (
        ((1, "", 0), "row 2: column 'rude' is empty, but a column of data.label holds 0 or 1"),
        ((1, 0, 2), "row 2: column 'sad' holds 2, but a column of data.label holds 0 or 1"),
    ):
        with pytest.raises(UserError, match=expected):
            lists([row], **columns)
    with pytest.raises(UserError, match="holds the labels 'odd'"):
        lists(rows, known=LabelSet(("sad", "rude", "toxic", "odd"), "position"), **columns)
    with pytest.raises(UserError, match="the data has the labels 'toxic', 'rude', 'sad', the model 'a', 'b', 'c'"):
        lists(rows, known=LabelSet(("a", "b", "c"), "position"), **columns)


def test_the_data_sets_own_names_in_lists():
    labels = read([[1, 0], [0, 1], [1]], "list", names=["joy", "love"])
    space = fit_label_lists(labels, LabelRules(), None)
    assert (space.names, space.integers) == (("joy", "love"), "index")
    assert encode_lists(labels, space).tolist() == [[True, True], [True, True], [False, True]]
    turned = encode_lists(labels, LabelSet(("love", "joy"), "position"))
    assert turned.tolist() == [[True, True], [True, True], [True, False]]
    marks = read([[1, 0, 0], [0, 1, 1]], "list", names=["joy", "love", "fear"])
    space = fit_label_lists(marks, LabelRules(), None)
    assert (space.names, space.integers) == (("joy", "love", "fear"), "position")
    assert encode_lists(marks, LabelSet(("fear", "joy", "love"), "position")).tolist() == [
        [False, True, False],
        [True, False, True],
    ]


def test_a_trained_head_and_lists():
    head = Head(("b", "a"), "checkpoint")
    assert fit_label_lists(read(["a,b", "a"], "list"), LabelRules(), None, head).names == ("b", "a")
    marks = read([[1, 1], [0, 1]], "list")
    with pytest.raises(UserError, match="its numbers may or may not be indices"):
        fit_label_lists(marks, LabelRules(), None, head)
    assert fit_label_lists(marks, LabelRules(format="multi_hot"), None, head) == LabelSet(("b", "a"), "position")
    with pytest.raises(UserError, match="in another order"):
        fit_label_lists(marks, LabelRules(["a", "b"]), None, head)


@pytest.mark.parametrize(
    ("values", "meaning"),
    [(["a,b"], "name"), ([[0, 1], [1]], "index"), ([[0, 0], [0, 1]], "multi-hot position"), ([[3, 5]], "name")],
)
def test_what_a_value_means(values, meaning):
    labels = read(values, "list")
    assert meaning_of(labels, fit_label_lists(labels, LabelRules(), None)) == meaning


@pytest.mark.parametrize(
    ("values", "scores", "said"),
    [
        (["3,5", "4", "1,25"], [3.5, 4.0, 1.25], "the comma in column 'label' is taken as a decimal point"),
        (["0,125", "1"], [0.125, 1.0], "the comma in column"),
        (["1", "1"], [1.0, 1.0], "every score is 1"),
        ([-1, -1], [-1.0, -1.0], "every score is -1: this is how data sets mark scores that they hide"),
    ],
)
def test_what_is_likely_of_scores_is_said(values, scores, said, caplog):
    assert scores_of(read(values, "number")).tolist() == scores
    assert said in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ["1,234", "5"],
            "row 2: column 'label' holds a number with a comma, which can stand before decimals or between",
        ),
        (["1", "2.5", "3,5"], "row 4: .* a number with a comma, but rows.csv, row 3 one with a point"),
        (["1", "1,234.5"], "row 3: column 'label' holds '1,234.5', but a score is a finite number"),
        (["1", "1_000"], "row 3: column 'label' holds '1_000'"),
        (["1", "85%"], "row 3: column 'label' holds '85%'"),
    ],
)
def test_scores_with_two_readings(values, expected):
    with pytest.raises(UserError, match=expected):
        read(values, "number")


def test_scores_that_a_data_set_names(caplog):
    assert scores_of(read([0, 4], "number", names=["1", "2", "3", "4", "5"])).tolist() == [1.0, 5.0]
    assert "the scores are the names of the labels" in caplog.records[0].getMessage()
    assert scores_of(read([0, 4], "number", names=["0", "1", "2", "3", "4"])).tolist() == [0.0, 4.0]
    with pytest.raises(UserError, match=r"stand for names \('bad', 'good'\) and are no scores"):
        read([0, 1], "number", names=["bad", "good"])
