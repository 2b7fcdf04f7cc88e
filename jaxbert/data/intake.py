"""Turn the raw parts that readers yield into checked tables, in one pass over a source.

Readers split a file into records. Malformed or empty records are found here or by the readers, and counted: with
`data.bad_rows: skip` they are left out, otherwise the first one ends the program with the number of the others.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from jaxbert.config import DataConfig
from jaxbert.data.table import PART_ROWS, Facts, Table, Wanted, at_row, check_texts, is_missing
from jaxbert.errors import UserError

BLANK = "the row is blank: remove it"
_NAMED = 10
_COUNT_SECONDS = 5.0
"""Seconds to read on after the first bad record, to count the others."""


@dataclass(frozen=True)
class Problem:
    """A bad record: its problem, and a remedy."""

    row: int
    what: str
    blank: bool = False
    """Whether the record is blank, which is no mistake at the end of a file."""
    marks: bool = False
    """Whether a blank record has separators or blanks, so that one at the end of a file is mentioned."""


@dataclass(frozen=True)
class RawPart:
    """Some records of a file, unchecked."""

    columns: Mapping[str, Sequence[Any]]
    """The values of each column, by the wanted name."""
    rows: Sequence[int]
    """The number of each record, counted from 1, ascending."""
    problems: Sequence[Problem] = ()
    """Records that could not be split into fields; they are in no column."""
    label_names: list[str] | None = None
    """The source's own names for its integer labels, in order from 0."""
    is_blank: Callable[[int], bool] = lambda index: False
    """Whether the record at an index is blank in all fields; called only where its text is blank."""


class BadRows:
    """Count and report the malformed or empty records of a source."""

    def __init__(
        self, name: str, data: DataConfig, facts: Facts, *, skippable: bool = True, counted: bool = True
    ) -> None:
        """Start without bad records.

        Args:
          name: the source's name in messages.
          data: says whether bad records are left out.
          facts: where left-out records are noted.
          skippable: whether this source allows left-out records.
          counted: whether to read on after the first bad record, to count the others.
        """
        self._name = name
        self._skip = data.bad_rows == "skip"
        self._skippable = skippable
        self._seconds = _COUNT_SECONDS if counted else 0
        self._facts = facts
        self._first: str | None = None
        self._first_row: tuple[str, int] | None = None
        self._reasons: list[str] = []
        self._count = 0
        self._deadline = 0.0
        self._some_good = False
        self._blank: list[Problem] = []
        """The first of the blank records after which no other record has come yet."""
        self._blank_count = self._marked = 0

    @property
    def ends(self) -> bool:
        """Whether a bad record ends the program."""
        return self._first is not None and not self._skip

    @property
    def enough(self) -> bool:
        """Whether the time to count the other bad records is over."""
        return self.ends and time.monotonic() >= self._deadline

    def before(self, source: str, rows: Sequence[int]) -> int:
        """Return how many of these records come before the first bad one, which is among them or before them."""
        assert self._first_row is not None
        return bisect_left(rows, self._first_row[1]) if self._first_row[0] == source else 0

    def good(self, source: str) -> None:
        """Note a good record; blank records before it are bad."""
        self._some_good = True
        self._flush(source)

    def note(self, source: str, problem: Problem, message: str | None = None) -> None:
        """Note a bad record of a file; a blank one is bad if another record follows. `message` replaces the usual text."""
        if problem.blank:
            self._blank_count += 1
            self._marked += problem.marks
            if len(self._blank) < _NAMED:
                self._blank.append(problem)
        else:
            self._flush(source)
            self._add(source, problem, message)

    def end_file(self) -> int:
        """Forget the blank records at the end of a file; return how many of them had separators or blanks."""
        marked = self._marked
        self._blank, self._blank_count, self._marked = [], 0, 0
        return marked

    def _flush(self, source: str) -> None:
        if self._blank:
            for problem in self._blank:
                self._add(source, problem)
            more = self._blank_count - len(self._blank)
            self._count += more
            self._facts.skipped += more if self._skip else 0
            self.end_file()

    def _add(self, source: str, problem: Problem, message: str | None = None) -> None:
        where = at_row(source, problem.row)
        self._count += 1
        if self._first is None:
            self._first = message or f"{where}: {problem.what}"
            self._first_row = source, problem.row
            self._deadline = time.monotonic() + self._seconds
        if self._skip:
            row = problem.row if source == self._name else where
            self._facts.skip(row)
            if len(self._reasons) < _NAMED:
                self._reasons.append(
                    f"{'row ' if source == self._name else ''}{row} ({problem.what.partition(':')[0]})"
                )

    def raise_first(self, *, all_counted: bool) -> None:
        """Raise `UserError` for the first bad record, with the number of the others, if bad records are not left out."""
        if not self.ends:
            return
        more = ""
        if self._count > 1:
            way = "; data.bad_rows: skip leaves them out" if self._skippable and self._some_good else ""
            least = "" if all_counted else "at least "
            more = f" (and {least}{self._count - 1:,} more row{'s' if self._count > 2 else ''}{way})"
        raise UserError(f"{self._first}{more}")

    def finish(self) -> None:
        """Tell the user which records were left out.

        Raises:
          UserError: for the first bad record, if bad records are not left out or no good one remains.
        """
        self.raise_first(all_counted=True)
        if not self._count:
            return
        rows = "1 row is" if self._count == 1 else f"{self._count:,} rows are"
        if not self._some_good:
            raise UserError(f"{self._first}; {rows} malformed or empty, and none is left")
        self.say_skipped()

    def say_skipped(self) -> None:
        """Tell the user which records were left out, if any."""
        if self._skip and self._count:
            rows = "1 row is" if self._count == 1 else f"{self._count:,} rows are"
            more = f" and {self._count - _NAMED:,} more" if self._count > _NAMED else ""
            which = ", ".join(self._reasons) + more
            self._facts.say(self._name, f"{rows} left out (data.bad_rows: skip): {which}")


class Intake:
    """The progress of reading one source: the wanted columns, the number of examples, the findings."""

    def __init__(
        self,
        name: str,
        wanted: Wanted,
        data: DataConfig,
        limit: int | None = None,
        *,
        waits: bool = False,
        skippable: bool = True,
        facts: Facts | None = None,
    ) -> None:
        """Start with no record read.

        Args:
          name: the source's name in messages.
          wanted: the columns to read.
          data: the settings for reading files.
          limit: the number of wanted examples; None for all.
          waits: whether the source is a pipe, whose records are passed on as they arrive.
          skippable: whether this source allows left-out records.
          facts: where findings about the source are noted; None for new facts.
        """
        self.name = name
        self.wanted = wanted
        self.data = data
        self.facts = facts or Facts()
        # After a bad record of a pipe, the next one may take long to arrive.
        self._bad = BadRows(name, data, self.facts, skippable=skippable, counted=not waits)
        self._left = limit
        self._waits = waits
        self._taken = 0
        self.there: Callable[[], int] = lambda: 1
        """For a pipe: returns how many further records have arrived, at least."""
        self._empty_columns = self._empty_rows = 0

    @property
    def room(self) -> int:
        """The most records that the next part may have; 0 to stop."""
        if self._bad.enough:
            return 0
        rows = PART_ROWS
        if self._waits:
            # Records that arrive fast are grouped like records of a file.
            rows = min(max(1, self.there()), PART_ROWS - self._taken % PART_ROWS) if self._taken else 1
        return rows if self._left is None else min(self._left, rows)

    def choose(self, names: Sequence[str], where: str, hint: str = "") -> dict[str, str]:
        """Return, for each wanted column, the one of `names` to read; `where` is the place of `names` in messages.

        Raises:
          UserError: if a column is missing.
        """
        chosen = self.wanted.choose(names, where, hint)
        if not self.facts.used:
            self.facts.choose(names, list(chosen.values()))
        for asked, name in chosen.items():
            if asked != name:
                self.facts.say(where, f"column {name!r} is taken for {asked!r}")
        return chosen

    def note_empty_columns(self, count: int) -> None:
        """Note the number of empty columns at the right."""
        self._empty_columns = max(self._empty_columns, count)

    def tables(self, parts: Iterator[RawPart], source: str) -> Iterator[Table]:
        """Yield the good records of a file, which messages call `source`, up to a bad one that ends the program.

        Raises:
          UserError: for the first bad record, unless left out; else for the error that ends the reading.
        """
        try:
            for part in parts:
                ended = self._bad.ends
                table = self._check(part, source)
                if not ended and self._bad.ends:
                    table = table.stretch(0, self._bad.before(source, table.rows))
                if len(table) and not ended:
                    yield table
        except UserError:
            self._bad.raise_first(all_counted=False)
            raise
        if self._bad.enough:
            self._bad.raise_first(all_counted=False)
        self._empty_rows += self._bad.end_file()

    def finish(self) -> None:
        """Tell the user which records and columns were left out.

        Raises:
          UserError: for the first bad record, if bad records are not left out.
        """
        self._bad.finish()
        counts = {"column": (self._empty_columns, "at the right"), "row": (self._empty_rows, "at the end")}
        found = [
            f"{count:,} empty {noun}{'s' if count > 1 else ''} {place}"
            for noun, (count, place) in counts.items()
            if count
        ]
        if found:
            self.facts.say(self.name, f"{' and '.join(found)} left out")

    def _check(self, part: RawPart, source: str) -> Table:
        """Return a table of the good records, and note the others."""
        wanted, rows = self.wanted, part.rows
        self._taken += len(rows) + len(part.problems)
        problems = {problem.row: problem for problem in part.problems}
        labelled = wanted.labelled or (wanted.labelled is None and set(wanted.marked()) <= part.columns.keys())
        columns: dict[str, Sequence[Any]] = {**dict.fromkeys(wanted.columns(), ()), **part.columns}
        for name in filter(None, (wanted.text, wanted.text_pair)):
            columns[name], wrong = check_texts(columns[name], name)
            for index, what in wrong.items():
                empty = part.is_blank(index)
                problems.setdefault(rows[index], Problem(rows[index], BLANK if empty else what, empty, marks=True))
        for name in wanted.marked() if wanted.labelled and wanted.labels != "list" else ():
            for index in _missing(columns[name]):
                what = f"column {name!r} is empty: fill in the label or remove the row"
                problems.setdefault(rows[index], Problem(rows[index], what))
        if problems:
            good = [index for index, row in enumerate(rows) if row not in problems]
            rows = [rows[index] for index in good]
            columns = {name: [values[index] for index in good] for name, values in columns.items()}
        self._note(sorted(problems.values(), key=lambda problem: problem.row), rows, source)
        if self._left is not None:
            self._left -= len(rows)
        return Table(
            texts=cast(list[str], columns[wanted.text]),
            pairs=None if wanted.text_pair is None else cast(list[str], columns[wanted.text_pair]),
            labels=self._labels(columns) if labelled else None,
            label_names=part.label_names if labelled else None,
            source=source,
            rows=rows,
            facts=self.facts,
            kept={name: columns[name] for name in (*wanted.kept, *wanted.optional) if name in part.columns},
        )

    def _labels(self, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        several = [columns[name] for name in self.wanted.label_columns]
        return list(zip(*several, strict=True)) if several else columns[self.wanted.label]

    def _note(self, problems: Sequence[Problem], good: Sequence[int], source: str) -> None:
        """Note the problems of one part; `good` are the numbers of its good records."""
        last = good[-1] if good else 0
        if last:
            self._bad.good(source)
        for problem in problems:
            self._bad.note(source, replace(problem, blank=False) if problem.row < last else problem)


def _missing(labels: Sequence[Any]) -> list[int]:
    """Return the indices of missing labels."""
    try:
        distinct: Any = set(labels)
    except TypeError:  # lists
        distinct = labels
    return [i for i, label in enumerate(labels) if is_missing(label)] if any(map(is_missing, distinct)) else []
