"""Read records that are JSON objects: one a line, all in an array, or all in the only list of an object.

An array is parsed element by element. An object with a list is read completely, up to `MOST_AT_ONCE` characters, so that a
second list is noticed. `Intake` checks the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from jaxbert.data import files
from jaxbert.data.files import Text
from jaxbert.data.table import BLANK, Facts, Intake, Problem, RawPart, at_row
from jaxbert.errors import UserError, one_line, quoted

MOST_AT_ONCE = 2**30
"""The most characters of an object with a list of records; SQuAD 2.0 has 42 MB."""
_BLANKS = " \t\r\n\ufeff"
_WHITE = re.compile(f"[{_BLANKS}]*")

Rows = Iterator[tuple[int, "dict[str, Any] | Problem"]]
"""The line of each record, or its position in the array or list, from 1; and the record."""


def read_json_parts(text: Text, intake: Intake) -> Iterator[RawPart]:
    """Yield the objects of a file part by part.

    Raises:
      UserError: if a column is missing, or nothing can be read after a mistake.
    """
    known = list(intake.wanted.needed().values())
    return parts_of(json_records(text, known, intake.facts), text.source, intake)


def parts_of(records: Rows, source: str, intake: Intake) -> Iterator[RawPart]:
    """Yield records part by part; the first part decides the columns.

    Raises:
      UserError: if a column is missing, or there is no record.
    """
    chosen: dict[str, str] = {}
    empty = True
    while (room := intake.room) and (part := list(islice(records, room))):
        rows = [(row, record) for row, record in part if not isinstance(record, Problem)]
        problems = [record for _, record in part if isinstance(record, Problem)]
        empty = empty and not rows and all(problem.blank for problem in problems)
        if rows and not chosen:
            row, first = rows[0]
            names = list(first)
            if not intake.wanted.fits(names):  # one record may lack a column
                names = list(dict.fromkeys(chain.from_iterable(record for _, record in rows)))
            chosen = intake.choose(names, at_row(source, row))
        columns = {asked: [record.get(name) for _, record in rows] for asked, name in chosen.items()}
        yield RawPart(columns, [row for row, _ in rows], problems)
    if empty and not intake.facts.files:
        raise UserError(f"{source}: the file is empty")


def json_records(text: Text, known: Collection[str], facts: Facts) -> Rows:
    """Yield the objects of a file, each with its line or its position in the array or list.

    Args:
      text: the file.
      known: column names. A record has some of them; an object that only holds the list of records has none.
      facts: where another form than one object a line is noted.

    Raises:
      UserError: if the records cannot be separated.
    """
    head = text.head.decode(text.encoding, "replace").lstrip(_BLANKS)
    if head[:1] == "[" and text.begins_json():
        facts.say(text.source, "read as a JSON array")
        yield from array_elements(text.blocks(), text.source)
        return
    # An object that holds all records may be one line.
    lines = text.lines(MOST_AT_ONCE if head[:1] == "{" and "\n" not in head else None)
    begin = list(until_filled(lines))
    first = begin[-1].strip() if begin else ""
    if first.startswith("{") and first.endswith("},") and isinstance(_parse_object(first[:-1], 1), dict):
        where = at_row(text.source, len(begin))
        raise UserError(f"{where}: a comma after the object: remove all of them, or put all objects between [ and ]")
    if first.startswith("{") and first.endswith(("{", "[", ",")):
        yield from _of_document(_whole("".join(begin), lines, text), text.source, known, facts)
        return
    holder = _parse_object(first, len(begin)) if first.startswith("{") and not text.bad else None
    is_row = isinstance(holder, dict) and any(name in holder for name in known)
    if isinstance(holder, dict) and not is_row and (_lists(holder) or _is_of_columns(holder)):
        behind = list(until_filled(lines))
        if not any(map(str.strip, behind)):
            yield from _of_document(holder, text.source, known, facts)
            return
        begin += behind
    if holder is None and any(name in re.split(r"[,;\t|]", first) for name in known):
        raise UserError(
            f"{at_row(text.source, len(begin))}: the header of a table, and no JSON: name the file .csv or .tsv"
        )
    yield from json_lines(chain(begin, lines), text.bad)


def until_filled(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines up to and including the first that is not blank."""
    for line in lines:
        yield line
        if line.strip():
            return


def json_lines(lines: Iterable[str], bad: dict[int, str]) -> Rows:
    """Yield the object of each line; `bad` holds the problems of lines in another encoding."""
    for row, line in enumerate(lines, 1):
        if row in bad:
            yield row, Problem(row, bad.pop(row))
        elif not line.strip():
            yield row, Problem(row, BLANK, blank=True, marks=bool(line.strip("\r\n")))
        else:
            yield row, _parse_object(line, row)


def _parse_object(line: str, row: int) -> dict[str, Any] | Problem:
    try:
        record = json.loads(line)
        if "\\u" in line:
            _check_pairs(record)
    except (ValueError, RecursionError) as error:
        array = line.lstrip().startswith("[")
        way = "a JSON array is not JSON lines: write each of its objects on a line" if array else _reason(error)
        return Problem(row, f"not a complete JSON object ({way})")
    if not isinstance(record, dict):
        return Problem(row, f"expected one JSON object on each line, found {quoted([line.strip()])}")
    return record


def _check_pairs(record: Any) -> None:
    """Raise `ValueError` for half a surrogate pair, which no encoding can write."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair, which is not a character") from error


def _reason(error: Exception) -> str:
    return f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else one_line(error)


def _whole(begin: str, lines: Iterator[str], text: Text) -> dict[str, Any]:
    """Return the object that is a complete file, or raise `UserError`."""
    source, pieces, characters = text.source, [begin], len(begin)
    for line in lines:
        pieces.append(line)
        characters += len(line)
        if characters > MOST_AT_ONCE:
            raise UserError(
                f"{source}: an object of more than {MOST_AT_ONCE >> 20} MiB: write one JSON object on each line"
            )
    for number, what in text.bad.items():
        raise UserError(f"{source}, line {number}: {what}")
    try:
        content = json.loads("".join(pieces))
        _check_pairs(content)
    except (ValueError, RecursionError) as error:
        more = "Extra data" in str(error)
        way = (
            "one object over several lines is followed by more: write each object on a line"
            if more
            else one_line(error)
        )
        raise UserError(f"{at_row(source, 1)}: not a complete JSON object ({way})") from error
    return content


def _lists(holder: dict[str, Any]) -> list[str]:
    """Return the keys whose values are lists, if one of the lists holds objects."""
    lists = {key: value for key, value in holder.items() if isinstance(value, list)}
    rows = any(value and isinstance(value[0], dict) for value in lists.values())
    return list(lists) if rows or holder == {"data": []} else []


def _is_of_columns(holder: dict[str, Any]) -> bool:
    """Return whether each value is a column, an object with the same keys as the others, as pandas writes it."""
    keys = [list(value) for value in holder.values() if isinstance(value, dict)]
    return len(holder) > 1 and len(keys) == len(holder) and all(own == keys[0] for own in keys)


def _of_document(holder: dict[str, Any], source: str, known: Collection[str], facts: Facts) -> Rows:
    """Yield the records in the only list of an object, or the object itself if it is a record."""
    if _is_of_columns(holder):
        raise UserError(
            f"{source}: one object that holds whole columns: write an object for each row (pandas: orient='records')"
        )
    lists = [] if any(name in holder for name in known) else _lists(holder)
    if len(lists) > 1:
        raise UserError(
            f"{source}: an object with the lists {quoted(lists)}, of which each may hold the rows: write the right one "
            "alone, or one JSON object on each line"
        )
    if not lists:
        yield 1, holder
        return
    facts.say(source, f"the rows are the list under {lists[0]!r}")
    for row, record in enumerate(holder[lists[0]], 1):
        yield row, record if isinstance(record, dict) else _no_object(record, row)


def _no_object(value: Any, row: int) -> Problem:
    return Problem(row, f"expected a JSON object, found {quoted([repr(value)])}")


def array_elements(blocks: Iterable[str], source: str) -> Rows:
    """Yield the elements of an array that is read block by block; only one element is held in memory.

    Raises:
      UserError: if the start of the next element cannot be found.
    """
    scanner = _Scanner(blocks)
    scanner.skip("[")
    row, next_ = 0, scanner.peek()
    if next_ == "]":
        raise UserError(f"{source}: an empty array: at least one example is needed")
    while next_ != "]":
        row += 1
        try:
            value = scanner.value()
        except (ValueError, RecursionError) as error:
            where = at_row(source, row)
            raise UserError(f"{where}: the array has no complete JSON object there ({one_line(error)})") from error
        yield row, value if isinstance(value, dict) else _no_object(value, row)
        next_ = scanner.peek()
        if next_ not in (",", "]"):
            found = repr(next_) if next_ else "the end of the file"
            raise UserError(f"{at_row(source, row)}: after it there is {found} in place of a comma or a ]")
        if next_ == ",":
            scanner.skip(",")
    scanner.skip("]")
    if rest := scanner.peek():
        raise UserError(f"{source}: after the end of the array there is more ({rest!r}): it must be one array")


class _Scanner:
    """Read JSON values from a text that is given block by block."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._blocks = iter(blocks)
        self._decoder = json.JSONDecoder()
        self._buffer, self._at = "", 0

    def _more(self) -> bool:
        """Read at least one block, and as much as is held already; return whether there was any text."""
        held = len(self._buffer) - self._at
        pieces, count = [self._buffer[self._at :]], 0
        for block in self._blocks:
            pieces.append(block)
            count += len(block)
            if count > held:
                break
        self._buffer, self._at = "".join(pieces), 0
        return count > 0

    def peek(self) -> str:
        """Return the next character that is no blank; an empty text at the end."""
        while True:
            self._at = _WHITE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        """Skip the next character, which must be this one."""
        assert self.peek() == character
        self._at += 1

    def value(self) -> Any:
        """Return the next value.

        Raises:
          ValueError: if there is no valid value, or it is too long.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
                length = end - self._at
                if end < len(self._buffer) or not self._more():  # more digits may follow
                    break
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._at > files.LONGEST_ROW:
                    raise ValueError(f"or one of more than {files.LONGEST_ROW >> 20} MiB") from error
                if not self._more():
                    raise ValueError(error.msg) from error
        end = self._at + length
        if "\\u" in self._buffer[self._at : end]:
            _check_pairs(value)
        self._at = end
        return value
