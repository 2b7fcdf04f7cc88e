"""Files become tables, and every malformed file is one line that names the place and the way out."""

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import read

from jaxbert.config import DataConfig
from jaxbert.data import files
from jaxbert.data.table import Table
from jaxbert.errors import UserError


def load(path: Path, *, labelled: bool | None = True, limit: int | None = None, **keys) -> Table:
    return read(str(path), DataConfig(**keys), role="train", labelled=labelled, limit=limit)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path: Path, **keys) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\ngood,pos\nbad,neg\n"),
        ("a.csv", "label,id,text\r\npos,1,good\r\nneg,2,bad"),
        ("a.csv", "\ufefftext, label\ngood, pos\nbad,neg \n"),
        ("a.csv", 'text,label\n"good","pos"\nbad,neg\n\n\n'),
        ("A.TSV", "text\tlabel\ngood\tpos\nbad\tneg\n"),
        ("a.txt", "text\tlabel\ngood\tpos\nbad\tneg\n"),
        ("a.jsonl", '{"text": "good", "label": "pos"}\n{"label": "neg", "text": "bad"}\n\n'),
        ("a.json", '\ufeff{"text": "good", "label": "pos", "x": [1]}\r\n{"label": "neg", "text": "bad"}'),
        ("a.ndjson", '{"text": "good", "label": "pos"}\n{"label": "neg", "text": "bad"}\n'),
    ],
)
def test_formats_agree(tmp_path, name, content):
    table = load(write(tmp_path / name, content))
    assert (table.texts, table.labels, table.pairs) == (["good", "bad"], ["pos", "neg"], None)


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    words = pa.array(["good", "bad"]).dictionary_encode()
    pq.write_table(pa.table({"label": words, "text": pa.array([b"good", b"bad"]), "n": [1, 2]}), path)
    table = load(path)
    assert (table.texts, table.labels, list(table.rows)) == (["good", "bad"], ["good", "bad"], [1, 2])
    assert load(path, limit=1).texts == ["good"]


def test_pairs(tmp_path):
    table = load(write(tmp_path / "a.csv", "a,b,label\nx,y,1\nz,w,0\n"), text="b", text_pair="a")
    assert (table.texts, table.pairs, table.labels) == (["y", "w"], ["x", "z"], ["1", "0"])


def test_columns_name_a_file_without_header(tmp_path):
    path = write(tmp_path / "a.tsv", "\ufeffgood\t1\nbad\t0\n")
    table = load(path, columns=["text", "label"])
    assert (table.texts, table.labels, list(table.rows)) == (["good", "bad"], ["1", "0"], [1, 2])


def test_raw_quoting_takes_quotes_as_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n" he said\t1\nhe "said"\r\t0\r\n')
    assert load(path, quoting="none").texts == ['" he said', 'he "said"\r']


def test_quoted_fields_hold_newlines_and_rows_are_lines(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\n"one\r\ntwo",a\nthree,b\n"",c\n')
    assert load(path, limit=2).texts == ["one\r\ntwo", "three"]
    assert list(load(path, limit=2).rows) == [2, 4]
    assert "a.csv, row 5: column 'text' is empty" in complaint(path)


def test_long_fields_and_nul_bytes_are_text(tmp_path):
    long = "x" * 200_000
    path = write(tmp_path / "a.csv", f"text,label\n{long},a\nnul\0byte,b\n")
    assert load(path).texts == [long, "nul\0byte"]


def test_limit_stops_before_later_rows(tmp_path):
    for path in (
        write(tmp_path / "a.csv", b"text,label\ngood,a\n\xff,b\n"),
        write(tmp_path / "a.jsonl", b'{"text": "good", "label": "a"}\n{\n'),
    ):
        assert load(path, limit=1).texts == ["good"]


@pytest.mark.parametrize("column", [["1", "0"], ["1.0", "-2.0"], ["1", "x"], ["01", "02"], ["3.5", "1.0"]])
def test_labels_of_a_csv_are_as_they_were_written(tmp_path, column):
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t,{value}\n" for value in column))
    assert load(path).labels == column


@pytest.mark.parametrize(
    ("column", "labels", "names"),
    [
        ([1, 0], [1, 0], None),
        ([1.0, 0.0], [1.0, 0.0], None),
        ([True, False], [1, 0], ["false", "true"]),
        (["1", 0], ["1", 0], None),
    ],
)
def test_label_values_of_json(tmp_path, column, labels, names):
    lines = [json.dumps({"text": "t", "label": value}) for value in column]
    table = load(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert (table.labels, table.label_names) == (labels, names)


def test_labels_are_optional_or_ignored(tmp_path):
    without = write(tmp_path / "a.csv", "text\ngood\n")
    partly = write(tmp_path / "b.csv", "text,label\ngood,a\nbad,\n")
    full = write(tmp_path / "c.csv", "text,label\ngood,a\n")
    assert load(without, labelled=None).labels is None
    assert load(partly, labelled=None).labels is None
    assert load(full, labelled=None).labels == ["a"]
    assert load(full, labelled=False).labels is None


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path / "train.csv", "text,label\n")
    message = complaint(tmp_path / "tran.csv")
    assert "no such file" in message
    assert repr(str(tmp_path / "train.csv")) in message
    assert "there is no folder" in complaint(tmp_path / "nowhere" / "a.csv")


def test_folder(tmp_path):
    assert "no file to read there (it is empty)" in complaint(tmp_path)
    write(tmp_path / "a.xml", "")
    assert "no file to read there (it has 'a.xml')" in complaint(tmp_path)


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = write(tmp_path / "a.csv", "text,label\n")
    monkeypatch.setattr(Path, "open", refuse)
    assert "a.csv: cannot be read: Permission denied" in complaint(path)


@pytest.mark.parametrize(
    ("name", "content", "keys", "expected"),
    [
        ("a.xlsx", "x", {}, "unknown file type '.xlsx': it must be one of .csv .tsv"),
        ("a.csv", "", {}, "a.csv: the file is empty"),
        ("a.jsonl", "\n\n", {}, "a.jsonl: the file is empty"),
        ("a.csv", "text,label\n\n", {}, "a.csv: there is a header but no rows"),
        ("a.csv", "\ntext,label\n", {}, "row 1: the row is blank"),
        (
            "a.csv",
            "txt,label\na,b\n",
            {},
            "no column 'text' (data.text); there are 'txt', 'label'; did you mean 'txt'?",
        ),
        ("a.csv", "text,klass\na,b\n", {}, "no column 'label' (data.label); there are 'text', 'klass'"),
        ("a.csv", "text,label\na,b\n", {"text_pair": "text2"}, "(data.text_pair); there are 'text', 'label'; did you"),
        ("a.csv", "it was good,1\nbad,0\n", {}, "row 1 looks like data: if the file has no header, set data.columns"),
        ("a.csv", "good,pos\nbad,neg\n", {}, "if the file has no header, set data.columns"),
        ("a.csv", "Text,Label\na,b\n", {"columns": ["text", "label"]}, "row 1: this is a header ('Text', 'Label')"),
        ("a.csv", "text,label\na,b\n", {"columns": ["label", "text"]}, "row 1: this is a header"),
        ("a.csv", "review,label\na,b\n", {"columns": ["text", "label"]}, "row 1: this is a header"),
        ("a.csv", "a,b\n", {"columns": ["text", "lable"]}, "data.columns: no column 'label' (data.label); there are"),
        ("a.csv", "a,b\n", {"columns": ["text", "text"]}, "data.columns: several columns are named 'text'"),
        ("a.csv", "text,label,text\na,b,c\n", {}, "row 1: several columns are named 'text'"),
        ("a.csv", "text,label\na,b\n ,b\n", {}, "row 3: column 'text' is empty"),
        ("a.csv", "text,label\na,b\na,\n", {}, "row 3: column 'label' is empty"),
        ("a.csv", "text,label\na,b\n\na,b\n", {}, "row 3: the row is blank"),
        ("a.csv", "text,label\na,b\na\n", {}, "row 3: too few fields: found 1, but the header has 2"),
        ("a.csv", "a\n", {"columns": ["text", "label"]}, "row 1: too few fields: found 1, but data.columns names 2"),
        ("a.csv", "text,label\na,b,c\n", {}, "row 2: too many fields: found 3, but the header has 2"),
        ("a.tsv", "text\tlabel\na\tb\ta\n", {"quoting": "none"}, "row 2: too many fields: found 3"),
        ("a.csv", 'text,label\na,b\n"a,b\nc,d\n', {}, "row 3: a quote opens a field but does not close it"),
        ("a.tsv", 'text\tlabel\n"a" b\tc\n', {}, "row 2: a quote opens a field but does not close it"),
        ("a.csv", "text,label\na\rb,c\n", {}, "row 2: a carriage return inside a field"),
        ("a.csv", b"text,label\na,b\ncaf\xe9,c\n", {}, "row 3: not UTF-8 (byte 0xe9 at position 4 of the row)"),
        ("a.jsonl", b'{"text": "\xe9", "label": 1}\n', {}, "row 1: not UTF-8 (byte 0xe9 at position 11"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', {}, "row 2: not a complete JSON object"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', {}, "row 1: not a complete JSON object"),
        ("a.json", '[{"text": "a"}]', {}, "row 1: no column 'label' (data.label)"),
        ("a.json", "[\n1]", {}, "row 1: not a complete JSON object (a JSON array is not JSON lines"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 1}', {}, "row 2: the row is blank"),
        ("a.jsonl", '{"txt": "a", "label": 1}\n', {}, "row 1: no column 'text' (data.text); there are 'txt', 'label'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 1}\n', {}, "row 2: column 'text' is empty"),
        ("a.jsonl", '{"text": "a", "label": null}\n', {}, "row 1: column 'label' is empty"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', {}, "row 1: column 'label' is empty"),
        ("a.jsonl", '{"text": 5, "label": 1}\n', {}, "row 1: column 'text' holds a number (5), but it must hold text"),
        ("a.jsonl", '{"text": ["a"], "label": 1}\n', {}, "row 1: column 'text' holds a list (['a'])"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n', {}, "row 1: column 'label' holds a list ([1])"),
        ("a.parquet", "PAR1 not really", {}, "not a readable parquet file"),
        ("a.parquet", "", {}, "not a readable parquet file"),
    ],
)
def test_malformed_files(tmp_path, name, content, keys, expected):
    assert expected in complaint(write(tmp_path / name, content), **keys)


def test_malformed_parquet_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "label": ["a", "b"]}), path)
    assert "row 1: column 'text' holds a number" in complaint(path)
    assert "no column 'body' (data.text); there are 'text', 'label'" in complaint(path, text="body")
    pq.write_table(pa.table({"text": pa.array([b"ok", b"\xe9"]), "label": ["a", "b"]}), path)
    assert "row 2: column 'text' is not UTF-8 (byte 0xe9 at position 1)" in complaint(path)
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), path)
    assert "no rows" in complaint(path)
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    assert "several columns are named 'text'" in complaint(path)


def test_cut_off_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 100] * 100, "label": list(range(100))}), path)
    content = path.read_bytes()
    write(path, content[: len(content) // 2])
    assert "not a readable parquet file" in complaint(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'text,label\na,b\n"c,d\n' + "e,f\n" * 100, "row 3: a quote opens a field but does not close it"),
        ("a.csv", "text,label\na,b\n" + "c" * 101, "row 3: longer than"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n' + "[" * 101, "row 2: longer than"),
        ("a.csv", "text,label\na,b\n" + "c" * 90 + ",d\n", None),
    ],
)
def test_rows_have_a_bound(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.setattr(files, "LONGEST_ROW", 100)
    path = write(tmp_path / name, content)
    if expected is None:
        assert load(path).texts[-1] == "c" * 90
    else:
        assert expected in complaint(path)


def test_a_header_of_many_columns_takes_no_time(tmp_path):
    columns = ",".join(f"c{i}" for i in range(200_000))  # each compared with all others, this would take hours
    assert "no column 'text'" in complaint(write(tmp_path / "a.csv", f"{columns}\n"))


def test_parquet_text_that_is_not_utf_8(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array([b"ok", b"\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": text, "label": ["a", "b"]}), path)
    assert "not a readable parquet file" in complaint(path)
