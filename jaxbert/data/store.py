"""Tokens and label codes as files in a folder: written part by part, opened as mapped arrays.

A header says what the files must hold, with a checksum of each and of itself, so that a folder that was cut off or
damaged is never taken for a whole one.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxbert.data.examples import Windows
from jaxbert.data.facts import Facts
from jaxbert.data.label_column import Labels, Legend
from jaxbert.data.seen import Seen, Watcher
from jaxbert.data.tokens import Encoded, Tokens
from jaxbert.errors import UserError

FORMAT = 4
"""Raise it with every change to these files or to what a reader or the tokenizing makes of the same data."""

HEADER = "tokens.json"
_DTYPES: dict[str, Any] = {
    "ids": np.int32,
    "begins": np.int64,
    "lengths": np.int32,
    "first_lengths": np.int32,
    "labels": np.int32,
    "windows": np.int32,
    "whole": np.int32,
    "hashes": np.uint64,
    "rows": np.int32,
}
_SEEN = ("whole", "hashes", "rows")
"""The arrays of what is known of the texts as they were."""
_ALWAYS = ("ids", "begins", "lengths", "first_lengths")
_BLOCK = 1 << 20


class DamagedError(Exception):
    """A folder is not what its header says."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Tokenized examples of a source."""

    tokens: Tokens
    labels: Labels | None
    cut: int
    """How many were longer than allowed."""
    windows: Windows | None = None
    """Which of them are pieces of one text; None where none is."""
    seen: Seen | None = None
    """The texts as they were; None for a corpus."""


class Writer:
    """Write a folder; use it as a context manager so that its files are closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._sums = dict.fromkeys(_DTYPES, 0)
        self._sizes = dict.fromkeys(_DTYPES, 0)
        self._tokens = 0
        self._cut = 0

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            for name in _DTYPES:
                self._files[name] = stack.enter_context((self._folder / name).open("wb"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, encoded: Encoded) -> None:
        """Append examples, if there are any."""
        if not len(encoded.lengths):
            return
        ends = np.cumsum(encoded.lengths, dtype=np.int64) + self._tokens
        self._append("ids", encoded.ids)
        self._append("begins", ends - encoded.lengths)
        self._append("lengths", encoded.lengths)
        self._append("first_lengths", encoded.first_lengths)
        self._append("windows", encoded.windows)
        self._append("whole", encoded.whole)
        self._tokens = int(ends[-1])
        self._cut += encoded.cut

    def add_labels(self, codes: np.ndarray) -> None:
        """Append the labels of examples."""
        self._append("labels", codes)

    def add_rows(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Append what tells texts from others, and where they stand."""
        self._append("hashes", hashes)
        self._append("rows", rows)

    def _append(self, name: str, values: np.ndarray) -> None:
        content = values.astype(_DTYPES[name], copy=False).tobytes()
        try:
            self._files[name].write(content)
        except OSError as error:
            raise _cannot_hold(self._folder, error) from error
        self._sums[name] = zlib.crc32(content, self._sums[name])
        self._sizes[name] += len(content)

    def finish(self, legend: Legend | None, watcher: Watcher | None = None, unknown: int = 0) -> None:
        """Write the header; the folder is whole from here on.

        Args:
          legend: what the labels' codes stand for; None where there are none.
          watcher: what has looked at the texts; None for a corpus.
          unknown: tokens that the vocabulary does not have.
        """
        extra = {"labels": legend is not None, "windows": self._sizes["windows"] > 0}
        extra |= dict.fromkeys(_SEEN, watcher is not None)
        names = [*_ALWAYS, *(name for name, there in extra.items() if there)]
        content = json.dumps(
            {
                "format": FORMAT,
                "cut": self._cut,
                "legend": None if legend is None else dataclasses.asdict(legend),
                "seen": None if watcher is None else _seen_header(watcher, unknown),
                "files": {name: [self._sizes[name], self._sums[name]] for name in names},
            }
        )
        try:
            for file in self._files.values():
                file.flush()
            (self._folder / HEADER).write_text(f"{content}\n{zlib.crc32(content.encode())}\n", "utf-8")
        except OSError as error:
            raise _cannot_hold(self._folder, error) from error


def _seen_header(watcher: Watcher, unknown: int) -> dict[str, Any]:
    return {
        "origins": watcher.origins,
        "facts": watcher.facts.to_dict(),
        "lossy": watcher.lossy,
        "unknown": unknown,
    }


def _cannot_hold(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"tokens cannot be written to {folder}: {error.strerror or error}: choose a folder with room by data.cache_dir "
        "(without a cache: by the environment's TMPDIR)"
    )


def open_stored(folder: Path, source: str) -> Stored:
    """Check a folder and map its arrays, read-only; `source` is the name for messages.

    Raises:
      DamagedError: if a file is missing, cut off or changed.
    """
    header = _read_header(folder)
    for name, (size, checksum) in header["files"].items():
        _check_file(folder / name, size, checksum)
    try:
        arrays = {name: np.asarray(np.memmap(folder / name, _DTYPES[name], "r")) for name in header["files"]}
    except OSError as error:
        raise DamagedError("a file cannot be mapped") from error
    codes, counts = arrays.pop("labels", None), arrays.pop("windows", None)
    labels = None if codes is None else Labels(codes, Legend(**header["legend"]), source)
    windows = None if counts is None else Windows.of_counts(counts)
    known = {name: arrays.pop(name, None) for name in _SEEN}
    return Stored(Tokens(**arrays), labels, header["cut"], windows, _read_seen(header["seen"], known, source))


def _read_seen(header: dict[str, Any] | None, arrays: dict[str, Any], source: str) -> Seen | None:
    if header is None:
        return None
    origins = tuple((first, name) for first, name in header["origins"])
    return Seen(
        lengths=arrays["whole"],
        hashes=arrays["hashes"],
        rows=arrays["rows"],
        origins=origins if len(origins) > 1 else ((0, source),),  # a copy may have another name
        facts=Facts(**header["facts"]),
        lossy=header["lossy"],
        unknown=header["unknown"],
    )


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        content, checksum = (folder / HEADER).read_text("utf-8").splitlines()
        if int(checksum) != zlib.crc32(content.encode()):
            raise DamagedError(f"{HEADER} has another checksum")
        header = json.loads(content)
        names = {*_ALWAYS, *(["labels"] if header["legend"] else []), *(_SEEN if header["seen"] else [])}
        if header["files"].keys() - {"windows"} != names:  # nothing outside the folder is opened
            raise DamagedError(f"{HEADER} names other files")
        return header
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{HEADER} is missing or cut off") from error


def _check_file(path: Path, size: int, checksum: int) -> None:
    """Compare size and checksum: a file that was not flushed before a crash may have its size and hold nothing."""
    try:
        if path.stat().st_size != size:
            raise DamagedError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
        found = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found = zlib.crc32(block, found)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read") from error
    if found != checksum:
        raise DamagedError(f"{path.name} has another checksum")
