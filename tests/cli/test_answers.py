"""Answers as JSON lines and as tables, with columns of the input before them."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import itertools
import json

import numpy as np
import pytest

from jaxbert.cli.answers import make_writer, parse_keep
from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source
from jaxbert.errors import UserError
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import TokenClassification

ODD = ['a, "b"', "two\nlines", "cr\rlf", "=1+1", " blanks ", "tab\there", "", "好 👍", "-@+", "\\n", "'"]
ANSWER = {"label": "pos", "score": 0.75, "probabilities": {"neg": 0.25, "pos": 0.75}}
NAMES = ("neg", "pos")


def written(output, task, pairs, kept=None, separator=","):
    write = make_writer(output, task, kept or {}, separator)
    return "".join(write([pair]) for pair in pairs)


def table(*arguments, **options) -> list[dict[str, str]]:
    text = written("out.CSV", *arguments, **options)
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_what_keep_names():
    assert parse_keep(None) == {}
    assert parse_keep("id, text") == {"id": "id", "text": "text"}
    assert parse_keep("id,label=gold") == {"id": "id", "label": "gold"}
    assert parse_keep('["a, b", "c=d"]') == {"a, b": "a, b", "c=d": "c=d"}
    for text in ("", "id,", "id,id", "a=x,b=x", "label=", "[1]", "[x"):
        with pytest.raises(UserError, match="--keep"):
            parse_keep(text)


@pytest.mark.parametrize(
    ("output", "keep", "expected"),
    [
        ("-", "label", "--keep label: an answer has a key 'label' of its own (label, score, probabilities)"),
        ("-", "id=score", "--keep id: an answer has a key 'score' of its own"),
        ("o.csv", "neg", "--keep neg: the table has a column 'neg' of its own (label, score, neg, pos)"),
    ],
)
def test_a_name_that_the_answers_have_is_refused(output, keep, expected):
    with pytest.raises(UserError) as caught:
        make_writer(output, Classification(NAMES), parse_keep(keep), ",")
    assert str(caught.value).startswith(expected)
    assert make_writer("-", Classification(NAMES), {"neg": "neg"}, ",")


def test_json_lines_copy_values_as_they_are():
    values = {"id": 7, "more": [1, {"a": None}], "text": "é\n", "flag": True, "label": "neg"}
    kept = {name: name for name in values} | {"label": "gold"}
    line = written("-", Classification(NAMES), [(values, ANSWER)], kept)
    expected = {"id": 7, "more": [1, {"a": None}], "text": "é\n", "flag": True, "gold": "neg", **ANSWER}
    assert json.loads(line) == expected
    assert list(json.loads(line)) == list(expected)
    assert "é" in line


def test_values_that_json_does_not_have():
    values = {
        "day": datetime.date(2026, 1, 2),
        "price": decimal.Decimal("1.50"),
        "raw": b"ab\xff",
        "none": float("nan"),
        "deep": [np.float32(0.5), {"at": datetime.datetime(2026, 1, 2, 3)}, np.array([1, 2])],
    }
    line = written("-", Regression(), [(values, {"score": 1.0})], {name: name for name in values})
    assert json.loads(line) == {
        "day": "2026-01-02",
        "price": "1.50",
        "raw": "ab\\xff",
        "none": None,
        "deep": [0.5, {"at": "2026-01-02T03:00:00"}, [1, 2]],
        "score": 1.0,
    }


def test_a_table_has_a_column_for_each_label():
    rows = table(Classification(NAMES), [({"id": "1"}, ANSWER), ({"id": None}, ANSWER)], {"id": "id"})
    assert [list(row) for row in rows] == [["id", "label", "score", "neg", "pos"]] * 2
    assert rows[0] == {"id": "1", "label": "pos", "score": "0.75", "neg": "0.25", "pos": "0.75"}
    assert rows[1]["id"] == ""
    odd = Classification(("label", "score"))
    assert list(
        table(odd, [({}, {"label": "score", "score": 1.0, "probabilities": {"label": 0.0, "score": 1.0}})])[0]
    ) == [*("label", "score", "probability_label", "probability_score")]


def test_a_table_of_the_best_labels_has_a_column_for_each_rank():
    names = tuple(f"l{i}" for i in range(30))
    best = {"label": "l7", "score": 0.5, "probabilities": {"l7": 0.5, "l2": 0.25}}
    other = {"label": "l2", "score": 0.4, "probabilities": {"l2": 0.4, "l9": 0.3}}
    rows = table(Classification(names, top_k=2), [({}, best), ({}, other)])
    assert rows == [
        {"label": "l7", "score": "0.5", "label_2": "l2", "score_2": "0.25"},
        {"label": "l2", "score": "0.4", "label_2": "l9", "score_2": "0.3"},
    ]
    several = {"labels": ["l7", "l2"], "probabilities": {"l7": 0.9, "l2": 0.6}}
    (row,) = table(MultiLabel(names, top_k=2), [({}, several)], separator=";")
    assert row == {"labels": "l7;l2", "label_1": "l7", "score_1": "0.9", "label_2": "l2", "score_2": "0.6"}
    assert len(table(Classification(names), [({}, {**best, "probabilities": dict.fromkeys(names[:5], 0.1)})])[0]) == 10


@pytest.mark.parametrize("separator", [",", ""])
def test_labels_that_hold_their_separator_have_no_table(separator):
    with pytest.raises(UserError, match="choose another --label_separator"):
        make_writer("o.csv", MultiLabel(("a,b", "c")), {}, separator)
    make_writer("o.jsonl", MultiLabel(("a,b", "c")), {}, separator)
    make_writer("o.csv", MultiLabel(("a,b", "c")), {}, ";")


def test_what_is_nested_is_json_in_a_field():
    entity = {"text": "EU", "label": "ORG", "start": 0, "end": 2, "score": 0.5}
    (row,) = table(TokenClassification(("O", "B-ORG")), [({}, {"entities": [entity]})])
    assert json.loads(row["entities"]) == [entity]
    answer = {"id": "q1", "text": "x", "start": 0, "end": 1, "score": 0.5}
    (row,) = table(QuestionAnswering(), [({}, {**answer, "n_best": [answer]})])
    assert {**row, "n_best": json.loads(row["n_best"])} == {
        **{name: str(value) for name, value in answer.items()},
        "n_best": [answer],
    }


@pytest.mark.parametrize("output", ["o.csv", "o.tsv"])
def test_our_own_reader_reads_a_table_back(tmp_path, output):
    pairs = [({"id": text, "text": f"t{text}"}, ANSWER) for text in ODD]
    text = written(output, Classification(NAMES), pairs, {"id": "id", "text": "text"})
    (tmp_path / output).write_text(text, encoding="utf-8", newline="")
    names = ("id", "text", "label", "score", "neg", "pos")
    source = open_source(str(tmp_path / output), DataConfig(), role="predict", labelled=False, kept=names)
    rows = list(itertools.chain.from_iterable(part.kept_rows() for part in source.parts()))
    assert [row["id"] for row in rows] == ODD
    assert [row["text"] for row in rows] == [f"t{text}" for text in ODD]
    assert {tuple(row[name] for name in names[2:]) for row in rows} == {("pos", "0.75", "0.25", "0.75")}
