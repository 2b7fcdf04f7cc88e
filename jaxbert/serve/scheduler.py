"""Decide which waiting segments are computed next, and how they share rows. No HTTP, no JAX, no threads, no tokens.

Nothing waits for a timer. Whenever the engine is free, it takes the segments that wait, oldest first, up to a budget of
tokens; best fit (the trainer's) puts them into rows, and the cheapest of the compiled shapes that holds them is chosen. An
engine that computes any shape, as onnxruntime does, gets rows of about equal lengths, almost without padding. One request
may be divided over batches, and a request whose client left is dropped before packing.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxbert.data.packing import MASKED_PAIR_COST, Layout, StepPlan, best_fit, round_up

_SHORTEST_ROWS, _MANY_ROWS_FROM, _SMALL_SLOTS = 2, 64, 64
"""The shortest row in units of the alignment, the row length from which several rows are compiled, and the most slots."""
_TRIMMED_PAIR_COST = 1 / 512
"""The cost of attention of an engine that trims, as measured with onnxruntime on CPU: it computes all pairs of a row."""
_ROW_SHARES = (1, 0.75, 0.5, 0.25)
"""Numbers of rows that are tried, as shares of the most that the longest segment leaves room for: fewer are more even."""


def serving_layouts(longest: int, budget: int, alignment: int = 8) -> tuple[Layout, ...]:
    """Return the shapes that a server compiles: rows of doubling lengths, in doubling numbers up to `budget` tokens.

    Args:
      longest: the most tokens of a segment; the longest rows hold it.
      budget: the most tokens of a batch, padding included; one row of each length is compiled even if it has more.
      alignment: row lengths are multiples of it.
    """
    whole, lengths = round_up(longest, alignment), []
    length = _SHORTEST_ROWS * alignment
    while length < whole:
        lengths.append(length)
        length *= 2
    layouts = []
    for length in (*lengths, whole):
        most = max(1, budget // length) if length >= min(_MANY_ROWS_FROM, whole) else 1
        counts = tuple(2**power for power in range(int(math.log2(most)) + 1))
        layouts.append(Layout(length, counts, min(_SMALL_SLOTS, round_up(max(1, length // 4), 4))))
    return tuple(layouts)


def row_cost(rows: int, row_length: int, pair_cost: float = MASKED_PAIR_COST) -> float:
    """Estimate the cost of a batch: its row tokens, each with its attention, `pair_cost` for each token of the row."""
    return rows * row_length * (1 + row_length * pair_cost)


def even_rows(lengths: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide segments over `rows` rows of about equal lengths: the longest one first, each into the shortest row so far.

    Returns:
      Row, slot and first position of each segment, int32 [n] in the order of `lengths`.
    """
    ends, places = [(0, row, 0) for row in range(rows)], np.zeros((3, len(lengths)), np.int32)
    for segment in np.argsort(-lengths, kind="stable"):
        end, row, slot = ends[0]
        places[:, segment] = row, slot, end
        heapq.heapreplace(ends, (end + int(lengths[segment]), row, slot + 1))
    return places[0], places[1], places[2]


@dataclass(eq=False)
class Waiting:
    """The segments of one request, until all of them are computed."""

    lengths: np.ndarray
    """int32 [n]: the tokens of each segment, at least one segment."""
    content: Any = None
    """Whatever the engine needs to compute them."""
    arrived: float = 0.0
    """Seconds, by the caller's clock."""
    left: bool = False
    """Whether the client does not wait any more."""
    taken: int = 0
    """The number of segments in batches so far."""

    @property
    def tokens(self) -> int:
        """The tokens of the segments that are in no batch yet."""
        return int(self.lengths[self.taken :].sum())


@dataclass(frozen=True)
class RequestPart:
    """Some segments of a request: `first` to `last - 1`."""

    request: Waiting
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Packed:
    """One batch: the segments of its pieces, one after the other, placed in rows of a compiled shape."""

    pieces: list[RequestPart]
    lengths: np.ndarray
    """int32 [n]: the tokens of each segment."""
    plan: StepPlan
    layout: Layout
    row_tokens: int
    """The tokens that are computed, padding included."""


@dataclass
class Scheduler:
    """The requests that wait, in the order of their arrival. Its caller sees to it that one thread at a time uses it."""

    layouts: Sequence[Layout]
    """The compiled shapes, by row length."""
    budget: int
    """The most real tokens of a batch, but for a single longer segment."""
    trims: bool = False
    """Whether the engine leaves out the rows and the columns of a shape that hold nothing."""
    tokens: int = 0
    """The tokens that wait, those of clients that left included until the next batch."""
    _waiting: deque[Waiting] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def fills_a_batch(self) -> bool:
        """Whether the next batch would not change if the engine waited."""
        total = 0
        for request in self._waiting:
            total += 0 if request.left else request.tokens
            if total >= self.budget:
                return True
        return False

    def add(self, request: Waiting) -> None:
        """Let a request wait behind all others."""
        self._waiting.append(request)
        self.tokens += request.tokens

    def take(self) -> Packed | None:
        """Return the next batch; None if nobody waits."""
        self.tokens -= sum(request.tokens for request in self._waiting if request.left)
        self._waiting = deque(request for request in self._waiting if not request.left)
        pieces = self._oldest()
        if not pieces:
            return None
        lengths = np.concatenate([piece.request.lengths[piece.first : piece.last] for piece in pieces])
        count = len(lengths)
        pack = self._pack_evenly if self.trims else self._pack
        while (found := pack(lengths[:count])) is None:
            count = min(count - 1, count * 7 // 8)  # the newest ones wait for the next batch
        plan, layout, row_tokens = found
        kept, left = list[RequestPart](), count
        for piece in pieces:
            size = min(left, len(piece))
            if size:
                kept.append(RequestPart(piece.request, piece.first, piece.first + size))
                piece.request.taken = piece.first + size
            left -= size
        while self._waiting and self._waiting[0].taken == len(self._waiting[0].lengths):
            self._waiting.popleft()
        self.tokens -= int(lengths[:count].sum())
        return Packed(kept, lengths[:count], plan, layout, row_tokens)

    def _oldest(self) -> list[RequestPart]:
        """Return the oldest segments within the budget, and at least one if there is any."""
        pieces, left = list[RequestPart](), self.budget
        for request in self._waiting:
            first = request.taken
            ends = np.cumsum(request.lengths[first:])
            count = int(np.searchsorted(ends, left, side="right"))
            count = max(count, 0 if pieces else 1)
            if count:
                pieces.append(RequestPart(request, first, first + count))
                left -= int(ends[count - 1])
            if first + count < len(request.lengths) or left <= 0:
                break
        return pieces

    def _pack(self, lengths: np.ndarray) -> tuple[StepPlan, Layout, int] | None:
        """Place segments in the cheapest shape that holds them; return it with its tokens, or None if no shape does."""
        longest, total = int(lengths.max()), int(lengths.sum())
        best: tuple[float, StepPlan, Layout] | None = None
        for layout in self.layouts:
            length = layout.row_length
            least = -(-total // length)
            if length < longest or layout.row_counts[-1] < least:
                continue
            if best is not None and best[0] <= row_cost(layout.rows_for(least), length):
                continue
            rows, slots, starts, needed = best_fit(lengths, length, layout.slots)
            if needed > layout.row_counts[-1]:
                continue
            count = layout.rows_for(needed)
            cost = row_cost(count, length)
            if best is None or cost < best[0]:
                best = cost, StepPlan(np.arange(len(lengths)), rows, slots, starts, count), layout
        return best and (*best[1:], best[1].num_rows * best[2].row_length)

    def _pack_evenly(self, lengths: np.ndarray) -> tuple[StepPlan, Layout, int] | None:
        """Divide segments over as many rows as the longest one leaves room for, or a few less; return what `_pack` does."""
        most = min(int(lengths.sum()) // int(lengths.max()), max(layout.row_counts[-1] for layout in self.layouts))
        best: tuple[float, StepPlan, Layout, int] | None = None
        for count in {min(most + 1, len(lengths)), *(max(1, int(most * share)) for share in _ROW_SHARES)}:
            rows, slots, starts = even_rows(lengths, count)
            length = int((starts + lengths).max())
            layout = self._holding(count, length, int(slots.max()) + 1)
            cost = row_cost(count, length, _TRIMMED_PAIR_COST)
            if layout is not None and (best is None or cost < best[0]):
                plan = StepPlan(np.arange(len(lengths)), rows, slots, starts, layout.rows_for(count))
                best = cost, plan, layout, count * length
        return best and best[1:]

    def _holding(self, rows: int, length: int, slots: int) -> Layout | None:
        """Return the shape with the shortest rows that holds so many of a length; None if there is none."""
        for layout in self.layouts:
            if layout.row_length >= length and layout.row_counts[-1] >= rows and layout.slots >= slots:
                return layout
        return None
