"""Tokens, label codes and items as files in a folder: written part by part, opened as mapped arrays.

Every folder can have columns of its own beside the common ones. A header says what the files must hold, with a checksum of
each and of itself, so that a folder that was cut off or damaged is never taken for a complete one.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxbert.data.examples import Windows
from jaxbert.data.facts import Facts
from jaxbert.data.label_column import Labels, Legend
from jaxbert.data.seen import Seen, Watcher
from jaxbert.data.tokens import Encoded, Tokens
from jaxbert.errors import UserError

FORMAT = 5
"""Raise it with every change to these files or to what a reader or the tokenizing makes of the same data."""

HEADER = "tokens.json"


class Column(NamedTuple):
    """How an array is kept; its first axis grows as it is written."""

    dtype: str
    shape: tuple[int, ...] = ()
    """Of what stands at each place; () for a number."""
    counts_in: str | None = None
    """The column whose places its numbers are; those of a part count from the part's first one, below 0 is none."""


_COMMON = {
    "ids": Column("<i4"),
    "begins": Column("<i8"),
    "lengths": Column("<i4"),
    "first_lengths": Column("<i4"),
    "labels": Column("<i4"),
    "windows": Column("<i4"),
    "whole": Column("<i4"),
    "hashes": Column("<u8"),
    "rows": Column("<i4"),
    "items": Column("|u1"),
    "item_ends": Column("<i8"),
}
_SEEN = ("whole", "hashes", "rows")
"""The arrays of what is known of the texts as they were."""
_ITEMS = ("items", "item_ends")
"""Items as JSON behind one another, and where each ends."""
_TOKENS = ("ids", "begins", "lengths", "first_lengths")
_OPTIONAL = ("labels", "windows")
_NAME = re.compile("[a-z_]+")
_BLOCK = 1 << 20


class DamagedError(Exception):
    """A folder is not what its header says."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is kept of a source: tokenized examples, items, or both."""

    tokens: Tokens
    labels: Labels | None
    cut: int
    """How many were longer than allowed."""
    windows: Windows | None = None
    """Which of them are pieces of one text; None where none is."""
    seen: Seen | None = None
    """The texts as they were; None for a corpus."""
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """The further arrays, by name."""
    items: Sequence[Any] = ()
    """The values of the items, as JSON has them; each is read when it is asked for."""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What was noted when the folder was finished."""

    @property
    def said(self) -> list[str]:
        """What was said of how the source is read."""
        return self.seen.facts.said if self.seen else self.notes.get("facts", {}).get("said", [])


class Writer:
    """Write a folder; use it as a context manager so that its files are closed."""

    def __init__(self, folder: Path, columns: Mapping[str, Column] | None = None) -> None:
        self._folder = folder
        self._further = dict(columns or {})
        self._columns = _COMMON | self._further
        self._files: dict[str, BinaryIO] = {}
        self._sums = dict.fromkeys(self._columns, 0)
        self._sizes = dict.fromkeys(self._columns, 0)
        self._places = dict.fromkeys(self._columns, 0)
        self._cut = 0

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            for name in self._columns:
                self._files[name] = stack.enter_context((self._folder / name).open("wb"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def items(self) -> int:
        """How many items were added."""
        return self._places["item_ends"]

    def add(self, encoded: Encoded) -> None:
        """Append examples, if there are any."""
        if not len(encoded.lengths):
            return
        ends = np.cumsum(encoded.lengths, dtype=np.int64) + self._places["ids"]
        common = {
            "ids": encoded.ids,
            "begins": ends - encoded.lengths,
            "lengths": encoded.lengths,
            "first_lengths": encoded.first_lengths,
            "windows": encoded.windows,
            "whole": encoded.whole,
        }
        self._append_all(common | dict(encoded.columns))
        self._cut += encoded.cut

    def add_labels(self, codes: np.ndarray) -> None:
        """Append the labels of examples."""
        self._append_all({"labels": codes})

    def add_rows(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Append what tells texts from others, and where they stand."""
        self._append_all({"hashes": hashes, "rows": rows})

    def add_items(self, items: Sequence[Any], columns: Mapping[str, np.ndarray]) -> None:
        """Append items, each of plain values, with further columns."""
        written = [json.dumps(item, separators=(",", ":")).encode() for item in items]
        ends = np.cumsum([len(content) for content in written], dtype=np.int64) + self._places["items"]
        self._append_all({"items": np.frombuffer(b"".join(written), np.uint8), "item_ends": ends, **columns})

    def _append_all(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append to several columns, of which some may hold places in others."""
        before = dict(self._places)
        for name, values in columns.items():
            column = self._columns[name]
            if column.counts_in is not None:
                values = np.where(values < 0, values, values + before[column.counts_in])
            content = values.astype(column.dtype, copy=False).tobytes()
            try:
                self._files[name].write(content)
            except OSError as error:
                raise _cannot_hold(self._folder, error) from error
            self._sums[name] = zlib.crc32(content, self._sums[name])
            self._sizes[name] += len(content)
            self._places[name] += len(values)

    def finish(
        self,
        legend: Legend | None,
        watcher: Watcher | None = None,
        unknown: int = 0,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the header; the folder is complete from here on.

        Args:
          legend: what the labels' codes stand for; None where there are none.
          watcher: what has looked at the texts; None for a corpus.
          unknown: tokens that the vocabulary does not have.
          notes: plain values that a reader gets back.
        """
        there = {"labels": legend is not None, "windows": self._sizes["windows"] > 0}
        there |= dict.fromkeys(_SEEN, watcher is not None) | dict.fromkeys(_ITEMS, self._places["item_ends"] > 0)
        files = {
            name: [column.dtype, column.shape, self._sizes[name], self._sums[name]]
            for name, column in self._columns.items()
            if there.get(name, True)
        }
        seen = watcher and {
            "origins": watcher.origins,
            "facts": watcher.facts.to_dict(),
            "lossy": watcher.lossy,
            "unknown": unknown,
        }
        content = json.dumps(
            {
                "format": FORMAT,
                "cut": self._cut,
                "legend": None if legend is None else dataclasses.asdict(legend),
                "seen": seen,
                "notes": notes or {},
                "further": list(self._further),
                "files": files,
            }
        )
        try:
            for file in self._files.values():
                file.flush()
            (self._folder / HEADER).write_text(f"{content}\n{zlib.crc32(content.encode())}\n", "utf-8")
        except OSError as error:
            raise _cannot_hold(self._folder, error) from error


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
    arrays = {name: _open_column(folder / name, *described) for name, described in header["files"].items()}
    codes, counts = arrays.pop("labels", None), arrays.pop("windows", None)
    labels = None if codes is None else Labels(codes, Legend(**header["legend"]), source)
    windows = None if counts is None else Windows.of_counts(counts)
    known = {name: arrays.pop(name, None) for name in _SEEN}
    content, ends = (arrays.pop(name, None) for name in _ITEMS)
    return Stored(
        tokens=Tokens(**{name: arrays.pop(name) for name in _TOKENS}),
        labels=labels,
        cut=header["cut"],
        windows=windows,
        seen=_read_seen(header["seen"], known, source),
        columns=arrays,
        items=() if content is None or ends is None else PlainItems(content, ends),
        notes=header["notes"],
    )


@dataclasses.dataclass(frozen=True)
class PlainItems(Sequence[Any]):
    """Items in a mapped file."""

    content: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self.ends))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        begin = int(self.ends[place - 1]) if place else 0
        return json.loads(self.content[begin : int(self.ends[place])].tobytes())


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
        further = set(header["further"])
        if not all(_NAME.fullmatch(name) for name in further):  # nothing outside the folder is opened
            raise DamagedError(f"{HEADER} names other files")
        optional = {*_OPTIONAL, *_ITEMS} - ({"labels"} if header["legend"] else set())
        names = {*_TOKENS, *further, *(["labels"] if header["legend"] else []), *(_SEEN if header["seen"] else [])}
        if header["files"].keys() - optional != names - optional:
            raise DamagedError(f"{HEADER} names other files")
        return header
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{HEADER} is missing or cut off") from error


def _open_column(path: Path, dtype: str, shape: list[int], size: int, checksum: int) -> np.ndarray:
    """Check a file, and map it."""
    _check_file(path, size, checksum)
    try:
        values = np.asarray(np.memmap(path, dtype, "r")) if size else np.zeros(0, dtype)
    except OSError as error:
        raise DamagedError("a file cannot be mapped") from error
    return values.reshape(-1, *shape) if shape else values


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
