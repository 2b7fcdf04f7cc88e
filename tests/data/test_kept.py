"""Columns that are copied into the answers come along with the texts, as the source wrote them."""

import io
import itertools
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source
from jaxbert.errors import UserError

RECORDS = [{"id": 7, "text": "good", "more": [1, None]}, {"id": 8, "text": "bad", "more": []}]
FILES = {
    "a.csv": 'id,text,more\n7,good,"1, 2"\n 8,bad,\n',
    "a.tsv": "more\tid\ttext\n1, 2\t7\tgood\n\t 8\tbad\n",
    "a.jsonl": "".join(json.dumps(record) + "\n" for record in RECORDS),
    "a.parquet": "",
}


def kept(spec, *names, **keys) -> list[tuple]:
    source = open_source(str(spec), DataConfig(**keys), role="predict", labelled=False, kept=names)
    columns = [part.kept for part in source.parts()]
    return list(
        itertools.chain.from_iterable(zip(*(column[name] for name in names), strict=True) for column in columns)
    )


@pytest.mark.parametrize("name", FILES)
def test_values_are_the_source_s_own(tmp_path, name):
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / name)
    else:
        (tmp_path / name).write_text(FILES[name])
    texts = name.endswith((".csv", ".tsv"))
    expected = [("7", "1, 2"), (" 8", "")] if texts else [(7, [1, None]), (8, [])]
    assert kept(tmp_path / name, "id", "more") == expected
    assert kept(tmp_path / name, "text") == [("good",), ("bad",)]
    with pytest.raises(UserError, match=r"no column 'mor' \(--keep\); .*did you mean 'more'\?"):
        kept(tmp_path / name, "id", "mor")


def test_plain_text_has_the_text_alone(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("good\nbad\n")
    assert kept(tmp_path / "a.txt", "text") == [("good",), ("bad",)]
    for spec in (tmp_path / "a.txt", "-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\nbad\n")))
        with pytest.raises(UserError, match="lines of plain text have no column 'id'"):
            kept(spec, "id")


@pytest.mark.parametrize("lines", [("good\n", "bad\n"), ('{"text": "good"}\n', '{"text": "bad"}\n')])
def test_lines_of_a_pipe_come_one_by_one(monkeypatch, lines):
    """Each is there before the next is written."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "w", buffering=1) as feed:
        monkeypatch.setattr("sys.stdin", stdin)
        source, parts = open_source("-", DataConfig(), role="predict", labelled=False), None
        for row, line in enumerate(lines, 1):
            feed.write(line)
            parts = parts or source.parts()
            part = next(parts)
            assert (part.texts, list(part.rows)) == ([["good"], ["bad"]][row - 1], [row])
        feed.close()
        assert list(parts) == []


def test_a_file_as_standard_input_comes_in_large_parts(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("good\nbad\n")
    with (tmp_path / "a.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        (part,) = open_source("-", DataConfig(), role="predict", labelled=False).parts()
    assert part.texts == ["good", "bad"]


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input: is closed"):
        kept("-")
