"""Data is tokenized once and in pieces; a cached start gives the same arrays, the same notes and the same labels."""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from runs import VOCAB, random_rows, write_csv
from transformers import BertTokenizer

from jaxbert.config import DataConfig
from jaxbert.data import sources, store, table, tokens
from jaxbert.data.label_column import LabelVocabulary
from jaxbert.data.sources import open_source
from jaxbert.data.tokens import LongTexts
from jaxbert.errors import UserError

ARRAYS = ("ids", "begins", "lengths", "first_lengths")


@pytest.fixture
def tokenizer(tmp_path):
    return new_tokenizer(tmp_path)


def new_tokenizer(folder: Path, **options) -> BertTokenizer:
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return BertTokenizer(vocab=str(folder / "vocab.txt"), **options)


@pytest.fixture
def notes():
    """What the package says."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger("jaxbert")
    logger.addHandler(Handler())
    logger.setLevel(logging.INFO)
    return said


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def data_file(tmp_path):
    return write_csv(tmp_path / "train.csv", random_rows(60))


def make(path, tokenizer, folder=None, max_length=8, limit=None, role="train", labelled=True, **keys):
    source = open_source(str(path), DataConfig(**keys), role=role, labelled=labelled, limit=limit)
    return store.prepare(source, tokenizer, max_length, folder=folder)


def assert_same(found, expected) -> None:
    for name in ARRAYS:
        array = getattr(found.tokens, name)
        assert array.dtype == getattr(expected.tokens, name).dtype
        np.testing.assert_array_equal(array, getattr(expected.tokens, name))
    np.testing.assert_array_equal(found.labels.codes, expected.labels.codes)
    assert found.labels.vocabulary == expected.labels.vocabulary
    assert found.cut == expected.cut


def forbid_reading(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the texts were read again")

    monkeypatch.setattr(sources, "read_file", refuse)
    monkeypatch.setattr(tokens, "encode_texts", refuse)


def test_a_cached_start_gives_the_same_and_reads_nothing(tokenizer, data_file, folder, notes, monkeypatch):
    plain = make(data_file, tokenizer)
    first = make(data_file, tokenizer, folder)
    forbid_reading(monkeypatch)
    second = make(data_file, tokenizer, folder)
    assert_same(first, plain)
    assert_same(second, plain)
    assert plain.cut > 0
    cut = f"{data_file}: {plain.cut} of 60 texts are longer than 8 tokens and were cut"
    assert notes == [cut, cut, f"tokens of {data_file} taken from the cache", cut]
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("part_rows", [1, 7, 60])
@pytest.mark.parametrize("characters", [1, 100])
def test_parts_make_no_difference(tokenizer, tmp_path, part_rows, characters, monkeypatch):
    rows = [(text, text[::-1], i % 7) for i, (text, _) in enumerate(random_rows(60))]
    path = write_csv(tmp_path / "a.csv", rows, ("text", "other", "label"))
    whole = make(path, tokenizer, text_pair="other")
    monkeypatch.setattr(table, "PART_ROWS", part_rows)
    monkeypatch.setattr(tokens, "PART_CHARACTERS", characters)
    parts = make(path, tokenizer, text_pair="other")
    assert_same(parts, whole)
    assert len(parts.tokens) == 60
    assert parts.labels.vocabulary == LabelVocabulary(list(map(str, range(7))), list(range(2, 9)), None)


def test_formats_give_the_same(tokenizer, data_file, tmp_path):
    expected = make(data_file, tokenizer)
    read = pyarrow.csv.read_csv(data_file)
    pyarrow.parquet.write_table(read, tmp_path / "train.parquet")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in read.to_pylist()))
    for name in ("train.parquet", "train.jsonl"):
        found = make(tmp_path / name, tokenizer)
        np.testing.assert_array_equal(found.tokens.ids, expected.tokens.ids)
        np.testing.assert_array_equal(found.labels.codes, expected.labels.codes)
        assert found.labels.vocabulary.values == expected.labels.vocabulary.values


def test_everything_that_changes_the_tokens_has_an_entry_of_its_own(tokenizer, data_file, tmp_path, folder):
    rows = [(text, "w1", label) for text, label in random_rows(60)]
    write_csv(data_file, rows, ("text", "other", "label"))
    make(data_file, tokenizer, folder)

    def is_new(*arguments, **keys) -> bool:
        before = len(list(folder.iterdir()))
        make(*arguments, **keys)
        return len(list(folder.iterdir())) == before + 1

    assert not is_new(data_file, tokenizer, folder)
    assert is_new(data_file, tokenizer, folder, max_length=9)
    assert is_new(data_file, tokenizer, folder, limit=59)
    assert is_new(data_file, tokenizer, folder, text="other")
    assert is_new(data_file, tokenizer, folder, text_pair="other")
    assert is_new(data_file, tokenizer, folder, label="other")
    assert is_new(data_file, tokenizer, folder, quoting="none")
    assert is_new(data_file, tokenizer, folder, labelled=None)
    assert is_new(data_file, new_tokenizer(tmp_path, do_lower_case=False), folder)
    assert not is_new(data_file, new_tokenizer(tmp_path), folder)
    left = new_tokenizer(tmp_path)
    left.truncation_side = "left"
    assert is_new(data_file, left, folder)
    more = new_tokenizer(tmp_path)
    more.add_tokens(["w1 good"])
    assert is_new(data_file, more, folder)


def test_content_counts_and_neither_name_nor_time(tokenizer, data_file, tmp_path, folder, notes):
    make(data_file, tokenizer, folder)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(data_file.read_bytes())
    os.utime(copy, (1, 1))
    make(copy, tokenizer, folder)
    assert notes[-2] == f"tokens of {copy} taken from the cache"
    times = os.stat(data_file)
    content = data_file.read_bytes()
    data_file.write_bytes(content.replace(b"w1 ", b"w2 "))  # as long as before, and as old
    os.utime(data_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = make(data_file, tokenizer, folder)
    assert_same(changed, make(data_file, tokenizer))
    assert len(list(folder.iterdir())) == 2


def cut_short(entry: Path) -> None:
    path = entry / "ids"
    path.write_bytes(path.read_bytes()[:-4])


def change_a_byte(entry: Path) -> None:
    content = bytearray((entry / "lengths").read_bytes())
    content[0] ^= 1
    (entry / "lengths").write_bytes(bytes(content))


def cut_the_header(entry: Path) -> None:
    header = entry / store.HEADER
    header.write_text(header.read_text()[:-30])


def change_the_header(entry: Path) -> None:
    header = entry / store.HEADER
    header.write_text(header.read_text().replace('"cut": ', '"cut": 1'))


def name_another_file(entry: Path) -> None:
    header = entry / store.HEADER
    content = header.read_text().splitlines()[0].replace('"ids"', '"../ids"')
    header.write_text(f"{content}\n{zlib.crc32(content.encode())}\n")


DAMAGE = {
    "cut short": (cut_short, "ids has "),
    "a changed byte": (change_a_byte, "lengths has another checksum"),
    "a missing file": (lambda entry: (entry / "labels").unlink(), "labels cannot be read"),
    "no header": (lambda entry: (entry / store.HEADER).unlink(), "is missing or cut off"),
    "an empty header": (lambda entry: (entry / store.HEADER).write_bytes(b""), "is missing or cut off"),
    "a header that is cut": (cut_the_header, "is missing or cut off"),
    "a changed header": (change_the_header, "has another checksum"),
    "a header that names another file": (name_another_file, "names other files"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_noticed_and_made_again(tokenizer, data_file, folder, notes, name):
    expected = make(data_file, tokenizer)
    make(data_file, tokenizer, folder)
    damage, reason = DAMAGE[name]
    (entry,) = folder.iterdir()
    damage(entry)
    notes.clear()
    assert_same(make(data_file, tokenizer, folder), expected)
    assert len(notes) == 2
    assert notes[0].startswith(f"tokens of {data_file} in the cache are damaged (")
    assert reason in notes[0]
    assert "\n" not in notes[0]
    notes.clear()
    assert_same(make(data_file, tokenizer, folder), expected)
    assert notes[0] == f"tokens of {data_file} taken from the cache"


@pytest.mark.parametrize("row", ["w1,", ",good", "w1", '"w1,good'])
def test_a_mistake_in_the_data_leaves_nothing_behind(tokenizer, tmp_path, folder, row):
    path = write_csv(tmp_path / "train.csv", random_rows(20))
    with path.open("a") as file:
        file.write(f"{row}\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"train\.csv, row 22"):
            make(path, tokenizer, folder)
    assert list(folder.iterdir()) == []


def test_a_kill_leaves_no_entry(tokenizer, data_file, folder, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode_texts", killed)
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)  # a killed process does not tidy up
        with pytest.raises(KeyboardInterrupt):
            make(data_file, tokenizer, folder)
    (left,) = folder.iterdir()
    assert_same(make(data_file, tokenizer, folder), make(data_file, tokenizer))
    assert len(list(folder.iterdir())) == 2
    assert left.name.startswith("unfinished-tokens-")


def test_a_file_that_changes_while_it_is_read_is_not_kept(tokenizer, data_file, folder, monkeypatch):
    encode = tokens.encode_texts

    def append(*arguments):
        with data_file.open("a") as file:
            file.write("w1,good\n")
        return encode(*arguments)

    monkeypatch.setattr(tokens, "encode_texts", append)
    make(data_file, tokenizer, folder)
    assert list(folder.iterdir()) == []


def test_two_at_once_leave_one_whole_entry(tokenizer, data_file, folder, monkeypatch):
    publish, others = store.publish, []

    def late(written: Path, name: str) -> None:
        """Let another process come in between, once."""
        monkeypatch.setattr(store, "publish", publish)
        others.append(make(data_file, tokenizer, folder))
        publish(written, name)

    monkeypatch.setattr(store, "publish", late)
    mine = make(data_file, tokenizer, folder)
    assert_same(mine, others[0])
    (entry,) = folder.iterdir()
    assert_same(store.open_stored(entry, "here"), mine)


def test_the_folder_is_bounded(tokenizer, tmp_path, folder, monkeypatch):
    paths = [write_csv(tmp_path / f"{i}.csv", random_rows(50, seed=i)) for i in range(4)]
    make(paths[0], tokenizer, folder)
    (entry,) = folder.iterdir()
    size = sum(path.stat().st_size for path in entry.iterdir())
    monkeypatch.setattr(store, "LIMIT_BYTES", int(2.5 * size))
    make(paths[1], tokenizer, folder)
    age = {path: i for i, path in enumerate(sorted(folder.iterdir(), key=lambda path: path == entry))}
    for path, rank in age.items():
        os.utime(path, (1000 + rank, 1000 + rank))
    make(paths[0], tokenizer, folder)  # used again: the other one is the oldest
    stranger, abandoned, busy = (folder / name for name in ("thesis", "unfinished-tokens-a", "unfinished-tokens-b"))
    for path in (stranger, abandoned, busy):
        path.mkdir()
        (path / store.HEADER).write_text("x" * 10 * size)
    old = time.time() - 3 * 24 * 3600
    for path in (stranger, abandoned):
        os.utime(path, (old, old))
    make(paths[2], tokenizer, folder)
    left = set(folder.iterdir())
    assert entry in left
    assert {stranger, busy} < left
    assert abandoned not in left
    assert len(left) == 4


def test_a_folder_that_cannot_be_written_is_said_and_not_needed(tokenizer, data_file, tmp_path, notes):
    (tmp_path / "file").write_text("")
    stored = make(data_file, tokenizer, tmp_path / "file" / "cache")
    assert_same(stored, make(data_file, tokenizer))
    assert notes[0].startswith(f"data.cache_dir: tokens cannot be kept in {tmp_path}/file/cache (")


def test_a_full_disk_is_one_line(tokenizer, data_file, folder):
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    writer = store.Writer(folder)
    writer._files["labels"] = Full()
    with pytest.raises(UserError, match=f"written to {folder}: No space left on device: choose a folder"):
        writer.add_labels(np.zeros(1, np.int32))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_folder("auto") == tmp_path / "jaxbert" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert store.cache_folder("auto") == Path("/home/someone/.cache/jaxbert/tokens")
    assert store.cache_folder("~/tokens") == Path("/home/someone/tokens")
    assert store.cache_folder(None) is None


def test_standard_input_and_other_tokenizers_are_not_kept(tokenizer, data_file, folder):
    identity = open_source("-", DataConfig(), role="predict", labelled=False).identity()
    assert store.entry_name(identity, tokenizer, 8, LongTexts()) is None
    assert store.entry_name(["content"], object(), 8, LongTexts()) is None
