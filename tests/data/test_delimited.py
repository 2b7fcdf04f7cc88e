"""csv and its kin as spreadsheets and other programs write them: read, or refused with the cause and the way out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tables import read

from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source
from jaxbert.data.table import Table
from jaxbert.errors import UserError


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What is said."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("jaxbert").addHandler(handler)
    yield said
    logging.getLogger("jaxbert").removeHandler(handler)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a file and read it."""
    monkeypatch.chdir(tmp_path)

    def load(content: str | bytes, name: str = "a.csv", role="train", labelled: bool | None = True, **keys) -> Table:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(name, DataConfig(**keys), role=role, labelled=labelled)

    return load


def facts(name: str = "a.csv", **keys):
    source = open_source(name, DataConfig(**keys), role="train", labelled=True)
    return next(source.parts()).facts


ROWS = [("good, really; yes", "x"), ("two\tmore | words", "y")]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_the_header_shows_the_separator(load, notes, separator, name):
    lines = [f'"{text}"{separator}{label}' for text, label in ROWS]
    table = load("\n".join([f"text{separator}label", *lines, ""]), name)
    assert list(zip(table.texts, table.labels, strict=True)) == ROWS
    assert facts(name).separator == separator
    usual = "," if name == "a.csv" else "\t"
    assert [note.partition(":")[0] for note in notes] == ([name, name] if separator != usual else [])
    assert all("the fields are separated by a" in note for note in notes)


HEADERS = {
    '"text";"label"': [],
    '\ufeff"text";"label"': [],
    " text ; label\u00a0": [],
    "\ufeff\ufefftext;label\u200b": [],
    ";text;label": [],
    "note;text;note;label": [],
    "Text;label": ["a.csv, row 1: column 'Text' is taken for 'text'"],
    "TEXT;La bel": None,
}


@pytest.mark.parametrize("header", HEADERS)
def test_headers(load, notes, header):
    fields = {"text": "one", "label": "x"}
    width = header.count(";") + 1
    row = ";".join(["0", *fields.values()][3 - width :]) if width < 4 else "0;one;1;x"
    if HEADERS[header] is None:
        with pytest.raises(UserError, match="separated by a semicolon: 'TEXT', 'La bel'"):
            load(f"{header}\n{row}\n")
        return
    table = load(f"{header}\n{row}\n")
    assert (table.texts, table.labels) == (["one"], ["x"])
    assert notes[1:] == HEADERS[header]


def test_columns_that_differ_in_case_alone_must_be_clear(load):
    with pytest.raises(UserError, match=r"several columns are named 'TEXT', 'Text' \(data.text is 'text'\)"):
        load("TEXT,Text,label\na,b,c\n")
    assert load("TEXT,text,label\na,b,c\n").texts == ["b"]


def test_a_separator_that_is_set_counts(load, notes):
    for separator in (";", "tab", "\\t", "\t", "~"):
        between = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
        content = f"text{between}label\na,b{between}x\n"
        assert load(content, "a.tsv", separator=separator).texts == ["a,b"]
    assert load("text::label\na:b::x\n", separator="::", quoting="none").texts == ["a:b"]
    assert not notes
    with pytest.raises(UserError, match=r"no column 'text' .*separated by a comma: 'text', 'label'"):
        load("text,label\na,b\n", separator=";")


def test_quotes_can_be_others(load):
    content = "text,label\n'a, \"b\"',x\n'it''s',y\n"
    assert load(content, quote="'").texts == ['a, "b"', "it's"]


NO_HEADER = {
    "good;x\nbad;y\n": (";", None),
    "good, yes;x\nbad;y\n": (";", None),
    "good,x\nbad;worse,y\n": (",", None),
    "good;x\nbad\n": (";", "row 2: too few fields: found 1, but data.columns names 2"),
    "good;x;;\nbad;y;;\n": (";", None),
    "good,1;x\nbad,2;y\n": (
        None,
        "a.csv: its rows have 2 fields separated by a comma as well as by a semicolon: set data",
    ),
    "one\n": (None, "row 1: too few fields: found 1, but data.columns names 2"),
}


@pytest.mark.parametrize("content", NO_HEADER)
def test_without_a_header_the_rows_must_tell(load, content):
    separator, error = NO_HEADER[content]
    if error is None:
        table = load(content, columns=["text", "label"])
        assert (table.texts[0].partition(",")[0], table.labels, table.rows) == ("good", ["x", "y"], [1, 2])
        assert facts(columns=["text", "label"]).separator == separator
        return
    with pytest.raises(UserError, match=error):
        load(content, columns=["text", "label"])


def test_one_stray_row_decides_nothing(load):
    rows = [f"text {i};x\n" for i in range(30)]
    rows[7] = "a, b\n"
    with pytest.raises(UserError, match="row 8: too few fields"):
        load("".join(rows), columns=["text", "label"])
    assert len(load("".join(rows), columns=["text", "label"], bad_rows="skip").texts) == 29


def test_one_column_has_no_separator(load):
    assert load("good; really|x\nbad\n", columns=["text"], labelled=False).texts == ["good; really|x", "bad"]
    assert load("text\ngood; really\nbad\n", labelled=False).texts == ["good; really", "bad"]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;\r", "\ufeffsep=;"])
def test_the_line_that_excel_reads(load, notes, line):
    table = load(f"{line}\ntext;label\na,b;x\n", "a.tsv")
    assert (table.texts, table.rows) == (["a,b"], [3])
    assert load(f"{line}\na;b\n", "a.tsv", columns=["text", "label"]).rows == [2]
    assert set(notes) == {"a.tsv: the fields are separated by a semicolon, as the first line says"}


EMPTY = {
    "text,label,,\na,x,,\nb,y,,\n": ["2 empty columns at the right left out"],
    "text,label\na,x,\nb,y,, \n": ["2 empty columns at the right left out"],
    "text,label,,\na,x\nb,y\n": ["2 empty columns at the right left out"],
    "text,label\na,x\nb,y\n,\n,\n": ["2 empty rows at the end left out"],
    "text,label\na,x\nb,y\n  \n\t\n": ["2 empty rows at the end left out"],
    "text,label,\na,x,\nb,y,\n,,\n": ["1 empty column at the right and 1 empty row at the end left out"],
    "text,label\na,x\nb,y\n\n\n": [],
    "text,label,\na,x,1\nb,y,2\n": [],
}


@pytest.mark.parametrize("content", EMPTY)
def test_what_is_empty_at_the_edges_is_left_out(load, notes, content):
    table = load(content)
    assert (table.texts, table.labels, list(table.rows)) == (["a", "b"], ["x", "y"], [2, 3])
    assert [note.removeprefix("a.csv: ") for note in notes] == EMPTY[content]


def test_rows_are_those_of_the_file_through_parts_and_quoted_lines(load, monkeypatch):
    content = 'text,label\n"one\ntwo",x\n\n"a\n\nb",y\nc,z\n"d\ne",\n'
    for rows in (1, 2, 3, 4096):
        monkeypatch.setattr("jaxbert.data.table.PART_ROWS", rows)
        table = load(content, bad_rows="skip")
        assert (table.texts, table.rows) == (["one\ntwo", "a\n\nb", "c"], [2, 5, 8])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_in_the_middle_is_no_example(load, notes, mark):
    """Files were put together by `cat`."""
    content = f"text,label\na,x\n{mark}text,label\nb,y\ntext,other\n"
    with pytest.raises(UserError, match="row 3: the row repeats the header, as in joined files: remove it"):
        load(content)
    table = load(content, bad_rows="skip")
    assert (table.texts, table.rows) == (["a", "b", "text"], [2, 4, 5])
    with pytest.raises(UserError, match="row 2: the row repeats the header"):
        load("a,x\ntext,label\nb,y\n", columns=["text", "label"])


CAUSES = {
    "review;klass\na;x\nb;y\n": "row 1: no column 'text' .* separated by a semicolon: 'review', 'klass'",
    "text,label\n1,a,x\n2,b,y\n": "row 1: the header has 2 columns, but each of the first rows has 3 fields: give the first",
    "text,label,n\na,x\nb,y\n": "row 1: the header has 3 columns, but each of the first rows has 2 fields: see whether",
    "text,label\na,x\nb;y\n": "row 3: too few fields: .*; this row seems to be separated by a semicolon",
    "text,label\na,x\n\0\0\0\n": "row 3: too few fields: .* has NUL bytes",
    'text,label\n"a \\"b\\" c",x\n': r"row 2: a quote opens a field .* \(inside of a field it is written twice\)",
    '{"text": "a", "label": 1}\n': "no column 'text' .*; this is JSON: name the file .jsonl",
    "<!DOCTYPE html>\n<html>\n": "no column 'text' .*; this is a page of HTML",
    "text;label\n": "a.csv: there is a header but no rows",
    ",,\n": "row 1: the row is blank",
    "text,label,text\na,b,c\n": "several columns are named 'text'",
}


@pytest.mark.parametrize("content", CAUSES)
def test_messages_name_the_cause(load, content):
    with pytest.raises(UserError, match=CAUSES[content]) as caught:
        load(content)
    assert "\n" not in str(caught.value)


def test_plain_text_is_told_from_a_table(load):
    assert load("good; bad, text\nx\n", "a.txt", role="predict", labelled=False).texts == ["good; bad, text", "x"]
    assert load("id;text\n1;x\n", "a.txt", role="predict", labelled=False).texts == ["x"]
    assert load("a\nb\n", "a.txt", role="predict", labelled=False, separator=",", columns=["text"]).texts == ["a", "b"]
