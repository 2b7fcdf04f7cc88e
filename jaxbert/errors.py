"""The exceptions for a user's mistake and for a stopped run, and the conversion of libraries' exceptions to the first.

Beside them stands what their messages are made of: short texts, lists of names, a similar name, the kind of a value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

STOPPED_EXIT_CODE = 75
_LONGEST = 300
MOST_COMPARED = 1000
"""The most names that are compared to find a similar one: a broken header can have millions."""


class UserError(Exception):
    """The input or the configuration is wrong; the message says what is wrong, where, and how to correct it.

    The command line prints the message as one `error: ...` line and exits with 2. Any other exception is a bug of jaxbert
    and keeps its traceback.
    """


class UserValueError(UserError, ValueError):
    """A `UserError` of the public classes, for cases in which transformers 4 raised ValueError."""


class UserOSError(UserError, OSError):
    """A `UserError` of the public classes, for damaged files and other cases in which transformers 4 raised OSError."""


class InUseError(UserError):
    """Another process owns a run folder."""


class DivergedError(UserError):
    """Loss or gradient were not finite for too many steps in a row."""


class UnfitError(UserError):
    """The values of a trial contradict each other, or fit neither the data nor the model."""


class StoppedError(Exception):
    """A signal ended the run after its state was saved; run it again to resume."""

    def __init__(self, step: int, way: str = "run the same command to resume", what: str = "step {}, which is") -> None:
        super().__init__(f"stopped after {what.format(step)} saved; {way}")
        self.step = step
        """The number of the last step."""


@contextmanager
def raised_as(kind: type[UserError]) -> Iterator[None]:
    """Raise any UserError in the block as one of this class."""
    try:
        yield
    except UserError as error:
        raise kind(str(error)) from error


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return _cut(lines[0].strip() if lines else type(error).__name__)


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def is_panic(error: BaseException) -> bool:
    """Return whether it is the panic of a library written in Rust, which is no Exception and has no importable type."""
    return type(error).__name__ == "PanicException"


@contextmanager
def foreign_errors(message: str) -> Iterator[None]:
    """Turn a library's exception about a user's file into `message: its text`; wrap only the library's call.

    A UserError passes unchanged, and so does a lack of memory, which is not about the file.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            said = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{message}: {_cut(said)}") from error
        raise


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is most similar to `name`; None if none is similar."""
    folded = {other.casefold(): other for other in islice(names, MOST_COMPARED)}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def quoted(values: Iterable[Any], most: int = 20) -> str:
    """Return a list of at most `most` values for a message, each shortened."""
    everything = list(values)
    shown = ", ".join(repr(shorten(v) if isinstance(v, str) else v) for v in everything[:most])
    return shown + (f" and {len(everything) - most} more" if len(everything) > most else "")


def shorten(text: str, most: int = 40) -> str:
    """Cut a text to `most` characters, so that a message stays one readable line."""
    return text if len(text) <= most else text[: most - 1] + "…"


def kind_of(value: Any) -> str:
    """Return the kind of a value, for a message."""
    names = {bool: "true or false", int: "a number", float: "a fraction", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
