"""What is said of a run's data is right, by hand-made sets whose duplicates, leaks and lengths are known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from jaxbert.data.overview import Labelling, Overview, View, describe_lengths
from jaxbert.data.proposal import describe_choice, propose, propose_method
from jaxbert.data.table import Facts
from jaxbert.data.tokens import Seen, hash_texts


def view(name: str, texts: list[str], labels: list[str] | None = None, first_row: int = 2, most: int = 10) -> View:
    lengths = np.array([text.count(" ") + 3 for text in texts], np.int32)
    rows = np.arange(first_row, first_row + len(texts), dtype=np.int32)
    seen = Seen(
        lengths, hash_texts(texts), rows, ((0, f"{name}.csv"),), Facts(["text", "x"], ["text"], [], ",", "utf-8")
    )
    labelling = None
    if labels is not None:
        keys = np.array([sorted(set(labels)).index(label) for label in labels])
        counts = {label: labels.count(label) for label in sorted(set(labels))}
        labelling = Labelling("name", counts, keys=keys, named=lambda i: labels[i])
    return View(name, seen, most, np.flatnonzero(np.array([not text for text in texts])), labelling)


TEXTS = ["a b", "c", "a b ", "d", "c", "e", "c"]
LABELS = ["x", "y", "x", "x", "y", "x", "z"]


def test_duplicates_are_counted_and_named_conflicts_first():
    found = view("train", TEXTS, LABELS).to_dict(10)["duplicates"]
    assert (found["rows"], found["texts"], found["conflicting_texts"]) == (3, 2, 1)
    assert found["places"] == [
        {"rows": [3, 6, 8], "labels": ["y", "y", "z"]},
        {"rows": [2, 4], "labels": ["x", "x"]},
    ]
    assert len(view("train", TEXTS, LABELS).to_dict(1)["duplicates"]["places"]) == 1


def test_without_labels_nothing_conflicts():
    found = view("train", TEXTS).to_dict(10)
    assert found["duplicates"]["conflicting_texts"] == 0
    assert found["labels"] is None
    assert found["duplicates"]["places"][1] == {"rows": [3, 6, 8]}


def test_nothing_occurs_twice():
    found = view("train", ["a", "b"], ["x", "y"]).to_dict(10)["duplicates"]
    assert found == {"rows": 0, "texts": 0, "conflicting_texts": 0, "places": []}


def test_leaks_name_the_first_row_of_training():
    overview = Overview([view("train", TEXTS, LABELS), view("validation", ["f", "c", "a b", "c"], first_row=1)])
    (leak,) = overview.to_dict()["leaks"]
    assert leak["sets"] == ["train", "validation"]
    assert (leak["rows"], leak["share"]) == (3, 0.75)
    assert leak["places"] == [
        {"train": 3, "validation": 2},
        {"train": 2, "validation": 3},
        {"train": 3, "validation": 4},
    ]


def test_a_set_of_its_own_leaks_nothing():
    (leak,) = Overview([view("train", TEXTS), view("test", ["zz", "0"])]).to_dict()["leaks"]
    assert leak["rows"] == 0


def test_facts_labels_and_empty_texts():
    found = view("train", ["", "a", ""], ["x", "y", "x"]).to_dict(1)
    assert (found["empty_texts"], found["empty_text_rows"]) == (2, [2])
    assert (found["labels"], found["label_meaning"]) == ({"x": 2, "y": 1}, "name")
    assert (found["source"], found["columns"], found["columns_used"]) == ("train.csv", ["text", "x"], ["text"])
    assert (found["separator"], found["encoding"], found["rows"]) == (",", "utf-8", 3)


def test_everything_is_plain():
    overview = Overview([view("train", TEXTS, LABELS), view("test", TEXTS)], lower_case=True)
    assert json.loads(json.dumps(overview.to_dict())) == overview.to_dict()


def test_lengths():
    lengths = np.array([3] * 90 + [10] * 9 + [50], np.int32)
    found = describe_lengths(lengths, 8, windows=False)
    assert (found["mean"], found["tokens"]) == (4.1, 410)
    assert found["quantiles"] == {"0.5": 3, "0.9": 3, "0.95": 10, "0.99": 10, "1": 50}
    assert (found["longer"], found["cut"], found["tokens_lost"]) == (10, 10, 2 * 9 + 42)
    assert sum(count for *_, count in found["histogram"]) == 100
    in_windows = describe_lengths(lengths, 8, windows=True)
    assert (in_windows["longer"], in_windows["cut"], in_windows["tokens_lost"]) == (10, 0, 0)


def test_the_last_bar_holds_the_few_long_texts():
    lengths = np.array([3] * 990 + [500] * 10, np.int32)
    assert describe_lengths(lengths, 512, windows=False)["histogram"] == [
        *([low, low, 990 if low == 3 else 0] for low in range(3 + 1)),
        [4, 500, 10],
    ]


def test_a_proposal_cuts_one_text_in_a_hundred_at_most():
    lengths = np.array([10] * 990 + [28] * 10, np.int32)
    found = propose(lengths, 512, 32, 0, windows=False)
    assert (found["max_length"], found["cut"]) == (24, 10)  # 16 would lose more than a token in 200
    assert found["tokens_lost"] == 40 / 10_180
    assert propose(lengths, 16, 32, 0, windows=False)["max_length"] == 16
    rare = np.array([10] * 999 + [400], np.int32)
    assert propose(rare, 512, 32, 0, windows=False)["max_length"] == 352  # one text in a thousand, but 4% of the tokens


def test_packing_efficiency_of_texts_that_fill_rows():
    found = describe_choice(np.full(640, 8, np.int32), 16, 32, 0, windows=False, row_length=16)
    assert found == {"max_length": 16, "cut": 0, "tokens_lost": 0.0, "row_length": 16, "packing_efficiency": 1.0}


def test_windows_lose_nothing():
    found = describe_choice(np.full(64, 20, np.int32), 11, 32, 0, windows=True, row_length=11)
    assert (found["cut"], found["tokens_lost"], found["packing_efficiency"]) == (0, 0.0, 1.0)


def test_the_measurement_behind_a_method_is_that_of_the_document():
    said = re.findall(r"([\d.]+)%", propose_method({"a": 8, "b": 8})["sentence"])
    table = (Path(__file__).parents[2] / "docs" / "few-labels.md").read_text("utf-8")
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| SST-2,")]
    measured = [
        cell.strip().strip("*").split(" ")[0] for _, _, plain, contrastive, *_ in rows for cell in (contrastive, plain)
    ]
    assert len(said) == 4
    assert said == measured


def test_many_labels_of_a_class_speak_for_plain_training():
    assert propose_method({"a": 64, "b": 64})["method"] == "contrastive"
    found = propose_method({"a": 3, "b": 1000, "c": 800})
    assert (found["method"], found["median"]) == ("plain", 800)
    assert found["sentence"].startswith(
        "rows of each label: 3 to 1,000, the median is 800; above 64, train.method plain"
    )
