"""The format of answers: one JSON object per line, or rows of a table, with columns of the input first."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from jaxbert.cli.output import TABLES
from jaxbert.errors import UserError

if TYPE_CHECKING:
    from jaxbert.tasks.base import Task

Answer = Mapping[str, Any]


def parse_keep(text: str | None) -> dict[str, str]:
    """Return the columns in `--keep`, with their names in the answers.

    Raises:
      UserError: for a name that is missing or given twice.
    """
    if text is None:
        return {}
    if text.lstrip().startswith("["):
        names = _listed(text)
        pairs = [(name, name) for name in names]
    else:
        parts = [part.strip().partition("=") for part in text.split(",")]
        pairs = [(column.strip(), (name if equals else column).strip()) for column, equals, name in parts]
    kept = dict(pairs)
    if not all(column and name for column, name in pairs):
        raise UserError(f"--keep {text}: a name is missing: give columns as id,text or id,label=gold")
    if len(kept) < len(pairs) or len(set(kept.values())) < len(pairs):
        raise UserError(f"--keep {text}: names a column twice: remove one")
    return kept


def _listed(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'--keep {text}: expected names as id,text or, with commas in them, as ["a, b", "c"]')
    return names


def make_writer(
    output: str, task: Task, kept: Mapping[str, str], separator: str
) -> Callable[[Iterable[tuple[Answer, Answer]]], str]:
    """Return a function that formats pairs of kept values and answers; as a table if the extension of `output` is one's.

    Args:
      output: the value of `--output`.
      task: the task of the answers.
      kept: columns of the input, with their names in the answers.
      separator: the separator of several labels in a field of a table.

    Raises:
      UserError: if two columns would have one name, or a label holds the separator.
    """
    _check_names(kept, task.answer_keys, "an answer has a key")
    delimiter = TABLES.get(PurePath(output).suffix.lower())
    if delimiter is None:
        return lambda pairs: "".join(_line({**_renamed(values, kept), **answer}) for values, answer in pairs)
    columns = _columns(task, separator)
    _check_names(kept, list(columns), "the table has a column")
    return _Table([*kept.values(), *columns], list(columns.values()), kept, delimiter).rows


def _check_names(kept: Mapping[str, str], taken: Iterable[str], there: str) -> None:
    for column, name in kept.items():
        if name in taken:
            everything = ", ".join(list(taken)[:20])
            raise UserError(
                f"--keep {column}: {there} {name!r} of its own ({everything}): give it another name here, for instance "
                f"--keep {column}={name}_given"
            )


def _renamed(values: Answer, kept: Mapping[str, str]) -> dict[str, Any]:
    return {name: values[column] for column, name in kept.items()}


def _line(answer: Answer) -> str:
    return _as_json(answer) + "\n"


def _as_json(value: Any) -> str:
    """Return JSON; a source may hold values that JSON lacks, such as dates, bytes and NaN."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: dates, decimals and bytes become text, a number that is not finite null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # a NumPy value
        return _plain(value.tolist())
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@dataclasses.dataclass
class _Table:
    """Formats rows of a table, with the header before the first."""

    header: list[str]
    fields: list[Callable[[Answer], Any]]
    kept: Mapping[str, str]
    delimiter: str
    begun: bool = False

    def rows(self, pairs: Iterable[tuple[Answer, Answer]]) -> str:
        """Return the rows of some answers as text."""
        lines = [] if self.begun else [self._row(self.header)]
        self.begun = True
        for values, answer in pairs:
            own = [_cell(values[column]) for column in self.kept]
            lines.append(self._row([*own, *(_cell(field(answer)) for field in self.fields)]))
        return "".join(lines)

    def _row(self, cells: list[str]) -> str:
        """Quote fields as in RFC 4180; Python's writer does not quote a lone carriage return, which readers reject."""
        special = (self.delimiter, '"', "\n", "\r")
        quoted = ['"' + cell.replace('"', '""') + '"' if any(c in cell for c in special) else cell for cell in cells]
        return (self.delimiter.join(quoted) or '""') + "\n"


def _cell(value: Any) -> str:
    """Return the text of a field: a text unchanged, null as an empty text, other values as JSON."""
    value = value if isinstance(value, str) else _plain(value)
    return value if isinstance(value, str) else "" if value is None else _as_json(value)


def _columns(task: Task, separator: str) -> dict[str, Callable[[Answer], Any]]:
    """Return the columns of a task's answers, each with a function that reads its value from an answer.

    Probabilities have one column per label; if an answer shows only the best labels, a pair of columns per rank.
    """
    names: tuple[str, ...] = getattr(task, "label_names", ())
    columns: dict[str, Callable[[Answer], Any]] = {}
    for key in task.answer_keys:
        if key in ("labels", "label_set"):
            _check_separator(names, separator)
            columns[key] = partial(_joined, separator, key)
        elif key != "probabilities":
            columns[key] = itemgetter(key)
    if "probabilities" not in task.answer_keys:
        return columns
    from jaxbert.tasks.top_k import shown_count

    shown = shown_count(len(names), getattr(task, "top_k", None))
    if shown == len(names):
        for label in names:
            taken = label in columns or label in task.answer_keys
            columns[f"probability_{label}" if taken else label] = partial(_probability, label)
        return columns
    for rank in range(2 if "label" in task.answer_keys else 1, shown + 1):
        columns[f"label_{rank}"] = partial(_ranked, rank, 0)
        columns[f"score_{rank}"] = partial(_ranked, rank, 1)
    return columns


def _joined(separator: str, key: str, answer: Answer) -> str:
    return separator.join(answer[key])


def _probability(label: str, answer: Answer) -> float:
    return answer["probabilities"][label]


def _ranked(rank: int, which: int, answer: Answer) -> Any:
    return list(answer["probabilities"].items())[rank - 1][which]


def _check_separator(names: Iterable[str], separator: str) -> None:
    holding = next((name for name in names if separator in name), None)
    if holding is not None:  # an empty separator is part of every name
        raise UserError(
            f"label {holding!r} contains {separator!r}, which separates several labels in one field: choose another "
            "--label_separator, or write JSON lines"
        )
