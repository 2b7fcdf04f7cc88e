"""Questions are read from SQuAD's JSON and from records, and an answer must stand where it says."""

from __future__ import annotations

import json
import random

import pytest

from jaxbert.config import DataConfig
from jaxbert.errors import UserError
from jaxbert.tasks.question_answering.read import Answer, Question, read_questions

CONTEXT = "The Panthers gave up 308 points."
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Sports",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "q1", "question": "How many?", "answers": [{"text": "308", "answer_start": 21}]},
                        {
                            "id": "q2",
                            "question": "Who lost?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "The Panthers", "answer_start": 0}],
                        },
                    ],
                }
            ],
        }
    ],
}
EXPECTED = [Question("q1", "How many?", CONTEXT, (Answer("308", 21),)), Question("q2", "Who lost?", CONTEXT)]
RECORDS = [
    {"id": "q1", "question": "How many?", "context": CONTEXT, "answers": {"text": ["308"], "answer_start": [21]}},
    {"id": "q2", "question": "Who lost?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]


def read(path, role="train", labelled=True, limit=None, **keys):
    return list(read_questions(str(path), DataConfig(**keys), role=role, labelled=labelled, limit=limit).items)


def lines(records):
    return "\n".join(map(json.dumps, records)) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("squad.json", json.dumps(SQUAD)),
        ("squad.json", "\ufeff" + json.dumps(SQUAD, indent=1)),
        ("squad.jsonl", lines(RECORDS)),
        ("squad.json", lines(RECORDS)),
    ],
)
def test_both_layouts(tmp_path, name, content):
    (tmp_path / name).write_text(content, "utf-8")
    assert read(tmp_path / name) == EXPECTED
    assert read(tmp_path / name, limit=1) == EXPECTED[:1]
    assert [q.answers for q in read(tmp_path / name, labelled=False)] == [(), ()]


def test_other_columns_and_no_ids(tmp_path):
    record = {"q": "How many?", "p": CONTEXT, "a": [{"text": "308", "answer_start": 21}]}
    (tmp_path / "a.jsonl").write_text(lines([record]))
    found = read(tmp_path / "a.jsonl", question="q", context="p", answers="a")
    assert found == [Question("1", "How many?", CONTEXT, (Answer("308", 21),))]


def squad_with(**changes):
    content = json.loads(json.dumps(SQUAD))
    content["data"][0]["paragraphs"][0]["qas"][0] |= changes
    return json.dumps(content)


def record_with(**changes):
    return lines([RECORDS[1], RECORDS[0] | changes])


WRONG = {
    "elsewhere": (
        "a.json",
        squad_with(answers=[{"text": "308", "answer_start": 20}]),
        r"a\.json, row 1, question 'q1': the answer '308' is not at 20 of its context, where ' 30' stands: .*",
    ),
    "outside": (
        "a.jsonl",
        record_with(answers={"text": ["308"], "answer_start": [900]}),
        r"a\.jsonl, row 2, question 'q1': the answer '308' is not at 900 of its context, where nothing stands: .*",
    ),
    "negative": (
        "a.jsonl",
        record_with(answers={"text": ["points."], "answer_start": [-7]}),
        r".*question 'q1': the answer 'points\.' is not at -7.*",
    ),
    "no number": (
        "a.jsonl",
        record_with(answers={"text": ["308"], "answer_start": ["21"]}),
        r".*'q1': .* is not an answer: write \{text, answer_start\}",
    ),
    "lists": (
        "a.jsonl",
        record_with(answers={"text": ["308"], "answer_start": []}),
        r".*row 2: column 'answers' .* lists `text` and `answer_start` of one length",
    ),
    "blank question": ("a.jsonl", record_with(question=" "), r".*row 2: column 'question' is empty.*"),
    "no context": (
        "a.jsonl",
        lines([{"question": "q", "contexts": CONTEXT}]),
        r".*row 1: no column 'context' \(data\.context\); .*did you mean 'contexts'\?",
    ),
    "no answers": (
        "a.jsonl",
        lines([{"question": "q", "context": CONTEXT}]),
        r".*row 1: no column 'answers' \(data\.answers\).*",
    ),
    "no question": ("a.json", squad_with(question=None), r".*row 1: column 'question' holds nothing \(None\).*"),
    "paragraphs": (
        "a.json",
        '{"data": [{"paragraph": []}]}',
        r".*row 1: no column 'question' \(data\.question\); there are 'paragraph'",
    ),
    "no questions": ("a.json", '{"data": []}', r".*a\.json: no questions: at least one is needed"),
    "empty": ("a.jsonl", "", r".*a\.jsonl: no questions.*"),
    "cut off": ("a.json", json.dumps(SQUAD, indent=1)[:-9], r".*a\.json, row 1: not a complete JSON object.*"),
    "cut off, one line": ("a.json", json.dumps(SQUAD)[:-9], r".*a\.json, row 1: not a complete JSON object.*"),
    "another kind": (
        "a.csv",
        "question,context\n",
        r".*a\.csv: questions are read from SQuAD's JSON or from records.*",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named(tmp_path, case):
    name, content, message = WRONG[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_damaged_files_never_give_another_error(tmp_path):
    rng = random.Random(0)
    wrong = 0
    for _ in range(600):
        name, whole = rng.choice([("a.json", json.dumps(SQUAD)), ("a.jsonl", lines(RECORDS))])
        content = bytearray(whole.encode())
        for _change in range(rng.randint(1, 3)):
            at = rng.randrange(len(content))
            content[at : at + rng.randint(0, 9)] = rng.choice([b"", b"\xff", b'"', b"[]", b"\n", b"null", b"-1", b"{}"])
        (tmp_path / name).write_bytes(content)
        try:
            read(tmp_path / name)
        except UserError:
            wrong += 1
    assert wrong > 100


@pytest.mark.real
@pytest.mark.parametrize("language", ["en", "zh"])
def test_xquad(shared_data, language):
    path = shared_data / "xquad" / f"xquad.{language}.json"
    found = read(path)
    assert (len(found), len({question.context for question in found})) == (1190, 240)
    assert all(question.answers for question in found)


def test_a_question_that_says_it_has_no_answer_has_none(tmp_path):
    """SQuAD's `is_impossible` means the same in a record as in an article."""
    marked = RECORDS[0] | {"is_impossible": True}
    others = [RECORDS[0] | {"is_impossible": value} for value in (False, None, 1, "True", 0, "", float("nan"))]
    (tmp_path / "flat.jsonl").write_text(lines([marked, *others]))
    assert [len(question.answers) for question in read(tmp_path / "flat.jsonl")] == [0, 1, 1, 0, 0, 1, 1, 1]
    (tmp_path / "unclear.jsonl").write_text(lines([RECORDS[0] | {"is_impossible": "maybe"}]))
    with pytest.raises(UserError, match=r"is_impossible.*true or false"):
        read(tmp_path / "unclear.jsonl")
