"""Questions with their choices are read as they are written, and labels that could mean two things are refused."""

from __future__ import annotations

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxbert.config import DataConfig
from jaxbert.data.table import Facts
from jaxbert.errors import UserError
from jaxbert.tasks.multiple_choice.read import fit_meaning, open_choice_questions, read_choice_questions, right_choices

COLUMNS = ["a", "b", "c"]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def rows_of(*labels, choices=("x", "y", "z")):
    return [{"question": f"q{i}", "choices": list(choices), "label": label} for i, label in enumerate(labels)]


def read(path, rows, **data):
    return read_choice_questions(write(path, rows), DataConfig(**data), role="train")


@pytest.mark.parametrize(
    ("labels", "choices", "meaning", "right"),
    [
        ([0, 2, 1], "xyz", "number from 0", [0, 2, 1]),
        ([1, 3, 2], "xyz", "number from 1", [0, 2, 1]),
        (["1", "3"], "xyz", "number from 1", [0, 2]),
        (["A", "c", "B"], "xyz", "letter", [0, 2, 1]),
        (["y", "x"], "xyz", "text", [1, 0]),
        (["好", "坏"], ["好", "坏"], "text", [0, 1]),
        ([2, 4], ["2", "3", "4"], "text", [0, 2]),
        (["A", "B"], "AB", "letter", [0, 1]),
    ],
)
def test_what_a_label_is(tmp_path, labels, choices, meaning, right):
    questions = read(tmp_path / "train.jsonl", rows_of(*labels, choices=choices))
    assert fit_meaning(questions) == meaning
    assert right_choices(questions, meaning) == right


def test_choices_that_a_row_names_itself_are_found_by_these_names(tmp_path):
    """ARC names the choices of some questions by letters and those of others by numbers; the names decide, not the order."""
    named = [("ABC", "B"), ("123", "3"), ("CAB", "C"), ([4, 5, 6], 5)]
    rows = [
        {"question": f"q{i}", "choices": {"text": ["x", "y", "z"], "label": list(names)}, "label": label}
        for i, (names, label) in enumerate(named)
    ]
    questions = read(tmp_path / "train.jsonl", rows)
    assert fit_meaning(questions) == "letter"
    assert right_choices(questions, "letter") == [1, 2, 0, 1]
    for wrong in ({"label": "D"}, {"choices": {"text": ["x", "y"], "label": ["A", "A"]}, "label": "A"}):
        with pytest.raises(
            UserError, match=r"row 5: the choices have the names \['A'.*, of which the label .* must be one"
        ):
            read(tmp_path / "train.jsonl", [*rows, rows[0] | wrong])


@pytest.mark.parametrize(("column", "key"), [("choices", "choices"), ("question", "question"), ("passage", "context")])
def test_a_missing_column_is_told_with_the_key_that_names_it(tmp_path, column, key):
    """The reader takes the question for a text, and the choices for columns that are copied: neither is the user's word."""
    given = {"question": "q", "choices": ["x", "y"], "passage": "p", "label": 0}
    del given[column]
    with pytest.raises(UserError, match=rf"no column '{column}' \(data.{key}\)"):
        read(tmp_path / "train.jsonl", [given], context="passage")


@pytest.mark.parametrize(
    ("labels", "choices", "row", "one", "other"),
    [
        ([1, 2], "xyz", 1, "number from 0", "number from 1"),
        ([0, 1], ["1", "0", "5"], 1, "number from 0", "text"),
        (["A", "B"], "BA", 1, "letter", "text"),
    ],
)
def test_two_readings_are_refused(tmp_path, labels, choices, row, one, other):
    questions = read(tmp_path / "train.jsonl", rows_of(*labels, choices=choices))
    message = (
        f"train.jsonl, row {row}: the label .* can be a {one} or a {other}, and all labels .* fit both: write letters"
    )
    with pytest.raises(UserError, match=message):
        fit_meaning(questions)


def test_a_label_that_fits_no_reading_names_its_row(tmp_path):
    questions = read(tmp_path / "train.jsonl", rows_of(0, 2, 1, 3))
    with pytest.raises(
        UserError, match="row 4: the label 3 is no number from 0 of the question's 3 choices: correct it"
    ):
        fit_meaning(questions)
    with pytest.raises(UserError, match="row 1: the label 0 is no letter"):
        right_choices(questions, "letter")


def test_columns_of_choices_whose_number_differs(tmp_path, caplog):
    path = tmp_path / "train.csv"
    path.write_text("context,question,a,b,c,label\nctx,q,one,two,,1\n,r,one,two,three,0\n")
    questions = read_choice_questions(str(path), DataConfig(choices=COLUMNS), role="train")
    assert [item.choices for item in questions.items] == [("one", "two"), ("one", "two", "three")]
    assert [list(item.texts())[1] for item in questions.items] == [("ctx", "q two"), ("r", "two")]
    assert right_choices(questions, fit_meaning(questions)) == [1, 0]
    assert not caplog.messages


def test_a_list_that_is_written_as_text_and_one_of_arc(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("question,options,label\nq,\"['one', 'two']\",B\n")
    assert read_choice_questions(str(path), DataConfig(choices="options"), role="train").items[0].choices == (
        "one",
        "two",
    )
    row = {"question": "q", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "label": "A"}
    assert read(tmp_path / "arc.jsonl", [row]).items[0].choices == ("one", "two")


def test_without_a_context_that_is_said_and_a_wrong_name_is_refused(tmp_path, caplog):
    spec = write(tmp_path / "train.jsonl", rows_of(0, 1, 2))
    read_choice_questions(spec, DataConfig(), role="train")
    assert "no column 'context' (data.context): each choice is read with its question alone" in caplog.text
    for key in ("context", "question", "choices"):
        with pytest.raises(UserError, match=rf"no column 'asked' \(data\.{key}\); there are"):
            read_choice_questions(spec, DataConfig(**{key: "asked"}), role="train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["x"]}, "row 2: a question needs at least two choices, here are 1"),
        ({"choices": "x or y"}, "row 2: column 'choices' holds 'x or y', but it must hold a list of choices"),
        ({"choices": ["x", ""]}, "row 2: column 'choices' holds an empty choice"),
        ({"choices": ["x", {}]}, "row 2: column 'choices' holds an object as a choice"),
        ({"question": " "}, "row 2: column 'question' is empty"),
        ({"label": None}, "row 2: column 'label' is empty"),
    ],
)
def test_bad_rows_are_named_or_left_out(tmp_path, caplog, row, message):
    rows = rows_of(0, 1, 2)
    rows[1] |= row
    with pytest.raises(UserError, match=message):
        read(tmp_path / "train.jsonl", rows)
    questions = read(tmp_path / "train.jsonl", rows, bad_rows="skip")
    assert [item.question for item in questions.items] == ["q0", "q2"]
    assert "1 row is left out (data.bad_rows: skip): row 2" in caplog.text
    assert questions.facts.skipped == 1


def test_a_choice_in_the_middle_must_not_be_empty(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("question,a,b,c,label\nq,one,,three,0\n")
    with pytest.raises(UserError, match="row 2: column 'b' is empty, but 'c' is not: fill in the choice"):
        read_choice_questions(str(path), DataConfig(choices=COLUMNS), role="train")


def test_questions_to_answer_need_no_label_and_keep_columns(tmp_path):
    rows = [{"id": i, "question": "q", "choices": ["x", "y"]} for i in range(3)]
    source = open_choice_questions(write(tmp_path / "test.jsonl", rows), DataConfig(), role="predict", kept=("id",))
    assert [item.kept for item in source.stream(Facts())] == [{"id": 0}, {"id": 1}, {"id": 2}]


def test_rows_left_out_are_counted_over_all_parts_and_both_checks(tmp_path, monkeypatch):
    """Two without a question, which every reader of tables checks, and two without choices, in different parts."""
    monkeypatch.setattr("jaxbert.data.table.PART_ROWS", 50)
    rows = [f"q{i},x,y,0" for i in range(200)]
    for at, row in ((5, "q,only,,0"), (20, ",x,y,0"), (150, "q,only,,0"), (180, ",x,y,0")):
        rows[at] = row
    path = tmp_path / "train.csv"
    path.write_text("\n".join(["question,a,b,label", *rows]) + "\n")
    data = DataConfig(choices=["a", "b"], bad_rows="skip")
    found = read_choice_questions(str(path), data, role="train")
    assert (len(found), found.facts.skipped) == (196, 4)
    first = read_choice_questions(str(path), data, role="train", limit=40)
    assert first.facts.skipped == 2
    assert sum("1 row is left out" in note for note in first.facts.said) == 2


def test_a_label_of_another_kind_is_one_line(tmp_path):
    rows = {"question": ["q", "r"], "choices": [["a", "b"]] * 2, "label": [datetime.date(2020, 1, 1)] * 2}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    with pytest.raises(
        UserError, match=r"row 1: the label column holds a value of type date \(2020-01-01\): write text"
    ):
        read_choice_questions(str(tmp_path / "train.parquet"), DataConfig(), role="train")
