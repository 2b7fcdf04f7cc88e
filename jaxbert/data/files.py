"""Find the files of a source, on this machine or in a bucket, and read their bytes as lines of text.

A source is a file, a folder or a pattern of shards; the files of train, validation and test are never mixed. Text files may
be compressed and of any encoding. A line has a maximum length, and a compressed file is unpacked piece by piece, so that no
file can fill the memory. `sources` and `records` choose the reader, which splits the lines into records.
"""

from __future__ import annotations

import codecs
import functools
import glob
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, NamedTuple

from etils import epath

from jaxbert.bucket import fetched, in_bucket, to_path
from jaxbert.data.encodings import likely_encoding
from jaxbert.data.table import Facts, at_row
from jaxbert.errors import UserError, foreign_errors, nearest, one_line, quoted

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
EXTENSIONS = (*DELIMITERS, *JSON_LINES, ".parquet")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The words in the names of files, and of a data set's splits, that stand for each split."""
_NOTES = re.compile(
    r"(readme|license|licence|notice|changelog|requirements|dataset_infos?|dataset_dict)\b.*", re.IGNORECASE
)
_WAYS = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): "; save the sheet as CSV",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "; unpack it",
}
LONGEST_ROW = 2**24
"""The most bytes of a line, and characters of a quoted field: far more than a model reads of a text. A longer one means a
file without line ends or a quote that is not closed; it would be in memory several times before an error."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_BLOCK = 2**16
_BLANKS = "\ufeff \t\r\n"
_MOST_XZ = 2**28
"""The most bytes of memory to unpack .xz; files of `xz -9` need a quarter of it, and a header can ask for 4 GiB."""

_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or a workbook (.xlsx, .ods): unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls): save the sheet as CSV",
    b"%PDF-": "a PDF document",
    b"PAR1": "a parquet file: name it .parquet",
    b"ARROW1": "an Arrow file: name the folder of datasets.save_to_disk, or write it as parquet",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"\x1f\x8b\x08": "compressed by gzip: name it with .gz after its extension",
    b"BZh": "compressed by bzip2: name it with .bz2 after its extension",
    b"\xfd7zXZ\x00": "compressed by xz: name it with .xz after its extension",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: name it with .zst after its extension",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!\x1a": "a RAR archive: unpack it",
    b"\x93NUMPY": "a NumPy array: write texts as CSV or JSON lines",
    b"version https://git-lfs": "a pointer of Git LFS, and the data is elsewhere: run git lfs pull",
}
"""The first bytes of files that are no text, and the kind of each file with a remedy."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The encoding of each byte-order mark; of marks with the same start, the longer one first."""


class FoundFiles(NamedTuple):
    """The files of a source, in the order in which they are read."""

    source: str
    files: list[str]
    several: bool
    """Whether the source is a folder or a pattern."""
    note: str = ""
    """A decision about the files that the user is told; empty for none."""

    def say(self, facts: Facts) -> None:
        """Note the files, and tell the user the note, if there is one."""
        facts.files = self.files if self.several else []
        if self.note:
            facts.say(self.source, self.note)


def extension_of(name: str) -> str:
    """Return the extension that names the format of a file; of `x.csv.gz`, `.csv`."""
    path = Path(name)
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix in COMPRESSED and inner in EXTENSIONS and inner != ".parquet" else suffix


def find_file(name: str) -> Path:
    """Return the path of a file whose extension names a readable format; raise `UserError` for any other."""
    path = existing_file(name)
    if extension_of(name) not in EXTENSIONS:
        suffix = path.suffix.lower()
        way = next(
            (way for suffixes, way in _WAYS.items() if suffix in suffixes or Path(path.stem).suffix in suffixes), ""
        )
        raise UserError(
            f"{name}: unknown file type {suffix!r}: it must be one of {' '.join(EXTENSIONS)}, all but the last also "
            f"compressed ({' '.join(COMPRESSED)}){way}"
        )
    return path


def existing_file(name: str) -> Path:
    """Return the path of an existing file, or raise `UserError`; a file in a bucket is copied once in each process."""
    if in_bucket(name):
        return _copy_of(name)
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name}: is a folder: name a file in it")
    check_exists(path, name)
    return path


@functools.cache
def _copy_of(name: str) -> Path:
    path = to_path(name)
    with foreign_errors(f"{name}: cannot be read"):
        if path.is_dir():
            raise UserError(f"{name}: is a folder: name a file in it")
        check_exists(path, name)
    return fetched(path)


def check_exists(path: Path | epath.Path, name: str) -> None:
    """Raise `UserError` if a path does not exist; the message suggests a similar name."""
    if not path.exists():
        raise UserError(f"{name}: no such file{'' if in_bucket(path) else _nearest_file(Path(path))}")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    near = nearest(path.name, sorted(os.listdir(path.parent)))
    return f"; did you mean {str(path.with_name(near))!r}?" if near else f" in folder {str(path.parent)!r}"


def check_there(spec: str) -> None:
    """Check that a file or folder exists; a pattern is not checked.

    Raises:
      UserError: if it does not exist.
    """
    with foreign_errors(f"{spec}: cannot be read"):
        place, _ = divided(spec)
        if not glob.has_magic(place):
            check_exists(to_path(place), spec)


def divided(spec: str) -> tuple[str, str | None]:
    """Return a path, and the split that follows the path of a folder (`shards:test`), or None."""
    place, colon, split = spec.rpartition(":")
    if colon and split.isidentifier() and not to_path(spec).exists() and to_path(place).is_dir():
        return place, split
    return spec, None


def find_files(spec: str, split: str, *, mixed: bool = False) -> FoundFiles:
    """Return the files of a source; if a folder or a pattern has files of several splits, those of `split`.

    Args:
      spec: a file, a folder, a folder followed by a split (`shards:test`), or a pattern.
      split: train, validation or test.
      mixed: whether files of several formats may be one source.

    Raises:
      UserError: if there is no file, or the files of the split are ambiguous.
    """
    with foreign_errors(f"{spec}: cannot be read"):
        place, asked = divided(spec)
        path, split = to_path(place), split_of(asked or "") or asked or split
        if path.is_dir():
            names = _in_folder(path, place, split)
        elif not glob.has_magic(place) or path.exists():
            return FoundFiles(spec, [spec], several=False)
        else:
            names = _matching(place)
    names = _data_files(names, mixed)
    if not names:
        there = _say_inside(path, place) if path.is_dir() else ""
        raise UserError(f"{spec}: no file to read there{there}: it must name files of {' '.join(EXTENSIONS)}")
    chosen, note = _of_split(names, spec, split, folder=path.is_dir(), asked=asked is not None)
    _check_alike(chosen, spec, mixed)
    if path.is_dir() and not note and os.path.dirname(names[0]) != place.rstrip("/"):
        note = f"its folder {os.path.dirname(names[0])} is read"
    return FoundFiles(spec, chosen, several=True, note=note)


def _in_folder(path: epath.Path, name: str, split: str) -> list[str]:
    """Return the files of a folder; if none is readable, those of its folder for the split, or of its only folder."""
    inside = sorted(entry for entry in path.iterdir() if not _is_hidden(entry.name))
    files = [f"{name.rstrip('/')}/{entry.name}" for entry in inside if not entry.is_dir()]
    folders = [entry for entry in inside if entry.is_dir()]
    if folders and not _data_files(files, mixed=True):
        of_split = [entry for entry in folders if split_of(entry.name) == split]
        meant = of_split or [entry for entry in folders if split_of(entry.name) is None]
        if len(meant) == 1 and (of_split or len(folders) == 1):
            (below,) = meant
            return _in_folder(below, f"{name.rstrip('/')}/{below.name}", split)
    return files


def _say_inside(path: epath.Path, name: str) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    pattern = f"{name.rstrip('/')}/**/*.csv"
    way = f"; name one of its folders, or a pattern such as {pattern}" if any("/" in n for n in names) else ""
    return f" (it has {quoted(names, 5)}{way})" if names else " (it is empty)"


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _matching(pattern: str) -> list[str]:
    """Return the files that a pattern matches."""
    if not in_bucket(pattern):
        return [name for name in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(name)]
    path = to_path(pattern)
    fixed = list(takewhile(lambda part: not glob.has_magic(part.name), reversed([path, *path.parents])))
    found = fixed[-1].glob(str(path.relative_to(fixed[-1])))
    return [str(inside) for inside in found if not inside.is_dir()]


def _data_files(names: Sequence[str], mixed: bool) -> list[str]:
    """Return the names of data files, sorted: no hidden files, no notes such as README, no unknown formats."""
    data = [
        name
        for name in sorted(names)
        if extension_of(name) in EXTENSIONS
        and not _is_hidden(os.path.basename(name))
        and not _NOTES.fullmatch(os.path.basename(name))
    ]
    tables = [name for name in data if extension_of(name) != ".txt"]
    return data if mixed else tables or data


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, train, validation or test; None if for none or several."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = [split for split, known in _SPLITS.items() if words & set(known)]
    return found[0] if len(found) == 1 else None


def _splits_of(names: list[str], below: str) -> list[str | None]:
    """Return the split of each file, by its name below the folder `below`; None for a file that names no split."""
    splits = [split_of(name.removeprefix(below)) for name in names]
    if any(splits):
        return splits
    parts = [re.search("train|valid|test", name.removeprefix(below).lower()) for name in names]  # trainset, testData
    loose = [split_of(part[0]) if part else None for part in parts]
    return loose if len(set(filter(None, loose))) > 1 else splits


def _of_split(names: list[str], spec: str, split: str, *, folder: bool, asked: bool) -> tuple[list[str], str]:
    """Return the files of a split, and a note for the user; all files if their names name no split.

    If all files of a pattern are of one split, they are returned, whatever their split; a folder must have files of `split`.
    """
    below = _common_folder(names)
    splits = _splits_of(names, below)
    chosen = [name for name, own in zip(names, splits, strict=True) if own == split]
    if not asked and (not any(splits) or (not folder and len(set(splits)) == 1)):
        return names, ""
    if not chosen or None in splits:
        shown = quoted([name.removeprefix(below) for name in names], 6)
        raise UserError(
            f"{spec}: which of its files are for {split}? There are {shown}: name them, for instance by a pattern "
            f"({below}NAME*{os.path.splitext(names[0])[1]})"
        )
    few = f"{len(chosen)} of {len(names)} files are read, those that are named as {split}"
    return chosen, few if len(chosen) < len(names) else ""


def _common_folder(names: list[str]) -> str:
    """Return the deepest folder that holds all files, with a slash at its end."""
    folders = zip(*(name.split("/")[:-1] for name in names), strict=False)
    return "".join(f"{parts[0]}/" for parts in takewhile(lambda parts: len(set(parts)) == 1, folders))


def _check_alike(names: list[str], spec: str, mixed: bool) -> None:
    """Raise `UserError` for files of several formats, or a file that is also there compressed."""
    kinds = {extension_of(name): name for name in reversed(names)}
    if len(kinds) > 1 and not mixed:
        shown = quoted(sorted(os.path.basename(name) for name in kinds.values()), 5)
        raise UserError(
            f"{spec}: files of several formats ({shown}): name those of one by a pattern, for instance *{min(kinds)}"
        )
    bare: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        whole = stem if suffix.lower() in COMPRESSED else name
        if whole in bare:
            raise UserError(f"{spec}: {bare[whole]} and {name} are probably the same: remove one of them")
        bare[whole] = name


@contextmanager
def opened(path: Path, source: str) -> Iterator[Any]:
    """Open the bytes of a file; they are unpacked if the extension names a compression.

    Raises:
      UserError: if the file cannot be read, is damaged or incomplete, also while it is read inside the `with`.
    """
    packed = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb", _BLOCK))
            yield io.BufferedReader(stack.enter_context(_unpacked(file, packed)), _BLOCK) if packed else file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if packed and getattr(error, "errno", None) is None:
            raise UserError(
                f"{source}: damaged or cut off, or not compressed as {packed} says ({one_line(error)})"
            ) from error
        raise UserError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _unpacked(file: IO[bytes], packed: str) -> Any:
    if packed == ".gz":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if packed == ".bz2":
        import bz2

        return bz2.BZ2File(file)
    if packed == ".xz":
        return _Xz(file)
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


class _Xz(io.RawIOBase):
    """Unpack .xz with at most `_MOST_XZ` bytes of memory; `lzma.open` has no such option."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest = b""
        self._unpacker = self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_MOST_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._unpacker.eof:
                self._rest = self._unpacker.unused_data or self._file.read(_BLOCK)
                if not self._rest.strip(b"\0"):  # streams are padded to four bytes
                    return 0
                self._unpacker = self._new()
            elif self._unpacker.needs_input and not self._rest:
                self._rest = self._file.read(_BLOCK)
                if not self._rest:
                    raise EOFError("it ends inside of a block")
            found = self._unpacker.decompress(self._rest, len(buffer))
            self._rest = b""
            if found:
                buffer[: len(found)] = found
                return len(found)


class Text:
    """The lines of a text file, or of standard input, and their encoding.

    Lines end in a line feed. A line that cannot be decoded is yielded with replacement characters, and `bad` holds its
    problem under its number, from 1.
    """

    def __init__(self, stream: Any, source: str, encoding: str | None = None, facts: Facts | None = None) -> None:
        """Check the beginning of a stream of bytes, and find its encoding.

        Raises:
          UserError: for a file that is no text.
        """
        self.source = source
        self.stream: io.BufferedReader = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
        self.head = self.stream.peek(_BLOCK)
        self.bad: dict[int, str] = {}
        marked = next((name for mark, name in _MARKS.items() if self.head.startswith(mark)), None)
        self.encoding = marked or codecs.lookup(encoding or "utf-8").name
        if self.encoding == "utf-8-sig":
            self.encoding = "utf-8"
        facts = facts or Facts()
        facts.encoding = facts.encoding or self.encoding
        if marked and encoding and self.encoding != codecs.lookup(encoding).name:
            facts.say(source, f"read as {self.encoding}, whose byte-order mark it has, and not as {encoding}")
        self._wide = "\n".encode(self.encoding) != b"\n"
        _check_text(self.head, source, self._wide)
        beginning = self.head.decode(self.encoding, "replace")
        self._cr = "\r" in beginning[:-1] and "\n" not in beginning and stream is not getattr(sys.stdin, "buffer", None)
        if self._cr:
            facts.say(source, "its lines end in carriage returns")

    def begins_json(self) -> bool:
        """Return whether the first character that is no blank begins an object, or an array of objects."""
        head = self.head.decode(self.encoding, "replace").lstrip(_BLANKS)
        return head[:1] == "{" or (head[:1] == "[" and head[1:].lstrip(_BLANKS)[:1] in ("", "{", "]"))

    def lines(self, first: int | None = None) -> Iterator[str]:
        """Yield the lines, without byte-order marks at the beginning; `first` is the most bytes of the first line.

        Raises:
          UserError: for a line that is too long.
        """
        if self._wide or self._cr:
            yield from self._lines_of_blocks("\r" if self._cr else "\n", first)
            return
        for row, line in enumerate(raw_lines(self.stream, self.source, first), 1):
            try:
                text = line.decode(self.encoding)
            except UnicodeDecodeError as error:
                self.bad[row] = self._explain(error, " of the row")
                text = line.decode(self.encoding, "replace")
            yield text if row > 1 else text.lstrip("\ufeff")

    def lines_there(self) -> int:
        """Return how many unread lines that are not blank have arrived, at least; wait for the first one."""
        if self._wide or self._cr:  # these are read in blocks
            return 1
        return sum(1 for line in self.stream.peek(1).split(b"\n")[:-1] if line.strip())

    def strict_lines(self) -> Iterator[str]:
        """Yield the lines; raise `UserError` for the first line in another encoding."""
        for row, line in enumerate(self.lines(), 1):
            if self.bad:
                raise UserError(f"{at_row(self.source, row)}: {self.bad[row]}")
            yield line

    def blocks(self) -> Iterator[str]:
        """Yield the complete text in blocks, which may end inside a line; raise `UserError` for another encoding."""
        decoder, place = codecs.getincrementaldecoder(self.encoding)(), 0
        try:
            while block := self.stream.read1(_BLOCK):
                text = decoder.decode(block)
                yield text if place else text.lstrip("\ufeff")
                place += len(block)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.source}, after byte {place:,}: {self._explain(error)}") from error

    def _lines_of_blocks(self, end: str, first: int | None) -> Iterator[str]:
        rest, row = "", 1
        for block in self.blocks():
            *whole, rest = (rest + block).split(end)
            for line in whole:
                yield line + "\n"
            row += len(whole)
            if len(rest) > (LONGEST_ROW if row > 1 else first or LONGEST_ROW):
                raise too_long(self.source, row)
        if rest:
            yield rest

    def _explain(self, error: UnicodeDecodeError, within: str = "") -> str:
        """Return the message for a wrong byte, with the likely encoding."""
        name = "UTF-8" if self.encoding == "utf-8" else self.encoding
        what = f"not {name} (byte 0x{error.object[error.start]:02x} at position {error.start + 1}{within})"
        likely = likely_encoding(error.object)
        if likely is None or likely == self.encoding:
            return f"{what}: set data.encoding to the file's, or save it as UTF-8"
        return f"{what}; it looks like {likely}: set data.encoding to {likely}, or save the file as UTF-8"


def raw_lines(stream: Any, source: str, first: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a stream.

    Raises:
      UserError: for a line of more than `LONGEST_ROW` bytes; for the first line, of more than `first` bytes, if given.
    """
    row, longest = 1, first or LONGEST_ROW
    while line := stream.readline(longest + 1):
        if len(line) > longest:
            raise too_long(source, row)
        yield line
        row, longest = row + 1, LONGEST_ROW


def too_long(source: str, row: int) -> UserError:
    """Return the error for a line that is too long."""
    return UserError(f"{at_row(source, row)}: longer than {LONGEST_ROW >> 20} MiB: is this a file of text lines?")


def _is_utf8(sample: bytes) -> bool:
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.end == len(sample)  # the sample ends inside a character
    return True


def _check_text(head: bytes, source: str, wide: bool) -> None:
    """Raise `UserError` if the first bytes are not those of a text file."""
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            raise UserError(f"{source}: no text, but {what}")
    if head[257:262] == b"ustar":
        raise UserError(f"{source}: no text, but a tar archive: unpack it")
    first = head.partition(b"\n")[0]
    if wide or 0 not in first or (first.count(0) * 4 < len(first) and _is_utf8(first)):
        return
    likely = likely_encoding(first)
    if likely is None:
        raise UserError(f"{source}: begins with NUL bytes: it was probably not written completely")
    raise UserError(f"{source}: looks like {likely} without a byte-order mark: set data.encoding to {likely}")
