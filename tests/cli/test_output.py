"""Where results go: every character can be written, and a place that cannot be written is refused before the work."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

from jaxbert.cli import output
from jaxbert.cli.output import check_output, prepare_streams, write_out, write_text
from jaxbert.errors import UserError

LINE = json.dumps({"label": "好评👍", "text": "é\ud800"}, ensure_ascii=False) + "\n"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "cp1252", "ascii"])
@pytest.mark.parametrize("kind", [io.TextIOWrapper, Terminal])
def test_standard_output_takes_every_character(monkeypatch, encoding, kind):
    """UTF-8 in a pipe, the terminal's own encoding in a terminal, and whole JSON in both."""
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr("sys.stdout", kind(out, encoding=encoding, write_through=True))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(err, encoding=encoding, errors="strict", write_through=True))
    prepare_streams()
    write_out(LINE)
    print("note: 好评👍", file=sys.stderr)
    assert json.loads(out.getvalue().decode(encoding if kind is Terminal else "utf-8")) == json.loads(LINE)
    shown = {"utf-8": "好评👍", "gbk": "好评\\U0001f44d"}.get(encoding, "\\u597d\\u8bc4\\U0001f44d")
    assert err.getvalue().decode(encoding) == f"note: {shown}\n"


def test_a_file_is_utf_8_with_escapes_for_half_a_pair(tmp_path):
    write_text(str(tmp_path / "a.jsonl"), LINE)
    assert json.loads((tmp_path / "a.jsonl").read_bytes().decode("utf-8")) == json.loads(LINE)


def refusal(place: object, **options) -> str:
    with pytest.raises(UserError) as caught:
        check_output(str(place), **options)
    return str(caught.value)


def test_places_that_are_refused(tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    os.symlink(tmp_path / "in.csv", tmp_path / "link")
    assert refusal("/dev/full") == "--output /dev/full cannot be written: No space left on device"
    assert refusal(tmp_path).endswith("it is a folder; name a file in it")
    assert refusal(f"{tmp_path}/new/").endswith("it names a folder; name a file")
    assert refusal(tmp_path / "no" / "a").endswith(f"there is no folder {tmp_path / 'no'}")
    assert refusal(tmp_path / ("a" * 300)).endswith("File name too long")
    assert refusal(tmp_path / "socket").endswith("it is a socket: name a file")
    assert refusal(tmp_path / "link", source=str(tmp_path / "in.csv")).endswith(
        "it is the input file: choose another name"
    )
    assert "as .gz: answers are written as JSON lines" in refusal(tmp_path / "a.csv.gz", tables=True)
    assert "as .csv: it is written as JSON" in refusal(tmp_path / "a.csv")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # who runs this may be root
    assert refusal(tmp_path / "in").endswith(f"no permission to write in {tmp_path}")
    assert refusal(tmp_path / "in.csv", tables=True).endswith("no permission to overwrite it")


def test_places_that_are_taken_are_left_as_they_are(tmp_path):
    (tmp_path / "a.jsonl").write_text("before")
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "a.jsonl", tmp_path / "new.csv", tmp_path / "fifo", "/dev/null", "/dev/stdout", "-"):
        check_output(str(place), tables=True)
    assert (tmp_path / "a.jsonl").read_text() == "before"
    assert not (tmp_path / "new.csv").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write_text(str(tmp_path / "fifo"), "a\n")
    assert os.read(reader, 10) == b"a\n"
    os.close(reader)
    os.symlink("/dev/null", tmp_path / "nothing")
    write_text(str(tmp_path / "nothing"), "a\n")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert (tmp_path / "nothing").is_symlink()


def test_a_link_is_followed_and_the_mode_stays(tmp_path):
    (tmp_path / "real.jsonl").write_text("before")
    (tmp_path / "real.jsonl").chmod(0o640)
    os.symlink("real.jsonl", tmp_path / "link.jsonl")
    write_text(str(tmp_path / "link.jsonl"), ["a\n", "b\n"])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == "a\nb\n"
    assert stat.S_IMODE((tmp_path / "real.jsonl").stat().st_mode) == 0o640


def test_a_file_that_is_mounted_gets_the_content(tmp_path, monkeypatch):
    """A container that mounts one file: no other can take its place."""

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    (tmp_path / "a.jsonl").write_text("before")
    monkeypatch.setattr(output.os, "replace", busy)
    write_text(str(tmp_path / "a.jsonl"), "a\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.jsonl", "a\n")]


@pytest.mark.parametrize("live", [False, True])
def test_whole_or_not_at_all_but_for_what_comes_live(tmp_path, live):
    (tmp_path / "a.jsonl").write_text("before")
    there = []

    def pieces():
        yield "a\n"
        there.append((tmp_path / "a.jsonl").read_text())
        raise UserError("row 2")

    with pytest.raises(UserError, match="row 2"):
        write_text(str(tmp_path / "a.jsonl"), pieces(), live=live)
    assert there == ["a\n" if live else "before"]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.jsonl", there[0])]


def test_standard_output_that_is_full_closed_or_without_a_reader(monkeypatch):
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        assert refusal("-") == "standard output cannot be written: No space left on device"
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", None)
        assert "is closed" in refusal("-")
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as out, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        check_output("-")
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            check_output("-")


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["plan", "--print_config"]])
def test_a_process_whose_standard_output_is_full_says_so(arguments):
    command = [sys.executable, "-m", "jaxbert", *arguments]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    expected = "error: standard output cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (2, expected)
