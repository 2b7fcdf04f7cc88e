"""Results to a file or to standard output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jaxbert.errors import UserError


def write_text(output: str, text: str) -> None:
    """Write to a file, whole or not at all, or to standard output for `-`.

    Raises:
      UserError: if the file cannot be written.
    """
    if output == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(output).expanduser()
    staged = path.with_name(path.name + ".tmp")
    try:
        staged.write_text(text, "utf-8")
        os.replace(staged, path)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
