"""Results to a file or to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from jaxbert.errors import UserError, foreign_errors


def check_output(output: str, flag: str = "--output") -> None:
    """Check before the work that its result, which `flag` named, can be written.

    Raises:
      UserError: if the folder is not there or not open for writing, or the name is a folder's.
    """
    if output == "-":
        return
    if "://" in output:
        from jaxbert.bucket import to_path

        to_path(output)
        return
    path = Path(output).expanduser()
    if path.is_dir():
        raise UserError(f"{flag} {output} cannot be written: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {output} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{flag} {output} cannot be written: no permission to write in {path.parent}")


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
    if "://" in output:
        from jaxbert.bucket import to_path, write_whole

        with foreign_errors(f"--output {output} cannot be written"):
            write_whole(to_path(output), "".join(pieces))
        return
    path = Path(output).expanduser()
    staged = path.with_name(path.name + ".tmp")
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        os.replace(staged, path)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
