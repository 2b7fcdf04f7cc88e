"""The few layouts of examples that come in pieces of any size: lines as they arrive, or a file part by part.

Each row count of a layout is a program to compile, so that there must be few, whatever comes. A small piece takes the
smallest of a few fixed shapes; a large one is planned as an epoch is, and its layout serves the next ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from jaxbert.data.packing import Layout, choose_layout, round_up

_SHORT_ROW = 128
_FEW_ROWS = 8
_SMALL_SLOTS = 64
_MOST_LARGE = 3
"""Layouts of large pieces."""
_WASTE = 2
"""How many times as many rows as the tokens need may be computed before another layout is chosen."""


@dataclass
class Ladder:
    """Chooses layouts; at most ten programs of large and small pieces together, and seldom more than three are met."""

    batch_size: int
    """Examples of one step."""
    longest: int
    """The most tokens that an example can have."""
    most_tokens: int
    """Tokens of one step, if all examples had the length of the longest of their piece."""
    row_multiple: int = 1
    alignment: int = 8
    _large: list[tuple[Layout, int]] = field(default_factory=list)

    def choose(self, lengths: np.ndarray) -> tuple[Layout, int]:
        """Return the layout of a piece of examples of these lengths, and how many of them a step takes."""
        if 2 * len(lengths) < self.batch_size:
            return self._small(int(lengths.max()))
        layout, size = self._for_many(lengths)
        return layout, min(size, self._size(int(lengths.max())))

    def _small(self, longest: int) -> tuple[Layout, int]:
        """Return one of two row lengths with two row counts, and as many examples as its rows surely hold."""
        whole = round_up(self.longest, self.alignment)
        row_length = next(length for length in (min(_SHORT_ROW, whole), whole) if longest <= length)
        slots = min(_SMALL_SLOTS, round_up(row_length // 4, 4))
        rows = (self.row_multiple, _FEW_ROWS * self.row_multiple)
        return Layout(row_length, rows, slots), rows[-1] * min(row_length // longest, slots)

    def _size(self, longest: int) -> int:
        return min(self.batch_size, max(1, self.most_tokens // longest))

    def _for_many(self, lengths: np.ndarray) -> tuple[Layout, int]:
        longest = int(lengths.max())
        fitting = [known for known in self._large if longest <= known[0].row_length]
        good = [known for known in fitting if not self._wasteful(*known, lengths)]
        last = len(self._large) >= _MOST_LARGE - 1  # it must hold all that is to come
        if good or (fitting and last):
            return min(good or fitting, key=lambda known: known[0].row_counts[0] * known[0].row_length)
        size = self._size(longest)
        layout = choose_layout(
            lengths,
            size,
            row_length=round_up(self.longest, self.alignment) if last else None,
            row_multiple=self.row_multiple,
            alignment=self.alignment,
            seed=None,
        )
        # Examples to come may be as long as a row.
        worst = round_up(size, self.row_multiple)
        if worst > layout.row_counts[-1]:
            layout = replace(layout, row_counts=(*layout.row_counts, worst))
        self._large.append((layout, size))
        return layout, size

    def _wasteful(self, layout: Layout, size: int, lengths: np.ndarray) -> bool:
        """Say whether most of the rows, or of a row's attention, would be for nothing."""
        longest = int(lengths.max())
        tokens = float(lengths.mean()) * min(size, self._size(longest), len(lengths))
        needed = round_up(-(-int(tokens) // layout.row_length), self.row_multiple)
        far_longer = layout.row_length > max(_SHORT_ROW, 8 * longest)
        return far_longer or layout.row_counts[0] > _WASTE * needed
