"""The exceptions for a user's mistake and for a stopped run, and the conversion of libraries' exceptions to the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

STOPPED_EXIT_CODE = 75
_LONGEST = 300


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

    def __init__(self, step: int, way: str = "run the same command to go on", what: str = "step {}, which is") -> None:
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
