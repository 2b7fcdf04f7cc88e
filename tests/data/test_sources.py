"""The one entry finds the reader; plain text and standard input serve prediction."""

import io
import subprocess
import sys

import pytest
from tables import read, whole

from jaxbert.config import DataConfig
from jaxbert.data.files import Text
from jaxbert.data.sources import read_lines
from jaxbert.data.table import Intake, Wanted
from jaxbert.errors import UserError


def lines(content: bytes, **keys):
    wanted, data = Wanted.of(DataConfig(**keys), None), DataConfig(**keys)
    intake = Intake("standard input", wanted, data)
    text = Text(io.BytesIO(content), "standard input")
    tables = list(intake.tables(read_lines(text, intake), "standard input"))
    intake.finish()
    return whole(tables, wanted, "standard input")


def test_plain_text_is_one_example_a_line():
    table = lines(b"\xef\xbb\xbfgood, really\n \xe5\xa5\xbd\tx\r\nbad")
    assert table.texts == ["good, really", " 好\tx", "bad"]
    assert (table.labels, list(table.rows)) == (None, [1, 2, 3])


def test_json_lines_are_recognized():
    table = lines(b'\xef\xbb\xbf{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    assert (table.texts, table.labels) == (["a", "b"], [1, 0])
    assert lines(b'{"a": "x", "b": "y"}', text="a", text_pair="b").pairs == ["y"]


@pytest.mark.parametrize(
    ("content", "keys", "expected"),
    [
        (b"", {}, "standard input: empty"),
        (b"good\n\nbad\n", {}, "standard input, row 2: the line is blank"),
        (b"good\nbad\n\n", {}, "standard input, row 3: the line is blank"),
        (b"\ngood\n", {}, "standard input, row 1: the line is blank"),
        (b'\n{"text": "a"}\n', {}, "standard input, row 1: the row is blank"),
        (b"good\n\xff\n", {}, "standard input, row 2: not UTF-8 (byte 0xff at position 1"),
        (b"good\n", {"text_pair": "b"}, "have no second text (data.text_pair)"),
        (b'{"text": "a"}\n{"text": 1}\n', {}, "standard input, row 2: column 'text' holds a number"),
    ],
)
def test_malformed_lines(content, keys, expected):
    with pytest.raises(UserError) as caught:
        lines(content, **keys)
    assert expected in str(caught.value)


def test_dash_reads_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert read("-", DataConfig(), role="predict", labelled=None, limit=1).texts == ["one"]


def test_plain_text_has_no_labels(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    with pytest.raises(UserError, match="have no labels"):
        read("-", DataConfig(), role="test", labelled=True)


def test_txt_without_tab_is_plain_text_for_prediction(tmp_path):
    path = tmp_path / "a.txt"
    for content, columns, texts in (
        ("it was good\nit was bad\n", None, ["it was good", "it was bad"]),
        ("it was good\nit was bad\n", ["text", "label"], ["it was good", "it was bad"]),
        ("text\nit was good\n", None, ["it was good"]),
        ("id\ttext\n1\tit was good\n", None, ["it was good"]),
    ):
        path.write_text(content)
        assert read(str(path), DataConfig(columns=columns), role="predict", labelled=None).texts == texts
    path.write_text("it was good\nit was bad\n")
    with pytest.raises(UserError, match="if the file has no header, set data"):
        read(str(path), DataConfig(), role="train", labelled=True)


def test_missing_txt_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read(str(tmp_path / "a.txt"), DataConfig(), role="predict", labelled=None)


def test_importing_the_readers_is_cheap():
    heavy = "{'jax', 'datasets', 'transformers', 'tensorflow_datasets', 'sklearn', 'pyarrow'}"
    modules = "sources, hub, tfds, labels, split, table, store, items"
    code = f"import sys; from jaxbert.data import {modules}; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
