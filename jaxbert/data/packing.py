"""Plan which examples share a step and which segments share a row, from their lengths alone.

A step has a fixed number of *examples*. Two decisions make its rows full:

- *Dealing.* The examples of 32 steps are drawn in random order. Longest first, they are dealt out so that every step gets
  one example of each block of similar lengths, and all steps have nearly the same number of tokens. The steps of a run then
  need one or two different row counts; a plain shuffle needs many.
- *Best fit.* Within a step, longest first, each segment goes to the fullest row that still has room for it. A large step is
  divided into groups of segments of nearly the same lengths; one placement is computed and holds for all groups.

An example is one segment, or one segment for each of its `Windows`; all of them are in the same step.

Packing changes the row of a segment and never its step, so packed and padded runs see the same examples at each step.
Nothing here reads tokens; `batches` fills the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from jaxbert.data.examples import Windows
from jaxbert.errors import UserError

_ROUNDS = 6
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """A bijection of 0..size-1 that depends on (seed, epoch)."""

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, -(-max(size - 1, 1).bit_length() // 2)))
        self._mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        self._keys = np.random.default_rng((seed, epoch)).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return the examples at positions `start` to `stop - 1`, int64."""
        values = self._scramble(np.arange(start, stop, dtype=np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._scramble(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _scramble(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            mixed = (right ^ key) * _MULTIPLIER
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._mask)
        return (left << self._half_bits) | right


_SHORT_ROW = 128
_FEW_ROWS = 8
_SMALL_SLOTS = 64
_MOST_LARGE = 3
"""Layouts for large slices."""
_WASTE = 2
"""Another layout is chosen where a step computes more than this many times the rows that its tokens need."""


@dataclass
class Ladder:
    """Choose layouts for slices of a data set; seldom more than three programs are compiled.

    There are two layouts for small slices and at most `_MOST_LARGE` for others. Each row count is one program.
    """

    batch_size: int
    """Examples of one step."""
    longest: int
    """The most tokens that a segment can have."""
    most_tokens: int
    """The most tokens of one step, if all segments were as long as the longest one of their slice."""
    row_multiple: int = 1
    alignment: int = 8
    _large: list[tuple[Layout, int]] = field(default_factory=list)

    def choose(self, lengths: np.ndarray) -> tuple[Layout, int]:
        """Return the layout for a slice with segments of these lengths, and the number of them in a step."""
        if 2 * len(lengths) < self.batch_size:
            return self._small(int(lengths.max()))
        layout, size = self._for_many(lengths)
        return layout, min(size, self._size(int(lengths.max())))

    def _small(self, longest: int) -> tuple[Layout, int]:
        """Return one of two row lengths with two row counts, and the number of segments that surely fit into its rows."""
        whole = round_up(self.longest, self.alignment)
        row_length = next(length for length in (min(_SHORT_ROW, whole), whole) if longest <= length)
        slots = min(_SMALL_SLOTS, round_up(row_length // 4, 4))
        rows = (self.row_multiple, _FEW_ROWS * self.row_multiple)
        # In steps of one group, all rows but the last hold as many segments as always fit.
        return Layout(row_length, rows, slots), min(rows[-1] * min(row_length // longest, slots), 2 * GROUP - 1)

    def _size(self, longest: int) -> int:
        return min(self.batch_size, max(1, self.most_tokens // longest))

    def _for_many(self, lengths: np.ndarray) -> tuple[Layout, int]:
        longest = int(lengths.max())
        fitting = [known for known in self._large if longest <= known[0].row_length]
        good = [known for known in fitting if not self._wasteful(*known, lengths)]
        last = len(self._large) >= _MOST_LARGE - 1  # the last layout must hold all later slices
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
        # Later segments may be as long as a row.
        worst = round_up(size + size // GROUP, self.row_multiple)
        if worst > layout.row_counts[-1]:
            layout = replace(layout, row_counts=(*layout.row_counts, worst))
        self._large.append((layout, size))
        return layout, size

    def _wasteful(self, layout: Layout, size: int, lengths: np.ndarray) -> bool:
        """Return whether most of the rows, or most of a row's attention, would be padding."""
        longest = int(lengths.max())
        tokens = float(lengths.mean()) * min(size, self._size(longest), len(lengths))
        needed = round_up(-(-int(tokens) // layout.row_length), self.row_multiple)
        far_longer = layout.row_length > max(_SHORT_ROW, 8 * longest)
        return far_longer or layout.row_counts[0] > _WASTE * needed


WINDOW = 32
"""Steps over which lengths are balanced together."""
GROUP = 4096
"""The fewest segments of a group of a step. With fewer, more of a row's end stays empty."""
_SAMPLE_EXAMPLES = 65_536
_ROW_FACTORS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4)
MASKED_PAIR_COST = 1 / 2048
"""Attention's cost for each token of row length, relative to a token's matrix products, at a usual model width."""
_SHAPE_WORTH = 0.01
"""The share of rows that one more row count must save, since each row count compiles a program of its own."""


@dataclass(frozen=True)
class Layout:
    """The shapes of a run: T tokens a row, a few row counts B in ascending order, S slots a row."""

    row_length: int
    row_counts: tuple[int, ...]
    slots: int

    def rows_for(self, needed: int) -> int:
        """Return the smallest row count that holds `needed` rows."""
        return next(count for count in self.row_counts if count >= needed)


@dataclass(frozen=True)
class StepPlan:
    """One step: the segments in it, and for each its row, slot and first token position, integers [n]."""

    example_ids: np.ndarray
    rows: np.ndarray
    slots: np.ndarray
    starts: np.ndarray
    num_rows: int
    documents: np.ndarray | None = None
    """The step's examples; None where each example is one segment."""
    places: np.ndarray | None = None
    """For each segment, the index of its example in `documents`."""


def best_fit(lengths: np.ndarray, row_length: int, max_slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Place segments in rows by best-fit decreasing.

    Many segments are divided into G groups: of the segments sorted by length, longest first, each group gets every G-th. At
    each rank the first group has the longest segment, so its rows hold every group, and only they are searched for. Group g
    has rows g * R to (g + 1) * R - 1.

    Returns:
      Row, slot and first position of each segment (in the order of `lengths`), and the number of rows.
    """
    count = len(lengths)
    groups = 1 if max_slots == 1 else max(1, count // GROUP)
    order, ranks = np.argsort(-lengths, kind="stable"), -(-count // groups)
    sorted_lengths = np.zeros(ranks * groups, np.int64)
    sorted_lengths[:count] = lengths[order]
    by_rank = sorted_lengths.reshape(ranks, groups)
    row_of_rank, num_rows = _rows_of_ranks(by_rank[:, 0], row_length, max_slots)
    by_row = np.argsort(row_of_rank, kind="stable")
    rows = row_of_rank[by_row]
    first = np.searchsorted(rows, rows)  # of each row's ranks, the first one's place in `by_row`
    before = np.cumsum(by_rank[by_row], axis=0) - by_rank[by_row]
    of_groups = (
        rows[:, None] + num_rows * np.arange(groups),
        (np.arange(ranks) - first)[:, None],
        before - before[first],
    )
    placed = np.empty((3, ranks, groups), np.int32)
    for values, found in zip(placed, of_groups, strict=True):
        values[by_row] = found
    result = np.empty((3, count), np.int32)
    result[:, order] = placed.reshape(3, -1)[:, :count]
    return result[0], result[1], result[2], num_rows * groups


def _count_rows(lengths: np.ndarray, row_length: int) -> tuple[int, int]:
    """Return the rows that `best_fit` needs, and the most segments in one of them."""
    groups = max(1, len(lengths) // GROUP)
    row_of_rank, num_rows = _rows_of_ranks(-np.sort(-lengths)[::groups], row_length, row_length)
    return num_rows * groups, int(np.bincount(row_of_rank).max())


def _rows_of_ranks(lengths: np.ndarray, row_length: int, max_slots: int) -> tuple[np.ndarray, int]:
    """Find the rows of segments that are sorted by length, longest first, and the number of rows.

    Rows are kept by free space, and an integer's bits say which amounts of free space occur, so that the fullest row with
    room is found by a few integer operations. It stays the fullest one while it takes more segments of the same length.
    """
    starts = np.flatnonzero(np.concatenate(([True], lengths[1:] != lengths[:-1])))[: len(lengths)]
    edges = [*starts.tolist(), len(lengths)]
    by_free: list[list[int]] = [[] for _ in range(row_length + 1)]
    occurs = 0
    used_slots: list[int] = []
    rows: list[int] = []
    taken: list[int] = []
    for length, (begin, end) in zip(lengths[starts].tolist(), pairwise(edges), strict=True):
        left = end - begin
        while left:
            roomy = occurs >> length
            if roomy:
                free = length + (roomy & -roomy).bit_length() - 1
                row = by_free[free].pop()
                if not by_free[free]:
                    occurs ^= 1 << free
            else:
                free, row = row_length, len(used_slots)
                used_slots.append(0)
            used, takes = used_slots[row], free // length
            if takes > left or takes > max_slots - used:
                takes = min(takes, left, max_slots - used)
            rows.append(row)
            taken.append(takes)
            left -= takes
            used_slots[row] = used = used + takes
            free -= takes * length
            if free and used < max_slots:
                if not by_free[free]:
                    occurs |= 1 << free
                by_free[free].append(row)
    return np.repeat(np.array(rows, np.int64), taken), len(used_slots)


def balance_lengths(example_ids: np.ndarray, lengths: np.ndarray, steps: int) -> np.ndarray:
    """Deal examples out to steps so that all steps have nearly the same number of tokens.

    Of each block of `steps` examples of similar length, the longest goes to the step with the fewest tokens so far.

    Args:
      example_ids: the examples of all these steps in random order, [steps * n].
      lengths: their lengths in tokens.
      steps: the number of steps.

    Returns:
      Example ids, [steps, n].
    """
    keys = lengths.astype(np.int16) if lengths.max() < 2**15 else lengths  # 16-bit integers are sorted by radix
    by_length = np.argsort(-keys, kind="stable").reshape(-1, steps)
    blocks = lengths[by_length]
    totals = np.zeros(steps, np.int64)
    emptiest_first, begin = np.empty_like(by_length), 0
    # A block of equal lengths does not change which steps have the fewest tokens.
    for end in [*(np.flatnonzero(blocks[:, 0] != blocks[:, -1]) + 1).tolist(), len(blocks)]:
        order = np.argsort(totals, kind="stable")
        emptiest_first[begin:end] = order
        totals[order] += blocks[begin:end].sum(0)
        begin = end
    dealt = np.empty((steps, len(blocks)), np.int64)
    dealt[emptiest_first, np.arange(len(blocks))[:, None]] = example_ids[by_length]
    return dealt


class EpochOrder:
    """The examples of each step of an epoch.

    Every step has `batch_size` examples; a last step has the remaining ones. Without a seed, examples are dealt in the
    same way from the order of the source.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int | None, epoch: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._permutation = None if seed is None else Permutation(len(lengths), seed, epoch)
        self._full_steps = len(lengths) // batch_size
        self.num_steps = -(-len(lengths) // batch_size)

    def steps(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yield the example ids of each step from `first` on."""
        windows = -(-self._full_steps // WINDOW)
        for window in range(windows):
            low, high = (self._full_steps * w // windows for w in (window, window + 1))
            if high > first:
                example_ids = self._examples(low * self._batch_size, high * self._batch_size)
                yield from balance_lengths(example_ids, self._lengths[example_ids], high - low)[max(0, first - low) :]
        if self.num_steps > self._full_steps and first < self.num_steps:
            yield self._examples(self._full_steps * self._batch_size, len(self._lengths))

    def _examples(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop) if self._permutation is None else self._permutation(start, stop)


def plan_epoch(
    lengths: np.ndarray,
    layout: Layout,
    batch_size: int,
    *,
    seed: int | None,
    epoch: int = 0,
    first_step: int = 0,
    windows: Windows | None = None,
) -> Iterator[StepPlan]:
    """Plan an epoch step by step; memory does not grow with the data set.

    Args:
      lengths: tokens of each segment, none above `layout.row_length`.
      layout: the shapes, from `choose_layout` or `padded_layout`.
      batch_size: examples a step.
      seed: decides the order, together with `epoch`; None keeps the order of the source.
      epoch: counted from 0.
      first_step: the first step to plan, for a run that resumes.
      windows: which segments are one example; None where each is one.
    """
    for chosen in EpochOrder(_totals(lengths, windows), batch_size, seed, epoch).steps(first_step):
        example_ids, places = (chosen, None) if windows is None else windows.members(chosen)
        rows, slots, starts, needed = best_fit(lengths[example_ids], layout.row_length, layout.slots)
        documents = None if windows is None else chosen
        yield StepPlan(example_ids, rows, slots, starts, layout.rows_for(needed), documents, places)


def _totals(lengths: np.ndarray, windows: Windows | None) -> np.ndarray:
    """Return the number of tokens of each example."""
    return lengths if windows is None else windows.sum(lengths)


def _most_examples(lengths: np.ndarray, batch_size: int, windows: Windows | None) -> int:
    """Return the largest number of segments that a step can have."""
    if windows is None:
        return min(batch_size, len(lengths))
    return int(np.sort(windows.counts)[-batch_size:].sum())


def padded_layout(
    lengths: np.ndarray,
    batch_size: int,
    row_length: int | None,
    row_multiple: int,
    windows: Windows | None = None,
    longest: int = 0,
) -> Layout:
    """Return the layout of one segment a row; every step has as many rows as `batch_size` examples can need."""
    longest = max(longest, int(lengths.max()))
    rows = round_up(_most_examples(lengths, batch_size, windows), row_multiple)
    return Layout(_checked_row_length(row_length, longest) or round_up(longest, 8), (rows,), 1)


def choose_layout(
    lengths: np.ndarray,
    batch_size: int,
    *,
    row_length: int | None = None,
    row_multiple: int = 1,
    alignment: int = 8,
    seed: int | None = 0,
    windows: Windows | None = None,
    parts: Sequence[np.ndarray] | None = None,
    epochs: int = 1,
    most_counts: int = 2,
    longest: int = 0,
) -> Layout:
    """Choose row length, row counts and slots by planning a sample of steps with several row lengths.

    Args:
      lengths: tokens of each segment.
      batch_size: examples a step.
      row_length: the only row length to try, in tokens; None tries several.
      row_multiple: row counts are multiples of it (devices times accumulation slices).
      alignment: row lengths are multiples of it.
      seed: as for `plan_epoch`.
      windows: which segments are one example; None where each is one.
      parts: the examples of each run that uses the layout; None for one run on all.
      epochs: the epochs of each part to plan; fewer if there are many examples.
      most_counts: the most row counts that the planned steps use, 1 or 2.
      longest: the most tokens that a segment can have in any epoch, if that is more than these lengths.

    Returns:
      A layout with at most four row counts. The last one holds any step of these lengths, and is compiled only if needed.
    """
    longest = max(longest, int(lengths.max()))
    row_length = _checked_row_length(row_length, longest)
    candidates = [row_length] if row_length else sorted({round_up(int(longest * f), alignment) for f in _ROW_FACTORS})
    totals = _totals(lengths, windows)
    steps = _sample_steps(totals, batch_size, seed, [np.arange(len(totals))] if parts is None else parts, epochs)
    placed = [lengths[ids if windows is None else windows.members(ids)[0]] for ids in steps]
    most = _most_examples(lengths, batch_size, windows)
    layouts = [_fit_layout(placed, most, longest, length, row_multiple, most_counts) for length in candidates]
    return min(layouts, key=lambda scored: scored[0])[1]


def _sample_steps(
    totals: np.ndarray, batch_size: int, seed: int | None, parts: Sequence[np.ndarray], epochs: int
) -> list[np.ndarray]:
    """Return the examples of each step of some parts, or of a sample of each that is large enough to choose a layout."""
    steps, planned = [], max(1, min(epochs, _SAMPLE_EXAMPLES // sum(map(len, parts))))
    for part in parts:
        sampled = part[_sample(len(part), batch_size, seed)]
        for epoch in range(planned):
            steps += [sampled[ids] for ids in EpochOrder(totals[sampled], batch_size, seed, epoch).steps()]
    return steps


def _sample(count: int, batch_size: int, seed: int | None) -> np.ndarray:
    """Return the indices of all examples, or of a sample that is large enough to choose a layout."""
    enough = max(_SAMPLE_EXAMPLES // batch_size, WINDOW) * batch_size
    if count <= max(_SAMPLE_EXAMPLES, enough):
        return np.arange(count)
    return Permutation(count, seed or 0, 0)(0, enough)


def _fit_layout(
    steps: list[np.ndarray], largest: int, longest: int, row_length: int, row_multiple: int, most_counts: int
) -> tuple[float, Layout]:
    """Return the cost of the sampled steps at this row length, and their layout."""
    counted = [_count_rows(step, row_length) for step in steps]
    slots = round_up(max(most_slots for _, most_slots in counted), 4)
    needed = np.array([round_up(num_rows, row_multiple) for num_rows, _ in counted])
    counts = _cheapest_counts(needed, most_counts)
    # All but the last row of a group hold as many segments as always fit.
    worst = round_up(-(-largest // min(row_length // longest, slots)) + largest // GROUP, row_multiple)
    spare = [round_up(-(-counts[-1] * 21 // 20), row_multiple)]
    if len(counts) == 1:
        together = np.concatenate(steps)
        # Three standard deviations: the mean lengths of other windows differ from those of the sample.
        drift = 3 * together.std() * (len(together) / len(steps) / WINDOW) ** 0.5 / row_length
        spare.append(round_up(counts[-1] + math.ceil(drift), row_multiple))
    more = {worst, *(min(rows, worst) for rows in spare)} if worst > counts[-1] else set()
    row_counts = tuple(sorted({*counts, *more}))
    layout = Layout(row_length, row_counts, slots)
    row_tokens = sum(layout.rows_for(int(n)) for n in needed) * row_length
    return row_tokens * (1 + row_length * MASKED_PAIR_COST), layout


def _cheapest_counts(needed: np.ndarray, how_many: int) -> tuple[int, ...]:
    """Choose row counts so that rounding `needed` up to them adds few rows; the largest of `needed` is one of them.

    Returns:
      At most `how_many` row counts: the fewest that need no more than 1 + `_SHAPE_WORTH` times the fewest rows.
    """
    values, times = np.unique(needed, return_counts=True)
    cumulative = np.concatenate([[0], np.cumsum(times)])
    best: list[tuple[int, tuple[int, ...]]] = [
        (int(value * cumulative[i + 1]), (int(value),)) for i, value in enumerate(values)
    ]
    found = [best[-1]]
    for _ in range(how_many - 1):
        best = [
            min(
                [best[i]]
                + [
                    (
                        best[j][0] + int(values[i] * (cumulative[i + 1] - cumulative[j + 1])),
                        (*best[j][1], int(values[i])),
                    )
                    for j in range(i)
                ]
            )
            for i in range(len(values))
        ]
        found.append(best[-1])
    fewest = found[-1][0]
    return next(counts for rows, counts in found if rows <= fewest * (1 + _SHAPE_WORTH))


def _checked_row_length(row_length: int | None, longest: int) -> int | None:
    if row_length is not None and row_length < longest:
        raise UserError(
            f"data.row_length is {row_length}, but an example has {longest} tokens: "
            "raise data.row_length or lower data.max_length"
        )
    return row_length


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple
