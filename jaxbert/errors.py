"""The exceptions for a user's mistake and for a stopped run, and what libraries raise turned into the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

STOPPED_EXIT_CODE = 75
_LONGEST = 300


class UserError(Exception):
    """The input or the configuration is wrong, and the message says what, where and what to do.

    The command line prints the message as one `error: ...` line and exits with 2. Everything else that is raised is a bug
    of jaxbert and keeps its traceback.
    """


class UserValueError(UserError, ValueError):
    """A `UserError` of the public classes where those of transformers 4 raised ValueError."""


class UserOSError(UserError, OSError):
    """A `UserError` of the public classes where those of transformers 4 raised OSError: no such model, damaged files."""


class StoppedError(Exception):
    """A signal ended the run after its state was saved; run it again to go on."""

    def __init__(self, step: int, way: str = "run the same command to go on") -> None:
        super().__init__(f"stopped after step {step}, which is saved; {way}")
        self.step = step
        """The last step."""


@contextmanager
def raised_as(kind: type[UserError]) -> Iterator[None]:
    """Raise a UserError of the block as one of this kind."""
    try:
        yield
    except UserError as error:
        raise kind(str(error)) from error


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return _cut(lines[0].strip() if lines else type(error).__name__)


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def is_panic(error: BaseException) -> bool:
    """Tell the panic of a library written in Rust, which is no Exception and has no importable type."""
    return type(error).__name__ == "PanicException"


@contextmanager
def foreign_errors(message: str) -> Iterator[None]:
    """Turn what a library raises on a user's file into `message: what it says`; wrap the library's call, no more.

    A UserError passes, and so does a lack of memory, which says nothing of the file.
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
