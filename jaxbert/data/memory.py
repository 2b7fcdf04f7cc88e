"""Read examples from the memory of a Python program: lists of dictionaries, frames of pandas and polars, `datasets`.

While `hold` keeps them they have a name, `memory:train`, which is used like the name of a file. They are read like the
records of a file, with the same columns, checks and messages, and are counted from 1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxbert.data.hub import Split, read_hub
from jaxbert.data.json_rows import parts_of
from jaxbert.data.table import PART_ROWS, Intake, Problem, RawPart
from jaxbert.errors import UserError, kind_of, shorten

PREFIX = "memory:"
"""The beginning of the names of rows that a Python program holds."""
_FORM = '[{"text": "A fine film.", "label": "good"}, ...]'
_DATASETS = {
    "datasets.DatasetDict": 'one of its splits, dataset["train"]',
    "datasets.IterableDatasetDict": 'one of its splits as a list, list(dataset["train"])',
    "datasets.IterableDataset": "its rows as a list, list(dataset)",
}
"""Types that cannot be read directly, each with the object to give instead."""


@dataclass(frozen=True)
class Held:
    """Rows in memory."""

    name: str
    """Their name in messages."""
    rows: Any
    """A list of dictionaries, a frame, or a data set of `datasets`."""
    columns: tuple[str, ...] | None = None
    """The column names of a frame; None for other types."""
    stretch: Callable[[int, int, int], list[Any]] | None = None
    """For a frame: `(column, low, high) -> values`, with None for a missing value."""
    features: Mapping[str, Any] = field(default_factory=dict)
    """The column types of a data set of `datasets`; empty for other types."""

    def parts(self, intake: Intake) -> Iterator[RawPart]:
        """Yield the columns that `intake` asks for, part by part.

        Raises:
          UserError: if a column is missing.
        """
        if self.features:
            return read_hub(Split(self.name, self.rows, lambda: None), intake)
        if self.columns is not None:
            return self._frame_parts(self.columns, intake)
        return parts_of(enumerate(map(_record, self.rows), 1), self.name, intake) if len(self.rows) else iter(())

    def _frame_parts(self, columns: tuple[str, ...], intake: Intake) -> Iterator[RawPart]:
        assert self.stretch is not None
        chosen, low, count = intake.choose(columns, self.name), 0, len(self.rows)
        while low < count and (room := intake.room):
            high = min(low + room, count)
            found = {asked: self.stretch(columns.index(name), low, high) for asked, name in chosen.items()}
            yield RawPart(found, range(low + 1, high + 1))
            low = high

    def records(self) -> Generator[tuple[str, int, dict[str, Any] | Problem], None, None]:
        """Yield the name of the source, the number of each row, from 1, and the row."""
        for number, row in enumerate(self._dictionaries(), 1):
            yield self.name, number, row

    def _dictionaries(self) -> Iterator[dict[str, Any]]:
        if self.features:
            yield from self.rows
        elif self.columns is None:
            yield from map(_record, self.rows)
        else:
            assert self.stretch is not None
            for low in range(0, len(self.rows), PART_ROWS):
                part = (self.stretch(place, low, low + PART_ROWS) for place in range(len(self.columns)))
                yield from (dict(zip(self.columns, values, strict=True)) for values in zip(*part, strict=True))


_held: dict[str, Held] = {}
_lock = threading.Lock()


@contextmanager
def hold(rows: Any, role: str, what: str | None = None) -> Iterator[str]:
    """Hold rows, and yield the name under which they are read.

    Args:
      rows: a list of dictionaries, a frame of pandas or polars, or a data set of `datasets`.
      role: the use of the rows, for instance `train`; a part of the name.
      what: their name in messages; by default role and kind, `train (list of rows)`.

    Raises:
      UserError: if `rows` is of another type.
    """
    held = _take(rows, role, what)
    with _lock:
        numbers = (f"{PREFIX}{role}{'' if n == 1 else f'-{n}'}" for n in range(1, len(_held) + 2))
        name = next(name for name in numbers if name not in _held)
        _held[name] = held
    try:
        yield name
    finally:
        with _lock:
            del _held[name]


def find_held(spec: str) -> Held:
    """Return the rows with this name.

    Raises:
      UserError: if they are no longer held.
    """
    held = _held.get(spec)
    if held is None:
        raise UserError(
            f"{spec} stands for rows in the memory of a Python program, which are not here: give them to "
            "jaxbert.finetune again, or name a file"
        )
    return held


def _take(rows: Any, role: str, what: str | None) -> Held:
    """Wrap rows by their type, or raise `UserError`."""
    kinds = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(rows).__mro__}

    def name(kind: str) -> str:
        return what or f"{role} ({kind})"

    if "pandas.DataFrame" in kinds:
        return Held(name("pandas frame"), rows, tuple(map(str, rows.columns)), partial(_pandas_values, rows))
    if "polars.DataFrame" in kinds:
        return Held(name("polars frame"), rows, tuple(rows.columns), partial(_polars_values, rows))
    if "datasets.Dataset" in kinds:
        return Held(name("Dataset"), rows.with_format(None), features=rows.features)
    if wrong := kinds & _DATASETS.keys():
        raise UserError(f"{role}: is a {min(wrong)}: give {_DATASETS[min(wrong)]}")
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        _check_rows(rows, role)
        return Held(name("list of rows"), rows)
    found = shorten(repr(rows))
    raise UserError(
        f"{role}: is {kind_of(rows)} ({found}), but it must be a path, a list of rows {_FORM}, a frame of pandas or polars, "
        "or a Dataset"
    )


def _check_rows(rows: Sequence[Any], role: str) -> None:
    """Raise `UserError` for the first row that is not a mapping from column names to values."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"{role}, row {number}: is {_kind(row)} ({shorten(repr(row))}), but each row must name its columns: {_FORM}"
            )


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "a tuple" if isinstance(value, tuple) else kind_of(value)


def _pandas_values(frame: Any, place: int, low: int, high: int) -> list[Any]:
    """Return some values of a column; each of pandas' missing values becomes None."""
    column = frame.iloc[low:high, place]
    pairs = zip(column.tolist(), column.isna().tolist(), strict=True)
    return [None if missing else _plain(value) for value, missing in pairs]


def _polars_values(frame: Any, place: int, low: int, high: int) -> list[Any]:
    return frame.to_series(place)[low:high].to_list()


def _record(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """Return a value with Python types in place of NumPy's, and None for a missing value of pandas, in containers too."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return _record(value)
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
