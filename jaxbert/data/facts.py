"""What a reader found out about a source: said before a run, kept with its tokens."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_NAMED = 10

logger = logging.getLogger("jaxbert")


@dataclass
class Facts:
    """How a source was read; the reader fills it while it reads, and every part of the source carries the same one."""

    columns: list[str] = field(default_factory=list)
    """All columns of the source, in order."""
    used: list[str] = field(default_factory=list)
    """Those that were read."""
    files: list[str] = field(default_factory=list)
    """The files of a folder or a pattern, in the order of reading; empty for a single file."""
    separator: str | None = None
    """Of the fields of a row; None for formats that have none."""
    encoding: str | None = None
    """Of the text files; None for other formats."""
    skipped: int = 0
    """Malformed or empty rows that were left out because `data.bad_rows` is skip."""
    skipped_rows: list[int | str] = field(default_factory=list)
    """The first of them, as a user counts; with the file where there are several."""
    said: list[str] = field(default_factory=list)
    """What was said of how it is read: a start that finds its tokens in the cache says it again."""

    def skip(self, row: int | str) -> None:
        """Note a row that is left out."""
        self.skipped += 1
        if len(self.skipped_rows) < _NAMED:
            self.skipped_rows.append(row)

    def say(self, source: str, what: str) -> None:
        """Tell the user about something that was taken because it is likely, for the first file of which it is true."""
        if not any(note.endswith(f": {what}") for note in self.said):
            self.said.append(f"{source}: {what}")
            logger.warning("%s", self.said[-1])

    def choose(self, columns: Sequence[str], used: Sequence[str]) -> None:
        """Note the columns."""
        self.columns, self.used = list(columns), list(used)

    def become(self, other: Facts) -> None:
        """Take over what another reader of the same source has found out."""
        for field_ in dataclasses.fields(self):
            setattr(self, field_.name, getattr(other, field_.name))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)
