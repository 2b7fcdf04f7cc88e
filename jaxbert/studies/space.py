"""The space of a search: which keys vary, between which values; checked against the ranges of the configuration."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.settings import KEYS, nearest_key

if TYPE_CHECKING:
    import optuna

Kind = Literal["log", "lin", "int", "values"]
_RANGES = ("log", "lin", "int")
_FORMS = "KEY=log:A:B, KEY=lin:A:B, KEY=int:A:B or KEY=V1,V2,V3"
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_MOST_POINTS = 100_000
_FIXED = {
    "train.output_dir": "each trial has a folder of its own",
    "train.accept_changed_data": "each trial begins anew",
    "train.folds": "all trials must be measured on the same rows",
    "train.folds_final": "all trials must be measured in the same way",
    "train.best_metric": "all trials must be compared by the same metric",
    "data.train": "all trials learn from the same source",
    "data.validation": "all trials must be measured on the same rows",
    "data.validation_fraction": "all trials must be measured on the same rows",
    "data.test": "it does not change what is learned",
    "data.cache_dir": "it does not change what is learned",
    "launch": "it does not change what is learned",
    "report": "it does not change what is learned",
}
"""Keys and sections that cannot vary, and why."""


@dataclass(frozen=True)
class Dimension:
    """A key that varies."""

    key: str
    kind: Kind
    low: float = 0.0
    """The ends of a range, both included."""
    high: float = 0.0
    values: tuple[Any, ...] = ()
    """The values of a list."""
    whole: bool = False
    """Whether a range has whole numbers only."""

    def __str__(self) -> str:
        if self.kind == "values":
            return f"{self.key}={','.join(map(_written, self.values))}"
        return f"{self.key}={self.kind}:{self.low:.15g}:{self.high:.15g}"

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that show whether all are allowed."""
        return self.values if self.kind == "values" else (self.low, self.high)

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values, if they can be counted."""
        if self.kind == "values":
            return self.values
        return tuple(range(int(self.low), int(self.high) + 1)) if self.whole else None

    def place(self, value: Any) -> float:
        """Return where a value lies between the ends, from 0 to 1."""
        if self.kind == "values":
            return self.values.index(value) / max(len(self.values) - 1, 1)
        low, high, at = (
            map(math.log, (self.low, self.high, value)) if self.kind == "log" else (self.low, self.high, value)
        )
        return (at - low) / (high - low) if high > low else 0.0

    def draw(self, trial: optuna.Trial) -> Any:
        """Return the value of a trial; Optuna draws it where the trial has none."""
        if self.kind == "values":
            return trial.suggest_categorical(self.key, self.values)
        log = self.kind == "log"
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=log)
        return trial.suggest_float(self.key, self.low, self.high, log=log)


def _written(value: Any) -> str:
    return next((word for word, meant in _WORDS.items() if value is meant), str(value))


def parse_space(texts: Sequence[str], config: Config) -> tuple[Dimension, ...]:
    """Read the dimensions of a space, each as `KEY=...`, and check that `config` allows all their values.

    Raises:
      UserError: for an unknown key, a key that cannot vary, or values that are not allowed.
    """
    space = tuple(_parse(text) for text in texts)
    if not space:
        raise UserError(f"search.space is empty: name what varies, as --search.space {_FORMS}")
    for place, dimension in enumerate(space):
        if dimension.key in (other.key for other in space[:place]):
            raise UserError(f"search.space names {dimension.key} twice: keep one of them")
        for value in dimension.ends:
            try:
                with_values(config, {dimension.key: value})
            except UserError as error:
                raise UserError(f"search.space {dimension}: {error}") from error
    return space


def _parse(text: str) -> Dimension:
    key, equals, said = (part.strip() for part in text.partition("="))
    if not equals or not said:
        raise UserError(f"search.space is {text!r}, but it must be {_FORMS}")
    if key not in KEYS:
        raise UserError(f"search.space: unknown key {key}{nearest_key(key, KEYS)}")
    reason = _FIXED.get(key) or _FIXED.get(key.partition(".")[0])
    if reason is not None:
        raise UserError(f"search.space: {key} cannot vary, because {reason}: leave it out")
    kind, *ends = said.split(":")
    if kind in _RANGES:
        return _parse_range(text, key, kind, ends)
    values = tuple(map(_value, said.split(",")))
    if len(set(map(repr, values))) < len(values):
        raise UserError(f"search.space is {text!r}, which names a value twice: keep one of them")
    return Dimension(key, "values", values=values)


def _parse_range(text: str, key: str, kind: Any, ends: Sequence[str]) -> Dimension:
    numbers = [_value(end) for end in ends]
    if len(numbers) != 2 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise UserError(f"search.space is {text!r}, but {kind} needs two numbers: {key}={kind}:A:B")
    low, high = numbers
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"search.space is {text!r}, but its first number must be below the second")
    if kind == "log" and low <= 0:
        raise UserError(f"search.space is {text!r}, but the ends of log must be above 0: use lin, or name values")
    section, _, name = key.partition(".")
    counts = isinstance(getattr(getattr(Config(), section), name), int) or name in ("max_steps", "eval_every")
    if (kind == "int" or counts) and not all(isinstance(n, int) for n in numbers):
        raise UserError(f"search.space is {text!r}, but both ends must be whole numbers")
    if kind == "lin" and counts:
        kind = "int"
    return Dimension(key, kind, low, high, whole=kind == "int" or counts)


def _value(text: str) -> Any:
    """Read a value: a number, true, false, null, or a word."""
    text = text.strip()
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return _WORDS.get(text, text)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with other values of some keys.

    Raises:
      UserError: for a value that is not allowed.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    changed = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **changed)


def grid(space: Iterable[Dimension]) -> list[dict[str, Any]]:
    """Return all combinations of the values of a space; the last key varies fastest.

    Raises:
      UserError: for a range whose values cannot be counted, or too many combinations.
    """
    space = [*space]
    for dimension in space:
        if dimension.points is None:
            raise UserError(
                f"search.method is grid, but {dimension} has infinitely many values: name some, as {dimension.key}=V1,V2"
            )
    points = [dimension.points or () for dimension in space]
    count = math.prod(map(len, points))
    if count > _MOST_POINTS:
        raise UserError(f"search.method is grid, but the space has {count:,} combinations: use random, or fewer values")
    names = [dimension.key for dimension in space]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*points)]
