"""The data that Python calls accept: sources as the command line names them, and rows in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from jaxbert.data.memory import hold


class Frame(Protocol):
    """A frame of pandas or polars, or a Dataset of datasets."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


Data = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Frame
"""Examples: a path or source as on the command line, a list of dictionaries, a frame of pandas or polars, a Dataset."""


def name_source(stack: ExitStack, data: Data, role: str) -> str:
    """Return a name under which the source can be read while `stack` is open.

    Raises:
      UserError: if the object is neither a source nor holds rows.
    """
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    return stack.enter_context(hold(data, role))


def name_sources(stack: ExitStack, data: Data | Mapping[str, Data], role: str) -> str | dict[str, str]:
    """Return the name of a source; of several sets to evaluate on, a dictionary with the name of each set's source."""
    if isinstance(data, Mapping) and role in ("validation", "test"):
        return {str(name): name_source(stack, part, f"{role}.{name}") for name, part in data.items()}
    return name_source(stack, data, role)
