"""Results to a file or to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jaxbert.errors import UserError, foreign_errors

if TYPE_CHECKING:
    from etils import epath


def check_output(output: str, flag: str = "--output") -> None:
    """Check before the work that its result, which `flag` named, can be written.

    Raises:
      UserError: if the folder is not there or not open for writing, or the name is a folder's.
    """
    if output == "-":
        return
    if "://" in output:
        from jaxbert.bucket import to_path

        _check_no_folder(to_path(output), output, flag)
        return
    path = Path(output).expanduser()
    _check_no_folder(path, output, flag)
    if not path.parent.is_dir():
        raise UserError(f"{flag} {output} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{flag} {output} cannot be written: no permission to write in {path.parent}")


def _check_no_folder(path: Path | epath.Path, output: str, flag: str) -> None:
    said = f"{flag} {output} cannot be written"
    with foreign_errors(said):
        if path.is_dir():
            raise UserError(f"{said}: it is a folder; name a file in it")


def write_text(output: str, text: str | Iterable[str]) -> None:
    """Write a text, or its pieces, to a file, whole or not at all, or to standard output for `-`.

    Raises:
      UserError: if the file cannot be written.
    """
    pieces = [text] if isinstance(text, str) else text
    if output == "-":
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
        return
    try:
        with _unfinished(output) as path, path.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error


@contextmanager
def _unfinished(output: str) -> Iterator[Path]:
    """Give a place to write to; what is there goes to its own at the end."""
    if "://" in output:
        from jaxbert.bucket import staged, to_path

        target = to_path(output)
        with staged(target.parent) as folder:
            yield folder / target.name
        return
    path = Path(output).expanduser()
    unfinished = path.with_name(path.name + ".tmp")
    yield unfinished
    os.replace(unfinished, path)
