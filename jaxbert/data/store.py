"""Tokens, label codes and items as files in a folder, and the folder that keeps those of earlier starts.

A folder is written part by part and opened as mapped arrays. It can have columns of its own beside the common ones. A header
says what the files must hold, with a checksum of each and of itself, so that a folder that was cut off or damaged is never
taken for a complete one.

In the cache an entry's name is a hash of everything that decides its content: the source and how it is read, the tokenizer,
the longest example. Entries appear complete by a rename, so several processes may use the folder; what was used longest ago
goes first when they grow past `LIMIT_BYTES`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxbert.data.examples import Windows
from jaxbert.data.label_column import Labels, LabelVocabulary
from jaxbert.data.table import Facts
from jaxbert.data.tokens import Encoded, LongTexts, Seen, Tokens, Watcher
from jaxbert.errors import UserError

FORMAT = 5
"""Raise it with every change to these files or to what a reader or the tokenizing makes of the same data."""

HEADER = "tokens.json"


class StoredColumn(NamedTuple):
    """How an array is kept; its first axis grows as it is written."""

    dtype: str
    shape: tuple[int, ...] = ()
    """Of what stands at each place; () for a number."""
    counts_in: str | None = None
    """The column whose places its numbers are; those of a part count from the part's first one, below 0 is none."""


_COMMON = {
    "ids": StoredColumn("<i4"),
    "begins": StoredColumn("<i8"),
    "lengths": StoredColumn("<i4"),
    "first_lengths": StoredColumn("<i4"),
    "labels": StoredColumn("<i4"),
    "windows": StoredColumn("<i4"),
    "whole": StoredColumn("<i4"),
    "hashes": StoredColumn("<u8"),
    "rows": StoredColumn("<i4"),
    "items": StoredColumn("|u1"),
    "item_ends": StoredColumn("<i8"),
}
_SEEN = ("whole", "hashes", "rows")
"""The arrays of what is known of the texts as they were."""
_ITEMS = ("items", "item_ends")
"""Items as JSON behind one another, and where each ends."""
_TOKENS = ("ids", "begins", "lengths", "first_lengths")
_OPTIONAL = ("labels", "windows")
_JSON = json.JSONEncoder(separators=(",", ":"))
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

    def __init__(self, folder: Path, columns: Mapping[str, StoredColumn] | None = None) -> None:
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
        written = [_JSON.encode(item).encode("ascii") for item in items]
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
        vocabulary: LabelVocabulary | None,
        watcher: Watcher | None = None,
        unknown: int = 0,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the header; the folder is complete from here on.

        Args:
          vocabulary: what the labels' codes stand for; None where there are none.
          watcher: what has looked at the texts; None for a corpus.
          unknown: tokens that the vocabulary does not have.
          notes: plain values that a reader gets back.
        """
        there = {"labels": vocabulary is not None, "windows": self._sizes["windows"] > 0}
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
                "vocabulary": None if vocabulary is None else dataclasses.asdict(vocabulary),
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
    labels = None if codes is None else Labels(codes, LabelVocabulary(**header["vocabulary"]), source)
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
        optional = {*_OPTIONAL, *_ITEMS} - ({"labels"} if header["vocabulary"] else set())
        names = {*_TOKENS, *further, *(["labels"] if header["vocabulary"] else []), *(_SEEN if header["seen"] else [])}
        if header["files"].keys() - optional != names - optional:
            raise DamagedError(f"{HEADER} names other files")
        return header
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{HEADER} is missing or cut off") from error


def _open_column(path: Path, dtype: str, shape: list[int], size: int, checksum: int) -> np.ndarray:
    """Check the size and the checksum of a file, and map it.

    A file that was not flushed before a crash may have its size and hold nothing.
    """
    try:
        if path.stat().st_size != size:
            raise DamagedError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
        found = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found = zlib.crc32(block, found)
        if found != checksum:
            raise DamagedError(f"{path.name} has another checksum")
        values = np.asarray(np.memmap(path, dtype, "r")) if size else np.zeros(0, dtype)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read") from error
    return values.reshape(-1, *shape) if shape else values


LIMIT_BYTES = 20 * 2**30
_ENTRY = re.compile("[0-9a-f]{40}")
_PREFIX = "unfinished-tokens-"
_ABANDONED_SECONDS = 24 * 3600

logger = logging.getLogger("jaxbert")


def user_cache(name: str) -> Path:
    """Return where the user's own cache of this name is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxbert" / name


def cache_folder(cache_dir: str | None) -> Path | None:
    """Return the folder that `data.cache_dir` names; None switches the cache off."""
    if cache_dir is None:
        return None
    if cache_dir == "auto":
        return user_cache("tokens")
    return Path(cache_dir).expanduser()


def entry_name(source_identity: Any, tokenizer: Any, max_length: int, long: LongTexts = LongTexts()) -> str | None:  # noqa: B008 (frozen)
    """Return the name of the entry, None for a tokenizer that cannot be told from another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if source_identity is None or backend is None:
        return None
    state = json.loads(backend.to_str())
    for changing in ("truncation", "padding"):  # left over from the last call
        state.pop(changing, None)
    versions = [importlib.metadata.version(library) for library in ("tokenizers", "transformers")]
    kind = type(tokenizer)
    settings = [kind.__module__, kind.__qualname__, tokenizer.truncation_side, tokenizer.split_special_tokens]
    return entry_of([source_identity, state, settings, versions, max_length, asdict(long)])


def entry_of(content: Any) -> str:
    """Return the name of the entry that these plain values decide."""
    return hashlib.sha256(json.dumps([FORMAT, *content], sort_keys=True).encode()).hexdigest()[:40]


def cached(
    source: str,
    key: Callable[[], str | None],
    write: Callable[[Path], None],
    *,
    folder: Path | None,
    all_have: Callable[[bool], bool] = bool,
    said: bool = True,
) -> Stored:
    """Return what an earlier start has left in the cache, else what `write` puts into an empty folder.

    Args:
      source: what is read, as messages name it.
      key: returns the name of the entry; None for what cannot be told from other content, which is not kept.
      write: fills a folder.
      folder: of the cache; None keeps nothing.
      all_have: says whether every process of the run says yes.
      said: whether the user is told where the content was in the cache.

    Raises:
      UserError: what `write` raises.
    """
    name = None if folder is None else key()
    found = None if folder is None or name is None else find(folder, name, source)
    if all_have(found is not None):
        assert found is not None
        if said:
            logger.info("tokens of %s taken from the cache", source)
        for note in found.said:
            logger.warning("%s", note)
        return found
    written = new_folder(None if name is None else folder)
    try:
        write(written)
        stored = open_stored(written, source)
        # A file that changed while it was read must not be kept under the name of what it was.
        if name is not None and written.parent == folder and key() == name:
            publish(written, name)
        return stored
    finally:
        shutil.rmtree(written, ignore_errors=True)  # unless it was published; what is mapped stays readable


def find(folder: Path, name: str, source: str) -> Stored | None:
    """Open an entry if it is there and whole; one that is damaged is removed, and said."""
    entry = folder / name
    if not entry.is_dir():
        return None
    try:
        stored = open_stored(entry, source)
    except DamagedError as error:
        if entry.is_dir():  # else another process has just removed it
            logger.warning("tokens of %s in the cache are damaged (%s): tokenizing again", source, error)
            shutil.rmtree(entry, ignore_errors=True)
        return None
    try:
        os.utime(entry)
    except OSError:  # a folder that is only read keeps its order
        logger.debug("cannot mark %s as used", entry)
    return stored


def new_folder(folder: Path | None) -> Path:
    """Make a folder to write to: beside the entries where there is a cache that can be written, else a temporary one."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        except OSError as error:
            logger.warning("data.cache_dir: tokens cannot be kept in %s (%s)", folder, error.strerror)
    return Path(tempfile.mkdtemp(prefix="jaxbert-tokens-"))


def publish(written: Path, name: str) -> None:
    """Give a folder that was written beside the entries its name, unless another process was first."""
    try:
        written.rename(written.with_name(name))
    except OSError:
        return
    _make_room(written.parent, keep=name)


def _make_room(folder: Path, keep: str) -> None:
    """Remove what was used longest ago until the rest fits, and what a killed process left behind."""
    entries: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        try:
            used = path.stat().st_mtime
            if path.name.startswith(_PREFIX):
                if time.time() - used > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            elif _ENTRY.fullmatch(path.name) and (path / HEADER).exists():
                entries.append((used, sum(file.stat().st_size for file in path.iterdir()), path))
        except OSError:  # another process removed it
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= LIMIT_BYTES:
            return
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= size
