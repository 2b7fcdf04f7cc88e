"""The table in which all labelled texts arrive, part by part, and the checks that all sources share.

Readers (`sources`, `delimited`, `json_rows`, `hub`, `tfds`) yield raw parts, columns of a few thousand records at a time.
`Intake` makes checked tables of them, in one pass over a source. Malformed or empty records are found by it or by the
readers, and counted: with `data.bad_rows: skip` they are left out, otherwise the first one ends the program with the number
of the others. `labels` decides the meaning of the labels."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

from jaxbert.config import DataConfig
from jaxbert.errors import MOST_COMPARED, UserError, kind_of, nearest, quoted, shorten

_NAMED = 10

logger = logging.getLogger("jaxbert")


@dataclass
class Facts:
    """The findings about a source; its reader adds to them, and all parts of the source share one object."""

    columns: list[str] = field(default_factory=list)
    """All columns of the source, in order."""
    used: list[str] = field(default_factory=list)
    """The columns that were read."""
    files: list[str] = field(default_factory=list)
    """The files of a folder or a pattern, in the order of reading; empty for a single file."""
    separator: str | None = None
    """The separator of fields; None for formats without one."""
    encoding: str | None = None
    """The encoding of text files; None for other formats."""
    skipped: int = 0
    """The number of malformed or empty records that were left out because `data.bad_rows` is skip."""
    skipped_rows: list[int | str] = field(default_factory=list)
    """The first left-out records, counted from 1; with the file if the source is several files."""
    said: list[str] = field(default_factory=list)
    """The remarks on the reading, which a start that takes its tokens from the cache repeats."""

    def skip(self, row: int | str) -> None:
        """Note a record that is left out."""
        self.skipped += 1
        if len(self.skipped_rows) < _NAMED:
            self.skipped_rows.append(row)

    def say(self, source: str, what: str) -> None:
        """Tell the user about a guess, only for the first file to which it applies."""
        if not any(note.endswith(f": {what}") for note in self.said):
            self.said.append(f"{source}: {what}")
            logger.warning("%s", self.said[-1])

    def choose(self, columns: Sequence[str], used: Sequence[str]) -> None:
        """Note all columns, and the columns that are read."""
        self.columns, self.used = list(columns), list(used)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


LabelKind = Literal["name", "list", "number"]


class Place(NamedTuple):
    """A record of a source that is several files."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


Row = int | str | Place
"""The number of a record, from 1; with the file if the source is several files."""


def row_of(value: Any) -> Row:
    """Return a record number that was stored as JSON, in which a `Place` is a list."""
    return Place(*value) if isinstance(value, list) else value


PART_ROWS = 4096
"""The most records in one part."""


@dataclass(frozen=True)
class Table:
    """The texts of some examples with their labels, and their places in the source, for messages.

    `rows` are the numbers of the examples, from 1: in a text file the line in which the record starts (a header is row 1),
    otherwise the position in the parquet file or the split.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: Sequence[Any] | None
    """The labels as written in the source."""
    label_names: list[str] | None
    """The source's own names for its integer labels, in order from 0."""
    source: str
    """The name of the source, or of the file of these examples if the source is several files."""
    rows: Sequence[int]
    facts: Facts = field(default_factory=Facts)
    """The findings about the complete source; one object for all of its parts."""
    kept: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The columns that are copied to the answers, as written in the source."""

    def __len__(self) -> int:
        return len(self.texts)

    def kept_rows(self) -> list[dict[str, Any]]:
        """Return the columns that are copied to the answer of each example."""
        if not self.kept:
            return [{} for _ in self.texts]
        return [dict(zip(self.kept, values, strict=True)) for values in zip(*self.kept.values(), strict=True)]

    def row(self, index: int) -> Row:
        """Return the number of an example; with its file if the source is several files."""
        return at_row(self.source, self.rows[index]) if self.facts.files else self.rows[index]

    def stretch(self, low: int, high: int) -> Table:
        """Return the examples `low` to `high - 1` of this part."""
        pairs = None if self.pairs is None else self.pairs[low:high]
        labels = None if self.labels is None else self.labels[low:high]
        kept = {name: values[low:high] for name, values in self.kept.items()}
        texts, rows = self.texts[low:high], self.rows[low:high]
        return replace(self, texts=texts, pairs=pairs, labels=labels, rows=rows, kept=kept)


@dataclass(frozen=True)
class Wanted:
    """The columns that a reader must read; `labelled` None means the label if there is one."""

    text: str
    text_pair: str | None
    label: str
    labelled: bool | None
    labels: LabelKind = "name"
    """The kind of a label: one name or whole number, a list of them, or a score."""
    separator: str = ","
    """The separator of labels in a list that is written as text."""
    kept: tuple[str, ...] = ()
    """Columns that are copied to the answers."""

    label_columns: tuple[str, ...] = ()
    """Several columns of 0 and 1, one for each label; `label` is their name in messages."""
    optional: tuple[str, ...] = ()
    """Columns that are copied if they exist."""
    keys: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The setting that names a column, for messages, where it is not the usual one."""

    @classmethod
    def of(
        cls,
        data: DataConfig,
        labelled: bool | None,
        labels: LabelKind = "name",
        kept: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
        keys: Mapping[str, str] | None = None,
    ) -> Wanted:
        """Return the wanted columns, with the names from the configuration."""
        several = tuple(data.label) if isinstance(data.label, list) else ()
        label = data.label if isinstance(data.label, str) else ", ".join(data.label)
        separator = data.label_separator
        return cls(data.text, data.text_pair, label, labelled, labels, separator, kept, several, optional, keys or {})

    def needed(self) -> dict[str, str]:
        """Return the required columns: configuration key to column name."""
        keys = {"data.text": self.text}
        if self.text_pair is not None:
            keys["data.text_pair"] = self.text_pair
        if self.labelled:
            keys |= {f"data.label{f' {i}' if i else ''}": name for i, name in enumerate(self.marked())}
        return keys

    def marked(self) -> tuple[str, ...]:
        """Return the names of the label column or columns."""
        return self.label_columns or (self.label,)

    def choose(self, names: Sequence[str], where: str, hint: str = "") -> dict[str, str]:
        """Return, for each wanted column, the one of `names` to read: the same name, or one in another spelling.

        Raises:
          UserError: if a column is missing or ambiguous; `hint` is added to the message.
        """
        chosen = {}
        for key, asked in self._keys():
            found = find_column(asked, names)
            if not found:
                raise UserError(f"{where}: no column {asked!r} ({key}); {_alternatives(asked, names)}{hint}")
            if len(found) > 1:
                raise UserError(
                    f"{where}: several columns are named {quoted(dict.fromkeys(found))} ({key} is {asked!r}): rename or "
                    "remove all but one"
                )
            chosen[asked] = found[0]
        if self.labelled is None and set(self.marked()) <= set(names):
            chosen |= {name: name for name in self.marked()}
        for asked in self.optional:
            if len(found := find_column(asked, names)) == 1:
                chosen[asked] = found[0]
        return chosen

    def fits(self, names: Sequence[str]) -> bool:
        """Return whether all required columns are among `names`."""
        return all(find_column(asked, names) for asked in self.columns())

    def columns(self) -> list[str]:
        """Return the names of the required columns."""
        return [asked for _, asked in self._keys()]

    def _keys(self) -> list[tuple[str, str]]:
        usual = [*self.needed().items(), *(("--keep", name) for name in self.kept)]
        return [(self.keys.get(name, key), name) for key, name in usual]


def find_column(asked: str, names: Sequence[str]) -> list[str]:
    """Return the columns with this name; if there is none, those that differ only in case, blanks or Unicode form."""
    found = [name for name in names if name == asked]
    return found or [name for name in names[:MOST_COMPARED] if _folded(name) == _folded(asked)]


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _alternatives(name: str, names: Sequence[str]) -> str:
    there = "there are " + quoted(names) if names else "there are none"
    near = nearest(name, names)
    return there + (f"; did you mean {near!r}?" if near else "")


def at_row(source: str, row: Row) -> str:
    """Return the name of a record of a source, the same in every message."""
    return str(row) if isinstance(row, str | Place) else f"{source}, row {row}"


def check_texts(values: Sequence[Any], column: str) -> tuple[Sequence[Any], dict[int, str]]:
    """Return a column as texts, and the problem of each index without a text."""
    try:
        if all(map(str.strip, values)):
            return values, {}
    except TypeError:  # not all are texts
        pass
    texts, wrong = list(values), {}
    for index, value in enumerate(values):
        if type(value) is bytes:
            try:
                texts[index] = value = value.decode()
            except UnicodeDecodeError as error:
                wrong[index] = f"column {column!r} is {not_utf8(error)}: convert the text to UTF-8"
                continue
        if is_missing(value):
            wrong[index] = f"column {column!r} is empty: fill in the text or remove the row"
        elif not isinstance(value, str):
            wrong[index] = f"column {column!r} holds {kind_of(value)} ({shorten(repr(value))}), but it must hold text"
    return texts, wrong


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None, a blank text or NaN."""
    if isinstance(value, str | bytes):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def not_utf8(error: UnicodeDecodeError) -> str:
    """Describe the first byte that is not UTF-8, for a message."""
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at position {error.start + 1})"


BLANK = "the row is blank: remove it"
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
