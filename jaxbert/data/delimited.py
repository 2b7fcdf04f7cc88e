"""Read records of separated fields: csv, tsv and similar files that spreadsheets and other programs write.

The separator is decided once for a file, from its header or, without a header, from the number of fields in its first
records. A malformed record does not affect the others. `Intake` checks the values.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from operator import itemgetter

from jaxbert.config import DataConfig
from jaxbert.data import files
from jaxbert.data.files import Text
from jaxbert.data.table import BLANK, Intake, Problem, RawPart, Wanted, at_row, find_column
from jaxbert.errors import UserError, quoted

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_FIRST_LINES = 100
_FIRST_CHARACTERS = 2**20
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
"""Invisible characters that may surround the name of a column."""
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""The first line with which Excel names the separator."""


@dataclass(frozen=True)
class Dialect:
    """The characters that separate and quote the fields of a record."""

    separator: str
    quote: str | None
    """None where quotes are plain text."""

    @classmethod
    def of(cls, separator: str, data: DataConfig) -> Dialect:
        """Combine a separator with the quoting that the configuration sets."""
        return cls(separator, None if data.quoting == "none" else data.quote or '"')

    def records(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Return the fields of each record; a blank line has none."""
        if self.quote is None:
            bare = (line.rstrip("\r\n") for line in lines)
            return (line.split(self.separator) if line else [] for line in bare)
        csv.field_size_limit(files.LONGEST_ROW)
        # Without `strict`, all records after an unclosed quote would become one field.
        return csv.reader(lines, delimiter=self.separator, quotechar=self.quote, strict=True)

    def first(self, lines: Sequence[str]) -> list[list[str]]:
        """Return the records of the first lines, up to the first error."""
        found: list[list[str]] = []
        with contextlib.suppress(csv.Error):  # reported when all records are read
            found.extend(self.records(lines))
        return found


def read_delimited(text: Text, usual: str, intake: Intake) -> Iterator[RawPart]:
    """Yield the records of a file; `usual` is the separator for its extension.

    Raises:
      UserError: if the header lacks a column, or the separator or the end of a record is ambiguous.
    """
    source, lines = text.source, text.lines()
    head = _head(lines)
    if not head:
        raise UserError(f"{source}: the file is empty")
    said = _SEP_LINE.fullmatch(head[0].rstrip("\r\n")) if len(head) > 1 else None
    begin = 2 if said else 1
    head = head[begin - 1 :]
    dialect = _find_dialect(head, usual, said[1] if said else None, source, intake)
    layout = _find_layout(dialect, head, source, begin, intake)
    rows = _Rows(dialect, chain(head, lines), text, begin)
    found = False
    if intake.data.columns is None:
        rows.take(1)
    while (room := intake.room) and (taken := rows.take(room)):
        part = layout.part(taken, rows)
        found = found or len(part.rows) > 0 or not all(problem.blank for problem in part.problems)
        yield part
    if not found and not intake.facts.files:
        raise UserError(f"{source}: there is a header but no rows; if row {begin} is an example, set data.columns")


def _head(lines: Iterator[str]) -> list[str]:
    """Return up to `_FIRST_LINES` lines; stop after `_FIRST_CHARACTERS` characters."""
    head: list[str] = []
    characters = 0
    for line in islice(lines, _FIRST_LINES):
        head.append(line)
        characters += len(line)
        if characters > _FIRST_CHARACTERS:
            break
    return head


def _find_dialect(head: list[str], usual: str, said: str | None, source: str, intake: Intake) -> Dialect:
    """Decide the separator: from the configuration, a `sep=` line, the header or the first records.

    Raises:
      UserError: if several separators are possible.
    """
    data = intake.data
    separator = "\t" if data.separator in ("\\t", "tab") else data.separator
    if separator is None and said is not None:
        separator = said
        intake.facts.say(source, f"the fields are separated by {_name(said)}, as the first line says")
    elif separator is None:
        find = _by_width if data.columns else _by_header
        separator = find({other: Dialect.of(other, data).first(head) for other in SEPARATORS}, usual, source, intake)
    intake.facts.separator = intake.facts.separator or separator
    return Dialect.of(separator, data)


def _by_header(first: dict[str, list[list[str]]], usual: str, source: str, intake: Intake) -> str:
    """Return the separator with which the header has the wanted columns, else the usual one."""
    headers = {separator: _names(rows[0]) for separator, rows in first.items() if rows}
    needed = set(intake.wanted.needed().values())
    fitting = [s for s, names in headers.items() if needed <= set(names)]
    fitting = fitting or [s for s, names in headers.items() if intake.wanted.fits(names)]
    if not fitting or all(len(headers[separator]) == 1 for separator in fitting):
        return usual
    return _only(fitting, usual, "its header has the columns", source, intake)


def _by_width(first: dict[str, list[list[str]]], usual: str, source: str, intake: Intake) -> str:
    """Return the separator with which the first records have one field for each column, else the usual one."""
    width = len(intake.data.columns or ())
    shares = {}
    for separator, rows in first.items():
        filled = [_without_empty(row, width) for row in rows if any(map(str.strip, row))]
        shares[separator] = sum(len(row) == width for row in filled) / max(len(filled), 1)
    best = max(shares.values())
    if width == 1 or best == 0:
        return usual
    # One malformed record must not decide. Two separators that each fit some of the records are ambiguous.
    fitting = [s for s, share in shares.items() if share == 1 or (best < 1 and share > 0)]
    return _only(
        [s for s in fitting if shares[s] > 0.9] or fitting, usual, f"its rows have {width} fields", source, intake
    )


def _only(fitting: list[str], usual: str, what: str, source: str, intake: Intake) -> str:
    if len(fitting) > 1:
        names = " as well as ".join(f"by {_name(separator)}" for separator in fitting)
        raise UserError(f"{source}: {what} separated {names}: set data.separator to one of them")
    if fitting[0] != usual:
        intake.facts.say(source, f"the fields are separated by {_name(fitting[0])}, not by {_name(usual)}")
    return fitting[0]


def _name(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _names(fields: list[str]) -> list[str]:
    """Return the names in a header, without surrounding blanks and invisible characters."""
    return [field.strip().strip(_INVISIBLE).strip() for field in fields]


def _without_empty(fields: list[str], width: int) -> list[str]:
    """Return the fields without empty ones at the end, but at least `width` of them."""
    end = len(fields)
    while end > width and not fields[end - 1].strip():
        end -= 1
    return fields[:end]


@dataclass(frozen=True)
class _Layout:
    """The fields of a record: how many there are, and which are read."""

    picks: dict[str, int]
    """The index of the field for each wanted column."""
    width: int
    """The number of fields."""
    least: int
    """The number of fields without the nameless ones at the end."""
    counted: str
    """The origin of the width, for messages."""
    separator: str
    note_empty: Callable[[int], None]
    """Called with the number of surplus empty fields at the end of a record."""
    headers: tuple[list[str], ...] = ()
    """The spellings of a repeated header, as in concatenated files; empty for one column, which may hold its own name."""

    def part(self, records: list[list[str]], rows: _Rows) -> RawPart:
        """Return the columns of some records, and the problems of the malformed ones."""
        numbers: Sequence[int] = rows.numbers
        problems: list[Problem] = []
        if rows.bad or set(map(len, records)) != {self.width} or any(header in records for header in self.headers):
            kept, kept_numbers = [], []
            ends = [*numbers[1:], rows.next]
            for fields, row, end in zip(records, numbers, ends, strict=True):
                fields = self._fitted(fields)
                problem = self._problem(fields, row, end, rows.bad)
                if problem is None:
                    kept.append(fields)
                    kept_numbers.append(row)
                else:
                    problems.append(problem)
            records, numbers = kept, kept_numbers
        columns = {asked: list(map(itemgetter(pick), records)) for asked, pick in self.picks.items()}
        return RawPart(columns, numbers, problems, is_blank=lambda index: not any(map(str.strip, records[index])))

    def _fitted(self, fields: list[str]) -> list[str]:
        """Return a record without surplus empty fields at its end, or with missing nameless fields added."""
        if len(fields) > self.width:
            bare = _without_empty(fields, self.width)
            if len(bare) == self.width and any(map(str.strip, bare)):
                self.note_empty(len(fields) - self.width)
            return bare
        return fields + [""] * (self.width - len(fields)) if self.least <= len(fields) < self.width else fields

    def _problem(self, fields: list[str], row: int, end: int, bad: dict[int, str]) -> Problem | None:
        """Return the problem of a record that starts at line `row` and ends before line `end`; None if it is good."""
        if not any(map(str.strip, fields)):
            return Problem(row, BLANK, blank=True, marks=bool(fields))
        undecoded = min((line for line in bad if row <= line < end), default=None) if bad else None
        if undecoded is not None:
            return Problem(row, bad[undecoded])
        if fields in self.headers:
            return Problem(row, "the row repeats the header, as in joined files: remove it")
        if len(fields) == self.width:
            return None
        return Problem(row, _width_problem(fields, self.width, self.counted, self.separator))


def _find_layout(dialect: Dialect, head: list[str], source: str, begin: int, intake: Intake) -> _Layout:
    """Find the wanted columns.

    Raises:
      UserError: if a column is missing, or the first records have another number of fields.
    """
    data, where, first = intake.data, at_row(source, begin), dialect.first(head)
    if first and not any(map(str.strip, first[0])):
        raise UserError(f"{where}: {BLANK}")
    header = _names(first[0]) if first else []
    if data.columns is None:
        names, counted, rows = header, f"the header has {len(header)}", first[1:]
        chosen = intake.choose(names, where, _hint(header, head, dialect, intake)) if first else {}
    else:
        names, counted, rows = data.columns, f"data.columns names {len(data.columns)}", first
        chosen = intake.choose(names, "data.columns")
        _check_no_header(header, names, intake.wanted, where)
    least = len(_without_empty(names, 0))
    _check_widths(rows, len(names), least, counted, where)
    if least < len(names) and not any("".join(row[least:]).strip() for row in rows):
        intake.note_empty_columns(len(names) - least)
    picks = {asked: names.index(name) for asked, name in chosen.items()}
    again = list(names if data.columns is not None else first[0] if first else [])
    headers = (again, ["\ufeff" + again[0], *again[1:]]) if len(again) > 1 else ()
    return _Layout(picks, len(names), least, counted, dialect.separator, intake.note_empty_columns, headers)


def _check_widths(rows: list[list[str]], width: int, least: int, counted: str, where: str) -> None:
    """Raise `UserError` if the first records all have the same number of fields, but another one than the header."""
    widths = [len(_without_empty(row, width)) for row in rows if any(map(str.strip, row))]
    if len(widths) < 2 or len(set(widths)) > 1 or least <= widths[0] <= width:
        return
    way = "name all columns"
    if widths[0] == width + 1:
        way = (
            "give the first column a name, if it has row names as R writes them, or quote texts that hold the separator"
        )
    elif widths[0] < width:
        way = "see whether header and rows have the same separator"
    raise UserError(f"{where}: {counted} columns, but each of the first rows has {widths[0]} fields: {way}")


class _Rows:
    """Read the records of a file one after another, each with the number of its first line."""

    def __init__(self, dialect: Dialect, lines: Iterator[str], text: Text, begin: int) -> None:
        self._records = dialect.records(lines)
        self._text = text
        self._first_line = begin
        self._failure: Exception | None = None
        self.numbers: Sequence[int] = range(0)
        """The first line of each record that was taken last."""
        self.next = begin
        """The line after these records."""

    @property
    def bad(self) -> dict[int, str]:
        """The lines of these records that are in another encoding, each with the description of its problem."""
        if not self._text.bad:
            return {}
        first = self.numbers[0] if self.numbers else self.next
        return {row: what for row, what in self._text.bad.items() if first <= row < self.next}

    def take(self, count: int) -> list[list[str]]:
        """Return up to `count` records.

        Raises:
          UserError: if the end of the next record is ambiguous; the records before it are returned first.
        """
        if self._failure is not None:
            raise self._failure
        taken: list[list[str]] = []
        try:
            taken.extend(islice(self._records, count))
        except csv.Error as error:
            self._failure = error
        except UserError as error:
            self._failure = error
        begin, line = self.next, getattr(self._records, "line_num", None)
        if self._failure is None and (line is None or line + self._first_line - begin == len(taken)):
            self.numbers = range(begin, begin + len(taken))
            self.next = begin + len(taken)
        else:
            lines = [1 + sum(field.count("\n") for field in fields) for fields in taken]
            self.numbers = list(accumulate(lines, initial=begin))[:-1]
            self.next = begin + sum(lines)
        if isinstance(self._failure, csv.Error):
            where = at_row(self._text.source, self.next)
            self._failure = UserError(f"{where}: {_quote_problem(self._failure)}")
        if self._failure is not None and not taken:
            raise self._failure
        return taken


def _quote_problem(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "a carriage return inside a field: quote the field, or save the file with ordinary line ends"
    return (
        "a quote opens a field but does not close it (inside of a field it is written twice); if quotes are plain text, set "
        "data.quoting to none"
    )


def _width_problem(fields: list[str], width: int, counted: str, separator: str) -> str:
    found = f"found {len(fields)}, but {counted}"
    if len(fields) > width:
        return f"too many fields: {found}; a text that holds the separator must be quoted"
    if any("\0" in field for field in fields):
        return f"too few fields: {found}; the row has NUL bytes, so the file may not be whole"
    others = [other for other in SEPARATORS if other != separator and fields[0].count(other) == width - 1]
    if len(fields) == 1 and width > 1 and others:
        return f"too few fields: {found}; this row seems to be separated by {_name(others[0])}"
    return f"too few fields: {found}"


def _hint(header: list[str], head: list[str], dialect: Dialect, intake: Intake) -> str:
    """Return a hint about the probable mistake in a header that lacks a column."""
    if any(find_column(name, header) for name in intake.wanted.needed().values()):
        return ""
    beginning = head[0].lstrip().lower()
    if beginning.startswith(("{", "[{", "[\n")):
        return "; this is JSON: name the file .jsonl"
    if beginning.startswith(("<!doctype", "<html", "<?xml")):
        return "; this is a page of HTML or XML and no table: download the data again"
    for other in SEPARATORS:
        first = Dialect.of(other, intake.data).first(head)
        if len(header) == 1 and len(first) > 1 and len(first[0]) > 1 and len(first[0]) == len(first[1]):
            return f"; the fields seem to be separated by {_name(other)}: {quoted(_names(first[0]))}"
    if any(_looks_like_data(field) for field in header):
        return "; row 1 looks like data: if the file has no header, set data.columns to the column names"
    return "; if the file has no header, set data.columns to the column names"


def _looks_like_data(field: str) -> bool:
    return not field or field.lstrip("+-").replace(".", "", 1).isdigit() or len(field) > 40 or field.count(" ") > 2


def _check_no_header(fields: list[str], names: Sequence[str], wanted: Wanted, where: str) -> None:
    first = [field.casefold() for field in fields]
    expected = [name.casefold() for name in names]
    # A text may read "text", but no label reads like its own column.
    label = expected.index(wanted.label.casefold()) if wanted.label.casefold() in expected else None
    if sorted(first) == sorted(expected) or (label is not None and first[label : label + 1] == [expected[label]]):
        raise UserError(
            f"{where}: this is a header ({quoted(fields)}), but data.columns is for files without one: remove data.columns, "
            "or this row"
        )
