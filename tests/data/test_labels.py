"""Labels get the same indices however they are written; contradictions and two readings are refused."""

import numpy as np
import pytest
from tables import make_labels

from jaxbert.data.label_column import LabelRules, check_map
from jaxbert.data.labels import Head, LabelSet, all_written, count_labels, encode, fit_labels, meaning_of
from jaxbert.errors import UserError


def fit(
    labels: list, names: list[str] | None = None, num_labels: int | None = None, given=None, head=None, **rules
) -> LabelSet:
    known = None if head is None else Head(tuple(head), "checkpoint")
    return fit_labels(make_labels(labels, names), LabelRules(given, **rules), num_labels, known)


THREE = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("labels", "keys", "names", "indices"),
    [
        (["pos", "neg", "pos"], {}, ("neg", "pos"), [1, 0, 1]),
        (["pos", " neg "], {}, ("neg", "pos"), [1, 0]),
        (["pos", "neg"], {"given": ["pos", "neg"]}, ("pos", "neg"), [0, 1]),
        (["Pos", "neg"], {"given": ["pos", "NEG"]}, ("pos", "NEG"), [0, 1]),
        (["pos", "neg"], {"given": ["pos", "mid", "neg"], "num_labels": 3}, ("pos", "mid", "neg"), [0, 2]),
        ([1, 0, 2], {}, THREE, [1, 0, 2]),
        (["1", "0.0", "2.0"], {}, THREE, [1, 0, 2]),
        ([1.0, 0.0, 2.0], {}, THREE, [1, 0, 2]),
        ([1, 0], {"num_labels": 3}, THREE, [1, 0]),
        ([0, 2], {"num_labels": 3}, THREE, [0, 2]),
        ([0, 2], {"format": "indices"}, THREE, [0, 2]),
        ([1, 0], {"given": ["no", "yes"]}, ("no", "yes"), [1, 0]),
        ([1, 0], {"given": ["no", "yes", "?"], "num_labels": 3}, ("no", "yes", "?"), [1, 0]),
        ([0, 2], {"names": ["a", "b", "c"]}, ("a", "b", "c"), [0, 2]),
        ([0, 1], {"names": ["a", "b"], "given": ["b", "a"]}, ("b", "a"), [1, 0]),
        ([0, 1], {"names": ["0", "1"], "given": ["no", "yes"]}, ("no", "yes"), [0, 1]),
        ([True, False], {}, ("false", "true"), [1, 0]),
        ([True, False], {"given": ["no", "yes"]}, ("no", "yes"), [1, 0]),
        ([1, 2, 10], {}, ("1", "2", "10"), [0, 1, 2]),
        (["1.0", "2", "2.0"], {}, ("1", "2"), [0, 1, 1]),
        ([1, -1, 0], {}, ("-1", "0", "1"), [2, 0, 1]),
        ([-1, 1], {}, ("-1", "1"), [0, 1]),
        (["+1", "-1"], {}, ("-1", "1"), [1, 0]),
        ([0, 2], {}, ("0", "2"), [0, 1]),
        ([3, 1, 2], {"num_labels": 3}, ("1", "2", "3"), [2, 0, 1]),
        ([2**70, 1], {}, ("1", str(2**70)), [1, 0]),
        ([3, 1, 2], {"given": ["3", "2", "1"]}, ("3", "2", "1"), [0, 2, 1]),
        ([1, 0], {"given": ["1", "0"], "format": "names"}, ("1", "0"), [0, 1]),
        ([1, 0], {"given": ["1", "0"], "format": "indices"}, ("1", "0"), [1, 0]),
        (["01", "10", "02"], {}, ("01", "02", "10"), [0, 2, 1]),
        (["1", "2", "x"], {"format": "names"}, ("1", "2", "x"), [0, 1, 2]),
        (["1", "2", "x"], {"given": ["x", "2", "1"]}, ("x", "2", "1"), [2, 1, 0]),
        (["1.1", "1.2"], {"given": ["1.1", "1.2"]}, ("1.1", "1.2"), [0, 1]),
        (["1.0", "1.1", "beta"], {"format": "names"}, ("1.0", "1.1", "beta"), [0, 1, 2]),
        (["a", "A"], {"format": "names"}, ("A", "a"), [1, 0]),
        (["pos", "Pos", "neg"], {"map": {"Pos": "pos"}}, ("neg", "pos"), [1, 1, 0]),
        ([1, 2, 3], {"map": {"1": "bad", "2": "fair", "3": "good"}}, ("bad", "fair", "good"), [0, 1, 2]),
        (["2.0", "1.0"], {"map": {"1": "bad", "2": "good"}}, ("bad", "good"), [1, 0]),
        ([0, 1, 2], {"names": ["a", "b", "c"], "map": {"c": "b"}}, ("a", "b"), [0, 1, 1]),
    ],
)
def test_fit_and_encode(labels, keys, names, indices):
    label_set = fit(labels, **keys)
    rules = LabelRules(keys.get("given"), keys.get("format", "auto"), keys.get("map", {}))
    encoded = encode(make_labels(labels, keys.get("names")), label_set, rules)
    assert (label_set.names, encoded.dtype) == (names, np.int32)
    assert encoded.tolist() == indices
    assert len(label_set) == len(names)


@pytest.mark.parametrize(
    ("labels", "keys", "expected"),
    [
        (["a", "a"], {}, "every label is 'a': at least two"),
        ([0, 0], {"num_labels": 2}, "every label is 0: at least two"),
        ([-1, -1], {}, "every label is -1: at least two"),
        (["a", "b"], {"num_labels": 3}, "model.num_labels is 3, but train.csv has 2 labels: 'a', 'b'"),
        (["a", "b", "c"], {"num_labels": 2}, "model.num_labels is 2, but train.csv has 3 labels"),
        ([0, 1, 2], {"num_labels": 2}, "model.num_labels is 2, but train.csv has 3 labels: 0, 1, 2"),
        (
            [0, 1],
            {"names": ["a", "b"], "num_labels": 3},
            "model.num_labels is 3, but train.csv has 2 labels ('a', 'b')",
        ),
        ([0, 2], {"names": ["a", "b"]}, "train.csv has labels up to 2, but names only 'a', 'b'"),
        ([0, 1], {"given": ["x", "y", "z"]}, "data.label_names has 3 names, but train.csv has 2 labels (0 to 1)"),
        ([0, 1, 2], {"given": ["x", "y"]}, "data.label_names has 2 names, but train.csv has 3 labels (0 to 2)"),
        ([1, 2], {"given": ["x", "y"], "num_labels": 2}, "but the data has the labels 1, 2"),
        ([-1, 1], {"given": ["x", "y"]}, "but the data has the labels -1, 1"),
        ([0, 1], {"given": ["x", "x"]}, "data.label_names names a label twice"),
        (
            ["a", "b"],
            {"given": ["a", "c"]},
            "data.label_names ('a', 'c') and the labels of train.csv ('a', 'b') differ",
        ),
        (["3.5", "1.0"], {}, "the labels are fractional numbers ('1.0', '3.5'): set task: regression"),
        (["3,5", "1"], {}, "the labels are fractional numbers ('1', '3,5'): set task: regression"),
        # Names beat numbers.
        ([0, 1], {"names": ["a", "b"], "given": ["x", "y"]}, "has the labels 'a', 'b', data.label_names 'x', 'y'"),
        # Two readings.
        ([1, 0], {"given": ["1", "0"]}, "row 2: label 1 can be a name or an index beside data.label_names '1', '0'"),
        (["1", "2", "1", "n/a"], {}, "row 5: label 'n/a' is no whole number, but most labels are numbers ('1', '2')"),
        (["a", "b", "a", "7"], {}, "row 5: label '7' is a number, but most labels are names ('a', 'b')"),
        (["1", "1,000", "2"], {}, "row 3: the labels are fractional numbers ('1', '1,000', '2')"),
        (["pos", "neg", "Pos"], {}, "row 4: label 'Pos' differs only in its spelling from 'pos' (train.csv, row 2)"),
        (["caf\u00e9", "cafe\u0301"], {}, "row 3: label 'cafe\u0301' differs only in its spelling"),
        (["not_spam", "not spam"], {}, "to make them one, set data.label_map to {not spam: not_spam}"),
        (["1", "01"], {}, "row 3: label '01' differs only in its spelling from '1'"),
        (["a", "b", "nan"], {}, "row 4: label 'nan' means a missing value: remove the row"),
        (
            ["['a']", "['b']"],
            {},
            "row 2: label \"['a']\" is a list: if a text has several labels, set task: multi_label",
        ),
        (["a", "[1 0]"], {}, "row 3: label '[1 0]' is a list"),
        (["a", "7"], {"format": "indices"}, "row 2: label 'a' is not an index, which is a whole number"),
        ([-1, 0], {"format": "indices"}, "row 2: label -1 is not an index, which is 0 or more"),
        ([0, 2**40], {"format": "indices"}, "has the index 1099511627776, but there can be 131072 labels"),
        ([0, 4], {"format": "indices", "num_labels": 4}, "model.num_labels is 4, but train.csv has the index 4"),
    ],
)
def test_contradictions(labels, keys, expected):
    with pytest.raises(UserError) as caught:
        fit(labels, **keys)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "keys", "said"),
    [
        ([1, 2, 3, 4, 5], {}, "the numbers 1, 2, 3, 4, 5 are taken as names of 5 labels, for they are not 0, 1, 2"),
        ([1, 2, 3], {"num_labels": 4}, "the labels 1, 2, 3 are indices, below model.num_labels (4); no example has 0"),
        ([0, 3], {"format": "indices"}, "as data.label_format says; no example has 1, 2"),
        (["Pos", "neg"], {"given": ["pos", "neg"]}, "labels are known in another spelling: 'Pos' is 'pos'"),
    ],
)
def test_what_is_likely_is_said(labels, keys, said, caplog):
    fit(labels, **keys)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("train.csv: ")
    assert said in line


@pytest.mark.parametrize(
    ("label_set", "labels", "names", "indices"),
    [
        (fit(["neg", "pos"]), [1, 0], ["neg", "pos"], [1, 0]),
        (fit(["neg", "pos"]), [1, 0], ["pos", "neg"], [0, 1]),
        (fit(["neg", "pos"]), ["NEG", "Pos"], None, [0, 1]),
        (fit([0, 1], ["neg", "pos"]), ["pos", "neg"], None, [1, 0]),
        (fit([0, 1], ["neg", "pos"]), [1, 0], ["pos", "neg"], [0, 1]),
        (fit([0, 1], ["neg", "pos"]), [1, 0], None, [1, 0]),
        (fit([0, 1]), ["LABEL_1", "0"], None, [1, 0]),
        (fit([0, 1]), [1, 0], ["neg", "pos"], [1, 0]),
        (fit(["1", "2", "x"], format="names"), [2, 1], None, [1, 0]),
        (fit(["01", "02", "10"]), ["2", "10"], None, [1, 2]),
        (fit([True, False]), ["True", "FALSE"], None, [1, 0]),
        (fit([0, 1]), [True, False], ["false", "true"], [1, 0]),
        (fit(["neg", "pos"]), [1, 0], ["Positive", "neg"], None),
        (LabelSet(("neg", "pos")), [1, 0], None, [1, 0]),
        (LabelSet(("neg", "pos")), [1, 0], ["0", "1"], [1, 0]),
        (LabelSet(("LABEL_0", "LABEL_1")), [1, 0], ["neg", "pos"], [1, 0]),
        (LabelSet(("1", "2", "3")), [3, 1], None, [2, 0]),
        (LabelSet(("0", "1", "2")), [2, 0], None, [2, 0]),
        (LabelSet(("0", "2", "5")), ["5", "0"], None, [2, 0]),
        (LabelSet(("1", "2", "x")), ["x", "y"][:1], None, [2]),
    ],
)
def test_other_sources_may_write_labels_otherwise(label_set, labels, names, indices):
    read = make_labels(labels, names)
    if indices is None:
        with pytest.raises(UserError, match="label 'Positive' is unknown: the data has the labels 'Positive', 'neg'"):
            encode(read, label_set)
        renamed = encode(read, label_set, LabelRules(map={"Positive": "pos", "neg": "neg"}))
        assert renamed.tolist() == [0, 1]
    else:
        assert encode(read, label_set).tolist() == indices


@pytest.mark.parametrize(
    ("label_set", "labels", "expected"),
    [
        (fit(["neg", "pos"]), ["neg", "mid"], "dev.csv, row 3: label 'mid' is unknown; the labels known from training"),
        (fit(["neg", "pos"]), ["neg", "mid"], "are 'neg', 'pos'"),
        (fit(["neg", "pos"]), [0, 1], "dev.csv, row 2: label 0 is unknown"),
        (fit(["neg", "pos"]), [0, 1], "if numbers are their indices in this order, set data.label_format to indices"),
        (fit([0, 1]), [0, 2], "dev.csv, row 3: label 2 is unknown"),
        (fit([0, 1]), [-1, 0], "dev.csv, row 2: label -1 is unknown"),
        (fit([0, 1]), [-1, -1], "dev.csv, row 2: label -1 is unknown"),
        (fit([1, 2]), [1, 3], "dev.csv, row 3: label 3 is unknown"),
        (fit([0, 1]), ["0", "x"], "dev.csv, row 3: label 'x' is unknown"),
        (fit(["A", "A-"]), ["a-", "B-"], "dev.csv, row 3: label 'B-' is unknown"),
        (fit(["a", "b"]), ["a", "B", "b "], "dev.csv, row 3: label 'B' is unknown"),
        (LabelSet(("neg", "pos")), [0, 2], "dev.csv, row 3: label 2 is unknown"),
        (LabelSet(("1", "2", "3", "4", "5")), [1, 2, 0], "dev.csv, row 4: label 0 is unknown"),
        (LabelSet(("1", "0")), [1, 0], "dev.csv, row 2: label 1 can be the name of a label or its index"),
        (LabelSet(("1", "2", "x")), ["1", "0"], "dev.csv, row 2: label 1 can be the name of a label or its index"),
        (LabelSet(("a", "a")), ["a"], "two labels of the model have one name"),
    ],
)
def test_unknown_labels(label_set, labels, expected):
    with pytest.raises(UserError) as caught:
        encode(make_labels(labels, source="dev.csv"), label_set)
    assert expected in str(caught.value)


def test_one_value_never_changes_how_others_are_read():
    """A stray value is refused; whatever it is, the rest means the same."""
    for names in (("1", "2", "3"), ("0", "1", "2"), ("neg", "pos", "mid")):
        label_set = LabelSet(names)
        alone = encode(make_labels(["1", "2"]), label_set).tolist()
        assert alone == ([0, 1] if names[0] == "1" else [1, 2])
        for stray in ("0", "3", "7", "x", "-1"):
            if stray in names or (stray == "0" and names[0] != "1"):
                assert encode(make_labels(["1", "2", stray]), label_set).tolist()[:2] == alone
                continue
            with pytest.raises(UserError, match="row 4: label"):
                encode(make_labels(["1", "2", stray]), label_set)


def test_the_users_own_reading():
    numbers = make_labels([1, 0])
    assert encode(numbers, fit(["neg", "pos"]), LabelRules(format="indices")).tolist() == [1, 0]
    assert encode(numbers, LabelSet(("1", "0")), LabelRules(format="names")).tolist() == [0, 1]
    assert encode(numbers, LabelSet(("1", "0")), LabelRules(format="indices")).tolist() == [1, 0]


def test_minus_one_marks_no_label_only_where_a_data_set_names_its_labels():
    assert encode(make_labels([-1, 0, 1]), fit([-1, 0, 1])).tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="no labels: every value of column 'label' is -1"):
        make_labels([-1, -1], ["a", "b"])
    with pytest.raises(UserError, match="row 3: column 'label' holds -1, which marks a row without a label"):
        make_labels([0, -1], ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "keys", "names", "indices"),
    [
        (["neg", "pos"], {"head": ["pos", "neg"]}, ("pos", "neg"), [1, 0]),
        (["Neg", "pos"], {"head": ["pos", "neg"]}, ("pos", "neg"), [1, 0]),
        ([0, 1], {"names": ["neg", "pos"], "head": ["pos", "neg"]}, ("pos", "neg"), [1, 0]),
        ([0, 1], {"given": ["neg", "pos"], "head": ["pos", "neg"]}, ("pos", "neg"), [1, 0]),
        ([0, 1], {"given": ["neg", "pos"], "head": ["neg", "pos"]}, ("neg", "pos"), [0, 1]),
        ([0, 1, 2], {"head": THREE}, THREE, [0, 1, 2]),
        ([0, 1], {"names": ["neg", "pos"], "head": THREE[:2]}, ("neg", "pos"), [0, 1]),
        ([0, 1], {"format": "indices", "head": ["neg", "pos"]}, ("neg", "pos"), [0, 1]),
        (["1", "2"], {"head": ["2", "1"]}, ("2", "1"), [1, 0]),
        (["a", "b", "c"], {"head": ["neg", "pos"]}, ("a", "b", "c"), [0, 1, 2]),
        (["neg", "pos"], {"head": ["pos", "mid", "neg"], "num_labels": 3}, ("pos", "mid", "neg"), [2, 0]),
        (["neg", "pos"], {"head": ["pos", "mid", "neg"]}, ("neg", "pos"), [0, 1]),
        (["bad", "good"], {"head": ["pos", "neg"], "map": {"bad": "neg", "good": "pos"}}, ("pos", "neg"), [1, 0]),
        (["bad", "good"], {"head": THREE[:2], "map": {"bad": "LABEL_1", "good": "LABEL_0"}}, THREE[:2], [1, 0]),
        (["spam", "ham"], {"head": ["pos", "neg"]}, ("ham", "spam"), [1, 0]),
        (["spam", "ham"], {"head": THREE[:2]}, ("ham", "spam"), [1, 0]),
    ],
)
def test_a_trained_head_keeps_its_meaning(labels, keys, names, indices):
    rules = LabelRules(keys.get("given"), keys.get("format", "auto"), keys.get("map", {}))
    label_set = fit(labels, **keys)
    assert label_set.names == names
    assert encode(make_labels(labels, keys.get("names")), label_set, rules).tolist() == indices


@pytest.mark.parametrize(
    ("labels", "keys", "expected"),
    [
        (["pos", "bad"], {"head": ["pos", "neg"]}, "has the labels 'bad', 'pos', checkpoint 'pos', 'neg'"),
        (["pos", "bad"], {"head": ["pos", "neg"]}, "or set model.head to new"),
        ([0, 1], {"head": ["pos", "neg"]}, "its numbers may or may not be indices of the labels of checkpoint"),
        ([0, 1], {"names": ["a", "b"], "head": ["pos", "neg"]}, "has the labels 'a', 'b', checkpoint 'pos', 'neg'"),
    ],
)
def test_a_trained_head_of_other_labels(labels, keys, expected):
    with pytest.raises(UserError) as caught:
        fit(labels, **keys)
    assert expected in str(caught.value)


def test_plain_numbers_are_not_read_by_another_order_later():
    """The head's order is not that of the training file's numbers: a file of numbers alone has no reading then."""
    label_set = fit([0, 1], given=["neg", "pos"], head=["pos", "neg"])
    with pytest.raises(UserError, match="label 0 is unknown"):
        encode(make_labels([0, 1]), label_set)


def test_a_map_must_rename_something_known():
    written = all_written([make_labels(["pos", "neg"]), None, make_labels([0, 1], ["a", "b"])])
    assert written == {"pos", "neg", "a", "b"}
    check_map(LabelRules(map={"pos": "positive", "b": "positive"}), written, ("negative", "positive"))
    with pytest.raises(UserError, match="renames 'pso', which is not a label of the data; did you mean 'pos'"):
        check_map(LabelRules(map={"pso": "positive"}), written, ("positive",))
    with pytest.raises(UserError, match="makes 'pos' 'postive', but the labels are 'positive'"):
        check_map(LabelRules(map={"pos": "postive"}), written, ("positive",))


@pytest.mark.parametrize(
    ("labels", "names", "meaning"),
    [
        (["neg", "pos"], None, "name"),
        ([0, 1], None, "index"),
        (["0", "1"], None, "index"),
        ([0, 1], ["neg", "pos"], "name"),
        ([1, 2], None, "name"),
    ],
)
def test_what_a_value_means(labels, names, meaning):
    read = make_labels(labels, names)
    assert meaning_of(read, fit_labels(read, LabelRules(), None)) == meaning
    assert meaning_of(read, None) == "score"


def test_counts():
    assert count_labels(np.array([2, 0, 2], np.int32), ("a", "b", "c")) == {"a": 1, "b": 0, "c": 2}
    assert count_labels(np.array([[True, False], [True, True]]), ("a", "b")) == {"a": 2, "b": 1}
