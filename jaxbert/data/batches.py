"""Fill the rows of a planned step: the packed batch that the whole project shares. `packing` makes the plan.

Keys and shapes (B rows, T tokens, S slots): `input_ids`, `token_type_ids`, `segment_ids` (1..S, 0 for padding),
`position_ids` [B, T]; `cls_positions`, `example_mask`, `example_ids` [B, S]; `labels` [B, S, ...]. Where tokens have labels,
`token_labels` [B, T] (-100 for none). Where an example has several segments, `example_index` [B, S] numbers the examples of
a step from 0. Further arrays of the examples keep their names, [B, S, ...] or [B, T, ...]. With several processes, each
fills only its own rows of the arrays with a token axis; the other arrays are complete in every process, and `lengths`
[B, S] is added. A `Prefetcher` prepares batches ahead of the device, in a thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout, StepPlan, plan_epoch
from jaxbert.data.tokens import Tokens

Batch = dict[str, np.ndarray]
HOST_KEYS = ("example_ids", "lengths")
"""Keys of a batch that stay on the host."""
NO_LABEL = -100
"""The value of `token_labels` where a token has no label."""


def fill_rows(plan: StepPlan, layout: Layout, examples: Examples, own_rows: np.ndarray | None = None) -> Batch:
    """Gather the segments of a step into rows.

    Args:
      plan: where each segment goes.
      layout: row length and slots.
      examples: all examples.
      own_rows: bool [B], the rows that this process fills. The other rows are padding in the arrays with a token axis, and
        their tokens are not read. None: all rows.
    """
    slot = plan.rows.astype(np.int64) * layout.slots + plan.slots

    def per_slot(values: np.ndarray) -> np.ndarray:
        grid = np.zeros((plan.num_rows * layout.slots, *values.shape[1:]), values.dtype)
        grid[slot] = values
        return grid.reshape(plan.num_rows, layout.slots, *values.shape[1:])

    tokens, segments = examples.tokens, per_slot(np.arange(1, len(slot) + 1, dtype=np.int32))
    line = _Line(segments if own_rows is None else segments[own_rows], plan, tokens.lengths, layout.row_length)
    sources = line.spread(tokens.begins[line.example_ids]) + line.within
    second = line.within >= line.spread(tokens.first_lengths[line.example_ids])
    by_token = {
        "input_ids": tokens.ids[sources] * line.real,
        "token_type_ids": second & line.real,
        "segment_ids": line.numbers,
        "position_ids": line.within,
    }
    if examples.token_labels is not None:
        by_token["token_labels"] = np.where(line.real, examples.token_labels[sources], NO_LABEL)
    by_token = {name: values.astype(np.int32, copy=False) for name, values in by_token.items()}
    for name, values in examples.by_token.items():
        by_token[name] = values[sources] * line.real.reshape(-1, *[1] * (values.ndim - 1))
    batch = {
        "cls_positions": per_slot(plan.starts),
        "example_mask": segments > 0,
        "example_ids": per_slot(plan.example_ids),
    }
    for name, values in by_token.items():
        batch[name] = values.reshape(-1, layout.row_length, *values.shape[1:])
        if own_rows is not None:
            others, filled = NO_LABEL if name == "token_labels" else 0, batch[name]
            batch[name] = np.full((plan.num_rows, *filled.shape[1:]), others, filled.dtype)
            batch[name][own_rows] = filled
    if own_rows is not None:
        batch["lengths"] = per_slot(tokens.lengths[plan.example_ids])
    documents = plan.example_ids if plan.documents is None else plan.documents[plan.places]
    if examples.labels is not None:
        batch["labels"] = per_slot(examples.labels[documents])
    for name, values in examples.by_segment.items():
        batch[name] = per_slot(values[plan.example_ids])
    if plan.places is not None:
        batch["example_index"] = per_slot(plan.places.astype(np.int32))
    return batch


class _Line:
    """The tokens of R rows, one row after the other, as pieces: padding, a segment, padding, ..., a segment, padding."""

    def __init__(self, slots: np.ndarray, plan: StepPlan, lengths: np.ndarray, row_length: int) -> None:
        """Line up the rows whose slots are given: 1 + the index of the slot's segment in the plan, or 0; [R, S]."""
        used = np.flatnonzero(slots)
        segments = slots.ravel()[used] - 1  # in the order of their tokens, as indices into the plan
        self.example_ids = plan.example_ids[segments]
        begins = used // slots.shape[1] * row_length + plan.starts[segments]
        ends = begins + lengths[self.example_ids]
        size = len(slots) * row_length
        self._sizes = np.empty(2 * len(used) + 1, np.int64)
        self._sizes[0::2] = np.append(begins, size) - np.append(0, ends)
        self._sizes[1::2] = ends - begins
        self.numbers = self.spread(plan.slots[segments] + 1)
        """The number of each token's segment in its row; 0 for padding."""
        self.real = self.numbers > 0
        self.within = (np.arange(size, dtype=np.int32) - self.spread(begins.astype(np.int32))) * self.real
        """The position of each token in its segment, int32; 0 for padding."""

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give each token the value of its segment, or 0 if it is padding."""
        pieces = np.zeros(len(self._sizes), values.dtype)
        pieces[1::2] = values
        return np.repeat(pieces, self._sizes)


def one_row(layout: Layout) -> Batch:
    """Return a batch of one row that one segment fills, for its keys, shapes and dtypes."""
    nothing = np.zeros(1, np.int32)
    tokens = Tokens.from_lengths(np.zeros(layout.row_length, np.int32), nothing + layout.row_length, nothing)
    return fill_rows(StepPlan(nothing, nothing, nothing, nothing, 1), layout, Examples(tokens, nothing))


@dataclass(frozen=True)
class BatchSize:
    """The size of a batch, in examples and tokens."""

    examples: int
    tokens: int
    """Real tokens, padding left out."""
    row_tokens: int
    """Tokens of all rows, padding included."""
    attended_pairs: int
    """Pairs of tokens that attend to each other: the sum of squared lengths."""
    computed_pairs: int
    """Pairs whose attention logits are computed: row lengths squared, or fewer where attention skips other segments."""


def batch_size_of(batch: Batch, tile: int | None = None) -> BatchSize:
    """Count a packed batch. Attention computes all pairs of a row or, with `tile`, as many as `computed_pairs` returns."""
    lengths, (rows, row_length) = lengths_of(batch), batch["segment_ids"].shape
    pairs = rows * row_length**2
    if tile is not None:
        pairs = computed_pairs(batch["cls_positions"], lengths, row_length, tile)
    return BatchSize(
        examples=int(batch["example_index"].max()) + 1
        if "example_index" in batch
        else int(batch["example_mask"].sum()),
        tokens=int(lengths.sum()),
        row_tokens=rows * row_length,
        attended_pairs=int((lengths**2).sum()),
        computed_pairs=pairs,
    )


def lengths_of(batch: Batch) -> np.ndarray:
    """Return the tokens of each slot of all rows, int64 [B, S]."""
    if "lengths" in batch:
        return batch["lengths"].astype(np.int64)
    rows, slots = batch["example_mask"].shape
    index = np.arange(rows)[:, None] * (slots + 1) + batch["segment_ids"]
    return np.bincount(index.ravel(), minlength=rows * (slots + 1)).reshape(rows, -1)[:, 1:]


def computed_pairs(starts: np.ndarray, lengths: np.ndarray, row_length: int, tile: int) -> int:
    """Count the pairs of tokens in the squares of `tile` x `tile` tokens that touch a segment or lie on the diagonal.

    Two tiles of a row share a segment if the ranges of their segments overlap, since segments are contiguous. With `tile` 1,
    the count is the sum of squared segment lengths, and the padding of a row counts as one segment.

    Args:
      starts: integers [B, S], the first token of each segment, in order.
      lengths: integers [B, S], the tokens of each segment; 0 in unused slots.
      row_length: tokens of a row.
      tile: tokens along one side of a square.
    """
    if tile == 1:
        padding = row_length - lengths.sum(1)
        return int((lengths**2).sum() + (padding**2).sum())
    used = lengths[:, None, :] > 0
    tiles = np.arange(0, row_length, tile)[:, None]
    low = 1 + (used & ((starts + lengths)[:, None, :] <= tiles)).sum(-1)
    high = (used & (starts[:, None, :] < tiles + tile)).sum(-1)
    near = (low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])
    near |= np.eye(near.shape[1], dtype=bool)
    return int(near.sum()) * tile**2


def batches(
    examples: Examples,
    layout: Layout,
    batch_size: int,
    *,
    seed: int | None,
    epoch: int = 0,
    first_step: int = 0,
    own_rows: Callable[[int], np.ndarray | None] = lambda num_rows: None,
) -> Iterator[Batch]:
    """Yield the packed batches of one epoch from `first_step` on; `own_rows(B)` returns the rows that this process fills."""
    for plan in plan_epoch(
        examples.tokens.lengths,
        layout,
        batch_size,
        seed=seed,
        epoch=epoch,
        first_step=first_step,
        windows=examples.windows,
    ):
        yield fill_rows(plan, layout, examples, own_rows(plan.num_rows))


_POLL_SECONDS = 0.1


class Prefetcher:
    """An iterator that runs `depth` items ahead; use it as a context manager so that its thread ends.

    An error in the source is raised at the item where it occurred.

    Args:
      source: the items. If `may_wait`, the end does not wait for the thread.
      prepare: the function that is applied to each item.
      depth: the most items that are ready at once.
      may_wait: whether the source may wait for ever, like the lines of a pipe.
      stop: a function that is called at the end, to wake a source that waits for another Prefetcher.
    """

    def __init__(
        self,
        source: Iterator[Any],
        prepare: Callable[[Any], Any] = lambda item: item,
        depth: int = 3,
        *,
        may_wait: bool = False,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._may_wait, self._stop_source = may_wait, stop
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._last: tuple[str, Any] | None = None
        self._thread = threading.Thread(target=self._run, args=(source, prepare), daemon=True, name="prefetch")
        self._thread.start()

    def _run(self, source: Iterator[Any], prepare: Callable[[Any], Any]) -> None:
        try:
            for item in source:
                if not self._put(("item", prepare(item))):
                    return
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, message: tuple[str, Any]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(message, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        kind, value = self._last or self._queue.get()
        if kind == "item":
            return value
        self._last = kind, value  # nothing follows it, so a further call must not wait
        if kind == "error":
            raise value
        raise StopIteration

    @property
    def has_next(self) -> bool:
        """Whether the next item, an error or the end is ready."""
        return self._last is not None or not self._queue.empty()

    def next_within(self, seconds: float) -> Any:
        """Return the next item, or None if none arrives within `seconds` or the source has ended."""
        if self._last is not None:
            return None
        try:
            kind, value = self._queue.get(timeout=seconds)
        except queue.Empty:
            return None
        if kind == "item":
            return value
        self._last = kind, value
        return None

    def stop(self) -> None:
        """Take no more items, and let nobody wait for one."""
        self._stopped.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(("end", None))

    def timed(self) -> Iterator[tuple[Any, float]]:
        """Yield each item with the seconds that the caller waited for it."""
        while True:
            begin = time.perf_counter()
            try:
                item = next(self)
            except StopIteration:
                return
            yield item, time.perf_counter() - begin

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stop_source()
        if not self._may_wait:
            self._thread.join()
