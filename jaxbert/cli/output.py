"""Writes results to a file or to standard output, and checks before the work whether they can be written.

Output is UTF-8 in any locale; half of a surrogate pair, which UTF-8 cannot encode, is written as JSON's escape.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import select
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbert.errors import UserError, foreign_errors

if TYPE_CHECKING:
    from etils import epath

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_CLOSED = "standard output is closed: redirect it to a file or a pipe"
_OTHER_FORMATS = (".csv", ".tsv", ".parquet", ".xlsx", ".xls", ".gz", ".bz2", ".xz", ".zst", ".zip")
TABLES = {".csv": ",", ".tsv": "\t"}
"""The extensions of tables, with the separator of their fields."""


def prepare_streams() -> None:
    """Let standard output and standard error accept every character.

    Standard output is UTF-8, because programs read it. A terminal with another encoding keeps it; characters that it lacks
    are written as JSON's escapes. Standard error keeps its encoding too, with Python's escapes.
    """
    for stream, keeps in ((sys.stdout, _is_terminal(sys.stdout)), (sys.stderr, True)):
        if isinstance(stream, io.TextIOWrapper):
            errors = "json" if stream is sys.stdout else "backslashreplace"
            stream.reconfigure(encoding=stream.encoding if keeps else "utf-8", errors=errors)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Escape characters as JSON does: characters outside the first plane by two escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


codecs.register_error("json", _escaped)


def check_output(output: str, flag: str = "--output", *, tables: bool = False, source: str | None = None) -> None:
    """Check before the work that its result can be written.

    Args:
      output: a file, or `-` for standard output.
      flag: the flag that named the output; for messages.
      tables: whether the result may be a table.
      source: a file that the work reads, which its result must not replace.

    Raises:
      UserError: if the result cannot be written.
      BrokenPipeError: if nobody reads standard output any more.
    """
    if output in _STDOUT:
        _check_stdout()
        return
    said = f"{flag} {output} cannot be written"
    kind = os.path.splitext(output)[1].lower()
    if flag == "--output" and kind in _OTHER_FORMATS and not (tables and kind in TABLES):
        those = "answers are written as JSON lines (.jsonl), .csv or .tsv" if tables else "it is written as JSON"
        raise UserError(f"{said} as {kind}: {those}: name such a file")
    if "://" in output:
        from jaxbert.bucket import to_path

        _check_no_folder(to_path(output), said)
        return
    path = Path(output).expanduser()
    _check_no_folder(path, said)
    if output.endswith("/"):
        raise UserError(f"{said}: it names a folder; name a file")
    if not path.parent.is_dir():
        raise UserError(f"{said}: there is no folder {path.parent}")
    if source is not None and path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise UserError(f"{said}: it is the input file: choose another name")
    try:
        _try_file(path, said)
    except OSError as error:
        raise UserError(f"{said}: {error.strerror or error}") from error


def _check_no_folder(path: Path | epath.Path, said: str) -> None:
    with foreign_errors(said), _file_errors(said):
        if path.is_dir():
            raise UserError(f"{said}: it is a folder; name a file in it")


def _check_stdout() -> None:
    """Write nothing, which fails on a full device, and check whether a pipe still has a reader."""
    if sys.stdout is None:
        raise UserError(_CLOSED)
    try:
        number = sys.stdout.fileno()
    except OSError:  # another program replaced the stream
        return
    with _stdout_errors():
        os.write(number, b"")
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(number, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)) and _is_pipe(os.fstat(number)):
            raise BrokenPipeError


def _is_pipe(status: os.stat_result) -> bool:
    return stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output cannot be written: {error.strerror or error}") from error


def _try_file(path: Path, said: str) -> None:
    """Check whether a file can be written, without changing its content."""
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{said}: no permission to overwrite it")
    if not _is_device(path):
        if os.access(path.parent, os.W_OK):
            with tempfile.TemporaryFile(dir=path.parent) as file:
                file.write(b"\n")
        elif path.exists():
            path.open("r+b").close()
        else:
            raise UserError(f"{said}: no permission to write in {path.parent}")
        return
    mode = path.stat().st_mode
    if not stat.S_ISCHR(mode) and not stat.S_ISFIFO(mode):
        raise UserError(f"{said}: it is a {'disk' if stat.S_ISBLK(mode) else 'socket'}: name a file")
    if stat.S_ISCHR(mode):  # a pipe is not opened here: its reader would take the close for the end
        number = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        try:
            os.write(number, b"")
        finally:
            os.close(number)


def _is_device(path: Path) -> bool:
    """Return whether the path is written to directly: a pipe, a terminal, /dev/null."""
    return path.exists() and not path.is_file()


def write_text(output: str, text: str | Iterable[str], *, live: bool = False) -> None:
    """Write a text, or its pieces, to a file, whole or not at all; for `-`, write each piece to standard output as it comes.

    With `live` each piece is also written to a file as it comes, and stays there if the work ends early; in a bucket the
    file appears at the end.

    Raises:
      UserError: if the file cannot be written.
      BrokenPipeError: if nobody reads standard output any more.
    """
    pieces = [text] if isinstance(text, str) else text
    if output in _STDOUT:
        for piece in pieces:
            write_out(piece)
        return
    said = f"--output {output} cannot be written"
    with _opened(output, said, live) as file:
        for piece in pieces:
            with _file_errors(said):
                file.write(piece)
                file.flush()


def write_pieces(output: str, pieces: Iterable[str], *, live: bool = False) -> None:
    """Write pieces as `write_text` does; every process computes its part of them, and the main one writes."""
    from jaxbert.processes import is_main

    if is_main():
        write_text(output, pieces, live=live)
    else:
        for _ in pieces:
            pass


def write_numbers(result: Any, output: str | None) -> str:
    """Write a result as JSON if an output is named; return a clause for the user about the place of the numbers."""
    if output is None:
        return "--output FILE saves all numbers"
    write_text(output, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return f"all numbers: {'standard output' if output == '-' else output}"


def write_out(text: str) -> None:
    """Write to standard output without delay.

    Raises:
      UserError: if it cannot be written.
      BrokenPipeError: if nobody reads it any more.
    """
    if sys.stdout is None:
        raise UserError(_CLOSED)
    with _stdout_errors():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _file_errors(said: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{said}: {error.strerror or error}") from error


@contextmanager
def _opened(output: str, said: str, live: bool) -> Iterator[io.TextIOWrapper]:
    """Open a file for writing; unless it is written in place, it gets its final name at the end."""
    if "://" in output:
        with _sent_to_bucket(output, said, live) as file:
            yield file
        return
    given = Path(output).expanduser()
    path = Path(os.path.realpath(given))
    as_it_stands = live or _is_device(given) or not os.access(path.parent, os.W_OK)
    unfinished = given if as_it_stands else path.with_name(f".jaxbert-{os.getpid()}.tmp")
    try:
        with _open_text(unfinished, said) as file:
            yield file
        if not as_it_stands:
            with _file_errors(said):
                _put_in_place(unfinished, path)
    finally:
        if not as_it_stands:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _sent_to_bucket(output: str, said: str, live: bool) -> Iterator[io.TextIOWrapper]:
    from jaxbert.bucket import staged, to_path

    target, ended = to_path(output), None
    with staged(target.parent) as folder, _open_text(folder / target.name, said) as file:
        try:
            yield file
        except BaseException as error:
            if not live:
                raise
            ended = error
    if ended is not None:
        raise ended


def _open_text(path: Path, said: str) -> io.TextIOWrapper:
    with _file_errors(said):
        return path.open("w", encoding="utf-8", errors="json", newline="")


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Rename a complete file to `path`; if a container has mounted that very file, replace its content instead."""
    if path.exists():
        shutil.copymode(path, unfinished)
    try:
        os.replace(unfinished, path)
    except OSError:
        if not path.exists():
            raise
        shutil.copyfile(unfinished, path)
