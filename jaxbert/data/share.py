"""How the processes of a run divide the tokenizing: each takes a stretch of every part, and all get all of it.

How they exchange it is not known here; one process keeps what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxbert.data.table import Table
from jaxbert.data.tokens import Encoded


def _alone(mine: Encoded) -> list[Encoded]:
    return [mine]


@dataclass(frozen=True)
class Share:
    """What one of several processes tokenizes."""

    index: int = 0
    count: int = 1
    gather: Callable[[Encoded], list[Encoded]] = _alone
    """Give this process's tokens, and get those of all processes in their order."""
    all_have: Callable[[bool], bool] = bool
    """Say whether every process says yes."""

    def of(self, part: Table) -> Table:
        """Return this process's rows of a part; there may be none."""
        return part.stretch(*self.bounds(len(part)))

    def bounds(self, count: int) -> tuple[int, int]:
        """Return where this process's share of so many begins and ends."""
        return count * self.index // self.count, count * (self.index + 1) // self.count
