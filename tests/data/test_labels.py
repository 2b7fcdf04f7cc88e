"""Labels get the same indices however they are written, and contradictions are refused."""

import numpy as np
import pytest
from tables import make_labels

from jaxbert.config import DataConfig
from jaxbert.data.labels import LabelSet, count_labels, encode, fit_labels, meaning_of
from jaxbert.errors import UserError


def fit(labels: list, names: list[str] | None = None, num_labels: int | None = None, given=None) -> LabelSet:
    return fit_labels(make_labels(labels, names), DataConfig(label_names=given), num_labels)


@pytest.mark.parametrize(
    ("labels", "keys", "names", "indices"),
    [
        (["pos", "neg", "pos"], {}, ("neg", "pos"), [1, 0, 1]),
        (["pos", "neg"], {"given": ["pos", "neg"]}, ("pos", "neg"), [0, 1]),
        (["pos", "neg"], {"given": ["pos", "mid", "neg"], "num_labels": 3}, ("pos", "mid", "neg"), [0, 2]),
        ([1, 0, 2], {}, ("LABEL_0", "LABEL_1", "LABEL_2"), [1, 0, 2]),
        ([1, 0], {"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2"), [1, 0]),
        ([0, 2], {"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2"), [0, 2]),
        ([1, 0], {"given": ["no", "yes"]}, ("no", "yes"), [1, 0]),
        ([1, 0], {"given": ["no", "yes", "?"], "num_labels": 3}, ("no", "yes", "?"), [1, 0]),
        ([0, 2], {"names": ["a", "b", "c"]}, ("a", "b", "c"), [0, 2]),
        ([0, 2], {"names": ["a", "b", "c"], "given": ["x", "y", "z"]}, ("x", "y", "z"), [0, 2]),
        ([1, 2, 10], {}, ("1", "2", "10"), [0, 1, 2]),
        ([1, -1], {}, ("-1", "1"), [1, 0]),
        ([0, 2], {}, ("0", "2"), [0, 1]),
        ([3, 1, 2], {"num_labels": 3}, ("1", "2", "3"), [2, 0, 1]),
        (["1.1", "1.2"], {"given": ["1.1", "1.2"]}, ("1.1", "1.2"), [0, 1]),
    ],
)
def test_fit_and_encode(labels, keys, names, indices):
    label_set = fit(labels, **keys)
    encoded = encode(make_labels(labels, keys.get("names")), label_set)
    assert (label_set.names, encoded.dtype) == (names, np.int32)
    assert encoded.tolist() == indices
    assert len(label_set) == len(names)


@pytest.mark.parametrize(
    ("labels", "keys", "expected"),
    [
        (["a", "a"], {}, "every label is 'a': at least two"),
        ([0, 0], {"num_labels": 2}, "every label is 0: at least two"),
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
        ([0, 1], {"given": ["b", "a"], "names": ["a", "b"]}, "in another order ('a', 'b'): remove data.label_names"),
        (
            ["a", "b"],
            {"given": ["a", "c"]},
            "data.label_names ('a', 'c') and the labels of train.csv ('a', 'b') differ",
        ),
        (["3.5", "1.0"], {}, "the labels are fractional numbers ('1.0', '3.5'): set task: regression"),
    ],
)
def test_contradictions(labels, keys, expected):
    with pytest.raises(UserError) as caught:
        fit(labels, **keys)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("label_set", "labels", "names", "indices"),
    [
        (fit(["neg", "pos"]), [1, 0], ["neg", "pos"], [1, 0]),
        (fit(["neg", "pos"]), [1, 0], ["pos", "neg"], [0, 1]),
        (fit([0, 1], ["neg", "pos"]), ["pos", "neg"], None, [1, 0]),
        (fit([0, 1], ["neg", "pos"]), [1, 0], ["pos", "neg"], [0, 1]),
        (fit([0, 1]), ["LABEL_1", "0"], None, [1, 0]),
        (fit(["1", "2", "x"]), [2, 1], None, [1, 0]),
        (LabelSet(("neg", "pos")), [1, 0], None, [1, 0]),
        (LabelSet(("1", "2", "3")), [3, 1], None, [2, 0]),
        (LabelSet(("1", "2", "3")), [2, 0], None, [2, 0]),
    ],
)
def test_other_sources_may_write_labels_otherwise(label_set, labels, names, indices):
    assert encode(make_labels(labels, names), label_set).tolist() == indices


@pytest.mark.parametrize(
    ("label_set", "labels", "expected"),
    [
        (fit(["neg", "pos"]), ["neg", "mid"], "dev.csv, row 3: label 'mid' is unknown; the labels known from training"),
        (fit(["neg", "pos"]), ["neg", "mid"], "are 'neg', 'pos'"),
        (fit(["neg", "pos"]), [0, 1], "dev.csv, row 2: label 0 is unknown"),
        (fit([0, 1]), [0, 2], "dev.csv, row 3: label 2 is unknown"),
        (fit([0, 1]), [-1, 0], "dev.csv, row 2: label -1 is unknown"),
        (fit([1, 2]), [1, 3], "dev.csv, row 3: label 3 is unknown"),
        (fit([0, 1]), ["0", "x"], "dev.csv, row 3: label 'x' is unknown"),
        (LabelSet(("neg", "pos")), [0, 2], "dev.csv, row 3: label 2 is unknown"),
    ],
)
def test_unknown_labels(label_set, labels, expected):
    with pytest.raises(UserError) as caught:
        encode(make_labels(labels, source="dev.csv"), label_set)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "names", "meaning"),
    [
        (["neg", "pos"], None, "name"),
        ([0, 1], None, "index"),
        ([0, 1], ["neg", "pos"], "name"),
        ([1, 2], None, "name"),
    ],
)
def test_what_a_value_means(labels, names, meaning):
    read = make_labels(labels, names)
    assert meaning_of(read, fit_labels(read, DataConfig(), None)) == meaning
    assert meaning_of(read, None) == "score"


def test_counts():
    assert count_labels(np.array([2, 0, 2], np.int32), ("a", "b", "c")) == {"a": 1, "b": 0, "c": 2}
    assert count_labels(np.array([[True, False], [True, True]]), ("a", "b")) == {"a": 2, "b": 1}
