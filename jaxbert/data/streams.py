"""Read the bytes of a file as lines of text: compression, encodings, line ends, and errors for files that are no text.

A line has a maximum length, and a compressed file is unpacked piece by piece, so that no file can fill the memory. Other
modules split the lines into records.
"""

from __future__ import annotations

import codecs
import io
import lzma
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from jaxbert.data.table import Facts, at_row
from jaxbert.errors import UserError, one_line

_HANZI = (  # simplified and traditional: an encoding has only those of one kind
    "的一是不了在人有我他中上大地到以就出可也你生能而子那得自年用道行所家事成方多去如都同面起看定天分好小心想很物品"
    "这个们来为和国说时要会对于着下过发后作里然么没还进样买质量從這個們來為國說時會對於著過發後裡麼沒還進樣買質"
)
_COMMON = {
    "shift_jis": "[\u3041-\u30fe]",
    "euc_jp": "[\u3041-\u30fe]",
    "gbk": f"[{_HANZI}]",
    "big5": f"[{_HANZI}]",
    "euc_kr": "[이다는가을를에의도하고지어기사아한서나라리로그자시대은들있인만요해보정었마스수일게여전장부]",
    "cp1251": "[а-яё]",
    "koi8_r": "[а-яё]",
    "cp1252": "[ß-öø-ÿœšž‘-”–—…€´]",
}
"""Characters that are common in texts of each encoding."""
_IDEOGRAPHS = ("gbk", "big5", "euc_kr")
_IMPLAUSIBLE = {
    "cp1251": re.compile("[a-z][а-яё]|[а-яё][a-z]"),
    "koi8_r": re.compile("[a-z][а-яё]|[а-яё][a-z]"),
    "cp1252": re.compile("[^\\W0-9_a-zA-Z]{4}"),
}
"""Rare patterns: Latin letters inside Russian words, Western European words of only accented letters."""


def likely_encoding(sample: bytes) -> str | None:
    """Return the likely encoding of bytes, None if none fits."""
    if 0 in sample:
        return _wide(sample)
    scores = {name: _score(sample, name) for name in _COMMON}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] else None


def _wide(sample: bytes) -> str | None:
    """Return UTF-16 or UTF-32 with its byte order, by the positions of the zero bytes of ASCII characters."""
    zeros = [2 * sample[place::4].count(0) > len(sample[place::4]) for place in range(4)]
    if all(zeros):
        return None
    if zeros[1] and zeros[2]:
        return "utf-32-le" if zeros[3] else "utf-32-be"
    odd, even = sample[1::2].count(0), sample[::2].count(0)
    return "utf-16-le" if odd > even else "utf-16-be"


def _score(sample: bytes, name: str) -> float:
    """Return how well bytes fit an encoding; 0 if they do not."""
    try:
        text = sample.decode(name)
    except UnicodeDecodeError:
        return 0.0
    if name in _IMPLAUSIBLE and _IMPLAUSIBLE[name].search(text):
        return 0.0
    characters = [c for c in text if not c.isascii()]
    if name in ("cp1251", "koi8_r") and not re.search("[а-яё]{2}", text):
        return 0.0
    common = sum(re.match(_COMMON[name], c) is not None for c in characters) / max(len(characters), 1)
    if name in _IDEOGRAPHS:  # some thousand characters; rare ones mean another encoding
        plain = all(c.encode(name)[0] < 0xD8 and c.encode(name)[1] >= 0x40 for c in characters if c.isalpha())
        return 0.5 + common if common or plain else 0.0
    return common if common >= (0.3 if name.endswith("jis") or name == "euc_jp" else 0.8) else 0.0


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
