"""The files that scripts/bench/checkouts.py makes have the rows of the original several times."""

from __future__ import annotations

import json

import checkouts


def test_rows_are_repeated():
    assert checkouts.repeat("sst2", "sentence\tlabel\na\t1\nb\t0\n", 3).splitlines() == [
        "sentence\tlabel",
        *["a\t1", "b\t0"] * 3,
    ]
    assert checkouts.repeat("ner", "A B-X\nB O\n\n\n", 2) == "A B-X\nB O\n\n" * 2


def test_questions_and_contexts_are_told_apart():
    question = {"id": "q", "question": "?", "answers": [{"text": "a", "answer_start": 0}]}
    text = json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [question]}]}]})
    articles = json.loads(checkouts.repeat("xquad", text, 2))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    assert [paragraph["context"] for paragraph in paragraphs] == ["a b 0", "a b 1"]
    assert [paragraph["qas"][0]["id"] for paragraph in paragraphs] == ["q-0", "q-1"]
    assert all(paragraph["context"].startswith("a") for paragraph in paragraphs), "answers stay where they are"


def test_the_line_that_ends_the_clock():
    assert checkouts.READ.match("3,821 training and 0 validation examples, 28 tags")[1] == "3,821"
