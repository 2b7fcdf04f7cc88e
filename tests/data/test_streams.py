"""Bytes become lines: compressed files, encodings, line ends, and files that are none of text."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import resource
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from tables import read

from jaxbert.config import DataConfig, PretrainConfig
from jaxbert.data import files
from jaxbert.data.encodings import likely_encoding
from jaxbert.data.files import Text
from jaxbert.data.sources import open_source
from jaxbert.errors import UserError
from jaxbert.tasks.pretraining.documents import open_documents


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
CSV = "text,label\n" + "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(2000))
FORMATS = {
    ".csv": CSV,
    ".tsv": CSV.replace(",", "\t"),
    ".jsonl": "".join(json.dumps({"text": f"text {i}", "label": "xy"[i % 2]}) + "\n" for i in range(2000)),
    ".json": json.dumps([{"text": f"text {i}", "label": "xy"[i % 2]} for i in range(2000)]),
}


def load(path: Path, **keys):
    return read(str(path), DataConfig(**keys), role="train", labelled=True)


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("kind", FORMATS)
def test_compressed_files(tmp_path, kind, packed):
    content = FORMATS[kind].encode()
    path = tmp_path / f"a{kind}{packed}"
    path.write_bytes(PACK[packed](content))
    table = load(path)
    assert (table.texts, table.labels) == ([f"text {i}" for i in range(2000)], ["x", "y"] * 1000)
    path.write_bytes(PACK[packed](content[:1000]) + PACK[packed](content[1000:]))  # as `cat` joins two
    assert load(path).texts == table.texts
    for damaged in (PACK[packed](content)[:-9], PACK[packed](content)[:100], content):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"a{kind}{packed}: damaged or cut off, or not compressed as {packed} says"):
            load(path)


@pytest.mark.parametrize("packed", PACK)
def test_a_corpus_and_lines_to_predict_may_be_compressed(tmp_path, packed):
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(PACK[packed](b"one\n\ntwo\nthree\n"))
    assert list(open_documents(str(path), DataConfig(), PretrainConfig()).lines()) == ["one", "", "two", "three", ""]
    path.write_bytes(PACK[packed](b"one\ntwo\n"))
    assert read(str(path), DataConfig(), role="predict", labelled=False).texts == ["one", "two"]


@pytest.mark.parametrize("packed", [".gz", ".zst"])  # the others take long to be written
def test_a_bomb_fills_no_memory(tmp_path, packed):
    path = tmp_path / f"a.csv{packed}"
    path.write_bytes(PACK[packed](b"text,label\n" + b"a" * 2**27))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"row 2: longer than 16 MiB"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_an_xz_file_that_asks_for_much_memory_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}]
    path = tmp_path / "a.csv.xz"
    packer = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    path.write_bytes(packer.compress(b"text,label\na,x\n") + packer.flush())
    assert load(path).texts == ["a"]
    assert filters[0]["dict_size"] > files._MOST_XZ  # such a header is refused by the library's own bound
    with pytest.raises(lzma.LZMAError):
        lzma.LZMADecompressor(memlimit=2**16).decompress(path.read_bytes())


TEXT = "text,label\ngut ü,x\n好,y\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_say_the_encoding(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode(encoding))
    table = load(path)
    assert (table.texts, table.rows) == (["gut ü", "好"], [2, 3])
    source = open_source(str(path), DataConfig(), role="train", labelled=True)
    assert next(source.parts()).facts.encoding == encoding.removesuffix("-sig")
    path.write_bytes("".join(json.dumps({"text": t, "label": 1}) + "\n" for t in ("gut ü", "好")).encode(encoding))
    assert load(path.rename(tmp_path / "a.jsonl")).texts == ["gut ü", "好"]


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-16-le", "utf-16-be", "utf-32-be", "big5hkscs"])
def test_an_encoding_that_is_set(tmp_path, encoding):
    content = TEXT if encoding[:2] in ("gb", "ut") else TEXT.replace("ü", "u")
    content = content.replace("ü", "u") if encoding == "gbk" else content
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode(encoding))
    assert load(path, encoding=encoding).texts == [content.split("\n")[1][:-2], "好"]


def test_a_mark_counts_for_more_than_the_setting(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode("utf-8-sig"))
    assert load(path, encoding="gbk").texts == ["gut ü", "好"]
    assert "read as utf-8, whose byte-order mark it has, and not as gbk" in caplog.text


WRONG = {
    "价格便宜,x": "gbk",
    "café très bon,x": "cp1252",
    "Größe,x": "cp1252",
    "Очень хороший фильм,x": "cp1251",
    "とても良い商品です,x": "shift_jis",
    "배송이 빠르고 좋아요,x": "euc_kr",
    "這部電影真的很好看,x": "big5",
}


@pytest.mark.parametrize("row", WRONG)
def test_the_likely_encoding_is_named(tmp_path, row):
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{row}\n".encode(WRONG[row]))
    with pytest.raises(
        UserError, match=rf"row 2: not UTF-8 \(byte 0x.*it looks like {WRONG[row]}: set data.encoding to"
    ):
        load(path)
    assert load(path, encoding=WRONG[row]).texts == [row[:-2]]


def test_nothing_is_guessed_where_nothing_fits():
    assert likely_encoding(b"\xff\x81\x8d") is None


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("header", ["text,label", "文本,标签"])
def test_wide_characters_without_a_mark(tmp_path, encoding, header):
    path = tmp_path / "a.csv"
    path.write_bytes(f"{header}\n好 good,x\n".encode(encoding))
    if "32" not in encoding or header.isascii():
        with pytest.raises(UserError, match=f"looks like {encoding} without a byte-order mark: set data.encoding to"):
            load(path)
    text, label = header.split(",")
    assert load(path, encoding=encoding, text=text, label=label).texts == ["好 good"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gbk"])
def test_lines_may_end_in_carriage_returns(tmp_path, encoding, caplog):
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\r好,x\rb,y".encode(encoding))
    table = load(path, encoding=None if encoding != "gbk" else "gbk")
    assert (table.texts, table.rows) == (["好", "b"], [2, 3])
    assert "a.csv: its lines end in carriage returns" in caplog.text


def workbook() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("xl/workbook.xml", "")
    return archive.getvalue()


OTHERS = {
    "workbook": (workbook(), r"a zip archive or a workbook \(.xlsx, .ods\): unpack it, or save the sheet as CSV"),
    "gzip": (gzip.compress(b"text,label\n"), "compressed by gzip: name it with .gz"),
    "zstd": (zstd(b"text,label\n"), "compressed by zstd: name it with .zst"),
    "pdf": (b"%PDF-1.7\n", "a PDF document"),
    "parquet": (b"PAR1\x15\x04", "a parquet file: name it .parquet"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "nothing": (b"\0" * 100, "begins with NUL bytes"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".txt"])
def test_files_that_are_no_text(tmp_path, name, extension):
    content, message = OTHERS[name]
    path = tmp_path / f"a{extension}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_byte_of_zero_in_a_text_is_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\na\0b,x\n")
    assert load(path).texts == ["a\0b"]


def test_strict_lines_end_at_the_first_wrong_byte():
    text = Text(io.BytesIO(b"one\n\xff\n"), "a.txt")
    lines = text.strict_lines()
    assert next(lines) == "one\n"
    with pytest.raises(UserError, match=r"a.txt, row 2: not UTF-8 \(byte 0xff at position 1 of the row\)"):
        next(lines)
