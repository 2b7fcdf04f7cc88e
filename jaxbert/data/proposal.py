"""Propose `data.max_length` and a row length from the lengths of texts, and a method from the rows of each label."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from jaxbert.data.packing import choose_layout, plan_epoch

_MOST_CUT = 0.01
"""The share of the texts that a proposed length may cut."""
_MOST_LOST = 0.005
"""The share of the tokens that a proposed length may lose."""
_MULTIPLE = 8
_STEPS = 64
"""Steps that are planned to measure the packing efficiency."""


_FEW = 64
"""The largest number of rows of each label with which the methods for few labels were compared."""
_MEASURED = (
    "on SST-2 with MiniLM its accuracy was 63.9% (plain: 57.4%) with 8 rows of each label, and 76.5% (plain: 74.4%) "
    "with 64; with a small Chinese model of masked words it was not better"
)
"""The measurement behind the proposal, as in docs/few-labels.md."""


def propose_method(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return how many rows each label has, the `train.method` to try, and a sentence that gives the reason.

    Args:
      counts: the rows of each label.
    """
    sizes = sorted(counts.values())
    least, median, most = sizes[0], int(np.median(sizes)), sizes[-1]
    few = median <= _FEW
    span = f"{least:,}" if least == most else f"{least:,} to {most:,}, the median is {median:,}"
    if few:
        why = f"up to {_FEW}, try train.method contrastive with a model of sentences: {_MEASURED}"
    else:
        why = f"above {_FEW}, train.method plain is the usual choice"
    return {
        "least": least,
        "median": median,
        "most": most,
        "method": "contrastive" if few else "plain",
        "sentence": f"rows of each label: {span}; {why} (docs/few-labels.md)",
    }


def propose(lengths: np.ndarray, positions: int, batch_size: int, seed: int, *, windows: bool) -> dict[str, Any]:
    """Return the shortest length that keeps nearly all tokens, with its row length and packing efficiency.

    It cuts at most 1% of the texts and loses at most 0.5% of the tokens; more only if the model has too few positions.

    Args:
      lengths: tokens of each text, special tokens included.
      positions: the longest text that the model reads, in tokens.
      batch_size: examples a step.
      seed: the seed of the order.
      windows: whether long texts are read in windows, which lose nothing.
    """
    longest = int(lengths.max())
    by_count = int(np.quantile(lengths, 1 - _MOST_CUT, method="inverted_cdf"))
    steps = sorted({*range(_MULTIPLE, longest, _MULTIPLE), -(-longest // _MULTIPLE) * _MULTIPLE})
    enough = (step for step in steps if step >= by_count and _lost(lengths, step) <= _MOST_LOST)
    return describe_choice(lengths, min(next(enough), positions), batch_size, seed, windows=windows)


def describe_choice(
    lengths: np.ndarray, max_length: int, batch_size: int, seed: int, *, windows: bool, row_length: int | None = None
) -> dict[str, Any]:
    """Return the effects of `max_length` on one device: texts cut, tokens lost, row length, packing efficiency."""
    pieces = _pieces(lengths, max_length) if windows else np.minimum(lengths, max_length)
    layout = choose_layout(pieces, batch_size, row_length=row_length, seed=seed)
    real = rows = 0
    for plan in islice(plan_epoch(pieces, layout, batch_size, seed=seed), _STEPS):
        real += int(pieces[plan.example_ids].sum())
        rows += plan.num_rows
    return {
        "max_length": max_length,
        "cut": 0 if windows else int(np.count_nonzero(lengths > max_length)),
        "tokens_lost": 0.0 if windows else _lost(lengths, max_length),
        "row_length": layout.row_length,
        "packing_efficiency": real / (rows * layout.row_length),
    }


def _lost(lengths: np.ndarray, max_length: int) -> float:
    """Return the share of all tokens that are beyond `max_length`."""
    over = lengths[lengths > max_length].astype(np.int64) - max_length
    return float(over.sum() / lengths.sum(dtype=np.int64))


def _pieces(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Return the lengths of windows without shared tokens, special tokens included."""
    body, room = lengths.astype(np.int64) - 2, max_length - 2
    counts = np.maximum(1, -(-body // room))
    pieces = np.full(counts.sum(), max_length, np.int32)
    pieces[np.cumsum(counts) - 1] = body - (counts - 1) * room + 2
    return pieces
