"""Fill the rows of a planned step: the packed batch that the whole project shares.

Keys and shapes (B rows, T tokens, S slots): `input_ids`, `token_type_ids`, `segment_ids` (1..S, 0 for padding),
`position_ids` [B, T]; `cls_positions`, `example_mask`, `example_ids` [B, S]; `labels` [B, S, ...].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxbert.data.packing import Layout, StepPlan, plan_epoch
from jaxbert.data.tokens import Tokens

Batch = dict[str, np.ndarray]


def fill_rows(plan: StepPlan, layout: Layout, tokens: Tokens, labels: np.ndarray | None) -> Batch:
    """Gather the examples of a step into rows.

    Args:
      plan: where each example goes.
      layout: row length and slots.
      tokens: all examples.
      labels: [N, ...] of all examples, or None.
    """
    row_length = layout.row_length
    begins = tokens.begins[plan.example_ids]
    lengths = tokens.lengths[plan.example_ids].astype(np.int64)
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    targets = np.repeat(plan.rows.astype(np.int64) * row_length + plan.starts, lengths) + within
    second_text = within >= np.repeat(tokens.first_lengths[plan.example_ids], lengths)

    def scatter(values: np.ndarray) -> np.ndarray:
        flat = np.zeros(plan.num_rows * row_length, np.int32)
        flat[targets] = values
        return flat.reshape(plan.num_rows, row_length)

    def per_slot(values: np.ndarray) -> np.ndarray:
        grid = np.zeros((plan.num_rows, layout.slots, *values.shape[1:]), values.dtype)
        grid[plan.rows, plan.slots] = values
        return grid

    batch = {
        "input_ids": scatter(tokens.ids[np.repeat(begins, lengths) + within]),
        "token_type_ids": scatter(second_text),
        "segment_ids": scatter(np.repeat(plan.slots + 1, lengths)),
        "position_ids": scatter(within),
        "cls_positions": per_slot(plan.starts),
        "example_mask": per_slot(np.ones(len(plan.example_ids), bool)),
        "example_ids": per_slot(plan.example_ids),
    }
    if labels is not None:
        batch["labels"] = per_slot(labels[plan.example_ids])
    return batch


def one_row(layout: Layout) -> Batch:
    """Return a batch of one row that one example fills, for its keys, shapes and dtypes."""
    nothing = np.zeros(1, np.int32)
    tokens = Tokens(np.zeros(layout.row_length, np.int32), np.array([0, layout.row_length]), nothing)
    return fill_rows(StepPlan(nothing, nothing, nothing, nothing, 1), layout, tokens, nothing)


@dataclass(frozen=True)
class BatchSize:
    """What a batch holds, in examples and tokens."""

    examples: int
    tokens: int
    """Real tokens."""
    row_tokens: int
    """Tokens of all rows, padding included."""
    attended_pairs: int
    """Pairs of tokens that attend to each other: the sum of squared lengths."""


def batch_size_of(batch: Batch) -> BatchSize:
    """Count a packed batch."""
    segments = batch["segment_ids"]
    slots = batch["example_mask"].shape[1]
    example = np.arange(len(segments))[:, None] * (slots + 1) + segments
    lengths = np.bincount(example[segments > 0])
    return BatchSize(
        examples=int(batch["example_mask"].sum()),
        tokens=int(lengths.sum()),
        row_tokens=segments.size,
        attended_pairs=int((lengths**2).sum()),
    )


def batches(
    tokens: Tokens,
    labels: np.ndarray | None,
    layout: Layout,
    batch_size: int,
    *,
    seed: int | None,
    epoch: int = 0,
    first_step: int = 0,
) -> Iterator[Batch]:
    """Yield the packed batches of one epoch from `first_step` on."""
    for plan in plan_epoch(tokens.lengths, layout, batch_size, seed=seed, epoch=epoch, first_step=first_step):
        yield fill_rows(plan, layout, tokens, labels)
