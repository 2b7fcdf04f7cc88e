"""The allowed ranges of numeric settings, which are part of the fields' types, beside the defaults; rules for thresholds.

`batch_size: Positive = 32` is an integer with the range "at least 1". `check_fields` checks every field of a dataclass of
settings against its type; the dataclass itself checks rules between fields.
"""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Union

from jaxbert.errors import UserError


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds, which are included unless they are `above` and `below`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    also: tuple[float, str] | None = None
    """An allowed value outside the bounds, with its meaning."""

    def __contains__(self, value: Any) -> bool:
        if self.also is not None and value == self.also[0]:
            return True
        return bool(self.least <= value <= self.most and self.above < value < self.below)

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        text = " and ".join(f"{word} {bound:.15g}" for word, bound in bounds.items() if math.isfinite(bound))
        return text if self.also is None else f"{text}, or {self.also[0]:g} {self.also[1]}"

    def check(self, name: str, value: Any, *, whole: bool = False) -> None:
        """Check a value.

        Raises:
          UserError: if it is no number (no integer, with `whole`), or out of range; the message calls it `name`.
        """
        kind: type[Any] = numbers.Integral if whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            number = "a whole number" if whole else "a number"
            raise UserError(f"{name} is {value!r}, but it must be {', '.join(filter(None, [number, str(self)]))}")
        if value not in self:
            finite = not isinstance(value, float) or math.isfinite(value)
            raise UserError(f"{name} is {_shown(value)}, but it must be {str(self) if finite else self._finite()}")

    def _finite(self) -> str:
        return f"finite and {self}" if str(self) else "finite"


Positive = Annotated[int, Range(least=1)]
NotNegative = Annotated[int, Range(least=0)]
PositiveNumber = Annotated[float, Range(above=0)]
NotNegativeNumber = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, below=1)]
Number = Annotated[float, Range()]


def _shown(value: Any) -> str:
    """Return a number as people write it: -1 for -1.0, and without the name of its type."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if value.is_integer() and abs(value) < 1e6 else repr(float(value))


@dataclass(frozen=True)
class _Field:
    """The values that the type of a field allows."""

    empty: bool
    """Whether the value may be None."""
    choices: tuple[Any, ...]
    """The values of a Literal; empty for other types."""
    range: Range | None
    whole: bool
    kinds: tuple[type[Any], ...]
    """The types of the value; empty where choices or a range say it."""

    @classmethod
    def of(cls, hint: Any) -> _Field:
        parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
        others = [part for part in parts if part is not type(None)]
        only = others[0] if len(others) == 1 else None
        origin, inner = typing.get_origin(only), typing.get_args(only)
        ranges = [note for note in inner[1:] if isinstance(note, Range)] if origin is Annotated else []
        return cls(
            empty=len(others) < len(parts),
            choices=inner if origin is Literal else (),
            range=ranges[0] if ranges else None,
            whole=bool(ranges) and inner[0] is int,
            kinds=() if ranges or origin is Literal else tuple(typing.get_origin(part) or part for part in others),
        )


@cache
def _fields(section: Any) -> dict[str, _Field]:
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: _Field.of(hints[field.name]) for field in fields(section)}


def range_texts(section: Any) -> dict[str, str]:
    """Return the range of each field that has one, in words."""
    return {name: str(field.range) for name, field in _fields(section).items() if field.range and str(field.range)}


def check_fields(settings: Any, spell: Callable[[str], str]) -> None:
    """Check each field of a dataclass: whether None is allowed, its type, its choices and its range.

    Args:
      settings: an instance.
      spell: a function that returns a field's name in messages, such as `train.epochs` or `--top_k`.

    Raises:
      UserError: for the first value that its type does not allow.
    """
    section: Any = type(settings)
    for name in _fields(section):
        check_field(section, name, getattr(settings, name), spell)


def check_field(section: Any, name: str, value: Any, spell: Callable[[str], str]) -> None:
    """Check a value for one field of `section`, a dataclass of settings, like `check_fields`.

    Raises:
      UserError: if the field's type does not allow it.
    """
    field = _fields(section)[name]
    if value is None:
        if not field.empty:
            raise UserError(f"{spell(name)} is null, but it must have a value; leave the key out for its default")
    elif field.range is not None:
        field.range.check(spell(name), value, whole=field.whole)
    elif field.choices and not any(value == choice for choice in field.choices):
        raise UserError(f"{spell(name)} is {value!r}, but it must be {listed_choices(field.choices)}")
    elif field.kinds and not isinstance(value, field.kinds):
        kinds = " or ".join(kind.__name__ for kind in field.kinds)
        raise UserError(f"{spell(name)} is {value!r}, but it must be of type {kinds}")


def listed_choices(choices: tuple[Any, ...]) -> str:
    """Return choices as text for a message."""
    return str(choices[0]) if len(choices) == 1 else f"one of {', '.join(map(str, choices))}"


@dataclass(frozen=True)
class ThresholdRule:
    """What the best threshold of a binary classifier is: `f_beta=B`, `precision=P`, `recall=R` or `cost=FP:FN`."""

    kind: str
    """`f_beta`, `precision`, `recall` or `cost`."""
    value: float
    """Beta, the least precision, the least recall, or the cost of a false positive."""
    other: float = 0.0
    """The cost of a false negative."""

    @classmethod
    def parse(cls, text: str, name: str) -> ThresholdRule:
        """Read a rule; messages call the setting `name`.

        Raises:
          UserError: if it is none, or a number is out of range.
        """
        kind, _, rest = text.replace(" ", "").partition("=")
        try:
            given = [float(part) for part in rest.split(":")]
        except ValueError:
            given = []
        wanted = {"f_beta": 1, "precision": 1, "recall": 1, "cost": 2}.get(kind)
        most = 1.0 if kind in ("precision", "recall") else math.inf
        if len(given) != wanted or not all(0 < n <= most and math.isfinite(n) for n in given):
            raise UserError(
                f"{name} is {text!r}, but it must be f_beta=BETA, precision=SHARE, recall=SHARE or "
                "cost=FALSE_POSITIVE:FALSE_NEGATIVE, with numbers above 0 (shares up to 1): for instance f_beta=1, "
                "precision=0.9 or cost=1:5"
            )
        return cls(kind, *given)


def insist_on(ok: bool, key: str, value: object, expected: str) -> None:
    """Check that a setting is `ok`.

    Raises:
      UserError: if it is not; the message has the `key`, its `value` and what is `expected`.
    """
    if not ok:
        raise UserError(f"{key} is {value!r}, but it must be {expected}")
