"""Turn a source of texts into stored tokens and label codes, and keep what is stored in a cache for later starts.

`prepare` takes the tokens of a source from the cache, or reads and tokenizes the source part by part into a new folder. A
folder is opened as memory-mapped arrays. It can have further columns besides the common ones, or hold items (`items`). A
header describes the files, with a checksum of each and of itself, so that an incomplete or damaged folder is never accepted.

In the cache, the name of an entry is a hash of everything that decides its content: the source, the settings for reading,
the tokenizer, the longest segment. An entry appears complete, by a rename, so several processes may share the cache. When
the entries exceed `LIMIT_BYTES`, the least recently used ones are removed first."""

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
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from jaxbert.data.examples import Windows
from jaxbert.data.label_column import LabelColumn, Labels, LabelVocabulary, ScoreColumn
from jaxbert.data.label_lists import ListColumn
from jaxbert.data.sources import Source
from jaxbert.data.table import Facts, Table, Wanted
from jaxbert.data.tokens import Encoded, LongTexts, Seen, Shard, Tokens, Watcher, encode_shared, forget_lengths, say_cut
from jaxbert.errors import UserError

FORMAT = 5
"""The version of the files: raise it when the files, or the tokens of the same data, change."""

HEADER = "tokens.json"


class StoredColumn(NamedTuple):
    """The form of a stored array, whose first axis grows while it is written."""

    dtype: str
    shape: tuple[int, ...] = ()
    """The shape of one entry; () for a number."""
    counts_in: str | None = None
    """The column that the numbers index, within the same part; negative numbers index nothing."""


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
"""The arrays about the original texts."""
_ITEMS = ("items", "item_ends")
"""Items as concatenated JSON, and the end of each in bytes."""
_TOKENS = ("ids", "begins", "lengths", "first_lengths")
_JSON = json.JSONEncoder(separators=(",", ":"))
_NAME = re.compile("[a-z_]+")
_BLOCK = 1 << 20


class DamagedError(Exception):
    """The files of a folder differ from its header."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """The stored content of a source: tokenized examples, items, or both."""

    tokens: Tokens
    labels: Labels | None
    cut: int
    """The number of texts that were longer than allowed."""
    windows: Windows | None = None
    """Which segments are windows of one text; None if each text is one segment."""
    seen: Seen | None = None
    """Facts about the original texts; None for a corpus."""
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """The further arrays, by name."""
    items: Sequence[Any] = ()
    """The items as plain values of JSON; each is parsed when it is read."""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The notes that the writer gave to `finish`."""

    @property
    def said(self) -> list[str]:
        """The remarks that the user was told while the source was read."""
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
        """The number of items added so far."""
        return self._places["item_ends"]

    def add(self, encoded: Encoded) -> None:
        """Append the tokens of some examples; an empty part is ignored."""
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
        """Append the label codes of some examples, int32."""
        self._append_all({"labels": codes})

    def add_rows(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Append the hashes, uint64, and the record numbers, int32, of some texts."""
        self._append_all({"hashes": hashes, "rows": rows})

    def add_columns(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append to further columns alone."""
        self._append_all(columns)

    def add_items(self, items: Sequence[Any], columns: Mapping[str, np.ndarray]) -> None:
        """Append items, each of plain values, with further columns."""
        written = [_JSON.encode(item).encode("ascii") for item in items]
        ends = np.cumsum([len(content) for content in written], dtype=np.int64) + self._places["items"]
        self._append_all({"items": np.frombuffer(b"".join(written), np.uint8), "item_ends": ends, **columns})

    def _append_all(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append to several columns; indices into other columns (`counts_in`) are shifted to count from the start."""
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
        """Write the header; after this call the folder is complete.

        Args:
          vocabulary: the values of the label codes; None without labels.
          watcher: the watcher that has seen all texts; None for a corpus.
          unknown: the number of unknown tokens.
          notes: plain values that `Stored.notes` returns.
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
        f"tokens cannot be written to {folder}: {error.strerror or error}: choose a folder with more space as "
        "data.cache_dir (without a cache: as TMPDIR in the environment)"
    )


def open_stored(folder: Path, source: str) -> Stored:
    """Check a folder and memory-map its arrays, read-only; `source` is its name in messages.

    Raises:
      DamagedError: if a file is missing, incomplete or changed.
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
    """Items in a memory-mapped file; each is parsed when it is read."""

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
        origins=origins if len(origins) > 1 else ((0, source),),  # a copy of the source may have another name
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
        names = {*_TOKENS, *further, *(["labels"] if header["vocabulary"] else []), *(_SEEN if header["seen"] else [])}
        if header["files"].keys() - {"windows", *_ITEMS} != names:
            raise DamagedError(f"{HEADER} names other files")
        return header
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{HEADER} is missing or cut off") from error


def _open_column(path: Path, dtype: str, shape: list[int], size: int, checksum: int) -> np.ndarray:
    """Check the size and the checksum of a file, and memory-map it.

    After a crash, a file that was not flushed may have the right size without its content.
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
    """Return the folder of the user's cache with this name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxbert" / name


def cache_folder(cache_dir: str | None) -> Path | None:
    """Return the folder that `data.cache_dir` names; None switches the cache off."""
    if cache_dir is None:
        return None
    if cache_dir == "auto":
        return user_cache("tokens")
    return Path(cache_dir).expanduser()


def entry_name(source_identity: Any, tokenizer: Any, max_length: int, long: LongTexts = LongTexts()) -> str | None:  # noqa: B008 (frozen)
    """Return the name of the entry; None if the source or the tokenizer cannot be identified."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if source_identity is None or backend is None:
        return None
    state = json.loads(backend.to_str())
    for changing in ("truncation", "padding"):  # left from the last call
        state.pop(changing, None)
    versions = [importlib.metadata.version(library) for library in ("tokenizers", "transformers")]
    kind = type(tokenizer)
    settings = [kind.__module__, kind.__qualname__, tokenizer.truncation_side, tokenizer.split_special_tokens]
    return entry_of([source_identity, state, settings, versions, max_length, asdict(long)])


def entry_of(content: Any) -> str:
    """Return the name of the entry for these plain values: 40 hexadecimal digits of a hash."""
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
    """Return an entry of the cache, or write a new one.

    Args:
      source: the source's name in messages.
      key: returns the name of the entry; None for content that cannot be identified and is not kept.
      write: fills an empty folder.
      folder: the cache; None for no cache.
      all_have: returns whether its argument is true in every process of the run.
      said: whether the user is told that the content comes from the cache.

    Raises:
      UserError: as raised by `write`.
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
        # A file that changed while it was read must not be kept under the name of its old content.
        if name is not None and written.parent == folder and key() == name:
            publish(written, name)
        return stored
    finally:
        shutil.rmtree(written, ignore_errors=True)  # no effect if it was published; mapped arrays stay readable


def find(folder: Path, name: str, source: str) -> Stored | None:
    """Open an entry if it exists and is complete; a damaged one is removed with a warning."""
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
    except OSError:  # a read-only cache
        logger.debug("cannot mark %s as used", entry)
    return stored


def new_folder(folder: Path | None) -> Path:
    """Make a folder to write to: inside the cache if it is writable, else a temporary one."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        except OSError as error:
            logger.warning("data.cache_dir: tokens cannot be kept in %s (%s)", folder, error.strerror)
    return Path(tempfile.mkdtemp(prefix="jaxbert-tokens-"))


def publish(written: Path, name: str) -> None:
    """Rename a folder that was written inside the cache to its entry, unless another process was first."""
    try:
        written.rename(written.with_name(name))
    except OSError:
        return
    _make_room(written.parent, keep=name)


def _make_room(folder: Path, keep: str) -> None:
    """Remove the least recently used entries until the rest fits, and unfinished folders of killed processes."""
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


def prepare(
    source: Source,
    tokenizer: Any,
    max_length: int,
    *,
    folder: Path | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    shard: Shard = Shard(),  # noqa: B008 (frozen)
    long_texts: LongTexts = LongTexts(),  # noqa: B008 (frozen)
) -> Stored:
    """Return a source's tokens and labels, and tell the user how many texts were longer than `max_length`.

    Args:
      source: the source to read, if the cache does not have its tokens.
      tokenizer: a transformers tokenizer.
      max_length: the longest segment in tokens, special tokens included.
      folder: the cache, for the next start; None for no cache.
      on_rows: called with the number of records read since the last call.
      shard: the part that this process tokenizes; every process of the run reads the same source at the same time.
      long_texts: how texts above `max_length` are read.

    Raises:
      UserError: for the first malformed record.
    """
    stored = cached(
        source.name,
        lambda: entry_name(source.identity(), tokenizer, max_length, long_texts),
        partial(_read, source, tokenizer, max_length, long_texts, on_rows, shard),
        folder=folder,
        all_have=shard.all_have,
    )
    forget_lengths(tokenizer)
    if stored.cut:
        windows = len(stored.tokens) if stored.windows else 0
        texts = len(stored.windows.counts) if stored.windows else len(stored.tokens)
        say_cut(source.name, stored.cut, texts, windows, max_length)
    return stored


def _read(
    source: Source,
    tokenizer: Any,
    max_length: int,
    long_texts: LongTexts,
    on_rows: Callable[[int], None],
    shard: Shard,
    folder: Path,
) -> None:
    """Read and tokenize a source into an empty folder."""
    labels, watcher = make_label_column(source.wanted, source.name), Watcher(tokenizer)
    unknown, unknown_id = 0, getattr(tokenizer, "unk_token_id", None)
    with Writer(folder) as writer:
        for part in source.parts():
            codes = labels.add(part)
            if codes is not None:
                writer.add_labels(codes)
            writer.add_rows(*watcher.add(part))
            for encoded in encode_shared(part, tokenizer, max_length, long_texts, shard):
                writer.add(encoded)
                unknown += 0 if unknown_id is None else int(np.count_nonzero(encoded.ids == unknown_id))
                on_rows(len(encoded.whole))
        writer.finish(labels.finish(), watcher, unknown)


class Column(Protocol):
    """Encodes a label column as codes, part by part."""

    def add(self, table: Table) -> np.ndarray | None:
        """Return the codes of a part's labels, int32, or None if there are no labels."""
        ...

    def finish(self) -> LabelVocabulary | None:
        """Return the value of each code; None if not every record has a label."""
        ...


def make_label_column(wanted: Wanted, source: str) -> Column:
    """Return the encoder for the wanted kind of labels."""
    if wanted.labels == "list":
        return ListColumn(wanted, source)
    return ScoreColumn(wanted, source) if wanted.labels == "number" else LabelColumn(wanted, source)
