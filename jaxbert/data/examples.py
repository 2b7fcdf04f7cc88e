"""Tokenized examples with what a task knows of them, and the documents that are several examples each.

What is packed is an example: one segment of a row. A document that is too long for one is cut into windows, each an example;
a step then counts documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxbert.data.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Windows:
    """Which examples belong together: those of document d are `first[d]` to `first[d + 1] - 1`."""

    first: np.ndarray
    """int64 [D + 1]"""

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> Windows:
        """Put documents of so many windows behind one another."""
        return cls(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    @cached_property
    def counts(self) -> np.ndarray:
        """Windows of each document, int64 [D]."""
        return np.diff(self.first)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add up the values of each document's examples, int64 [D]."""
        return np.add.reduceat(values, self.first[:-1], dtype=np.int64)

    def examples_of(self, examples: np.ndarray) -> np.ndarray:
        """Return the document of each example."""
        return np.searchsorted(self.first, examples, side="right") - 1

    def members(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples of some documents, in their order, and for each its place in `documents`."""
        counts = self.counts[documents]
        places = np.repeat(np.arange(len(documents)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.first[documents][places] + within, places


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples, or documents of several each, with their labels (None where there are none)."""

    tokens: Tokens
    labels: np.ndarray | None = None
    """[D, ...], one for each document."""
    rows: np.ndarray | None = None
    """Where each document is in its source; None where they are the source's own, in order."""
    token_labels: np.ndarray | None = None
    """Aligned with `tokens.ids`; -100 where there is none."""
    windows: Windows | None = None
    """None where every document is one example."""
    extra: Any = None
    """What else its task needs for metrics and answers."""

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.tokens) if self.windows is None else len(self.windows.counts)

    def take(self, indices: np.ndarray) -> Examples:
        """Return the documents at `indices`, in that order, without what `extra` says of all."""
        members, windows = indices, None
        if self.windows is not None:
            members, _ = self.windows.members(indices)
            windows = Windows.of_counts(self.windows.counts[indices])
        return Examples(
            tokens=self.tokens.take(members),
            labels=None if self.labels is None else self.labels[indices],
            rows=self.source_rows(indices),
            token_labels=self.token_labels,
            windows=windows,
        )

    def examples_of(self, example_ids: np.ndarray) -> np.ndarray:
        """Return the document of each example, sorted, each once."""
        if self.windows is None:
            return np.unique(example_ids)
        return np.unique(self.windows.examples_of(example_ids))

    def source_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of the source, counted from 0, from which these documents come."""
        return indices if self.rows is None else self.rows[indices]
