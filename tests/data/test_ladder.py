"""Pieces of any size share a few layouts, and every step of every piece fits in one of its row counts."""

from __future__ import annotations

import numpy as np
import pytest

from jaxbert.data.packing import Ladder, plan_epoch


def draw(rng: np.random.Generator, count: int, longest: int) -> np.ndarray:
    return np.minimum(2 + rng.geometric(1 / (1 + rng.random() * longest), count), longest).astype(np.int32)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("longest", [16, 48, 512])
def test_whatever_comes_few_programs_are_needed(longest, multiple):
    rng = np.random.default_rng(longest)
    ladder = Ladder(64, longest, 4096 * multiple, row_multiple=multiple)
    met, layouts = set(), set()
    for _ in range(150):
        lengths = draw(rng, int(rng.choice([1, 2, 20, 31, 32, 64, 500])), int(rng.integers(3, longest + 1)))
        layout, size = ladder.choose(lengths)
        layouts.add(layout)
        for plan in plan_epoch(lengths, layout, size, seed=None):  # fails where a step has no row count
            assert plan.num_rows % multiple == 0
            assert len(plan.example_ids) * int(lengths.max()) <= max(4096 * multiple, int(lengths.max()))
            met.add((layout.row_length, layout.slots, plan.num_rows))
    assert len(layouts) <= 5
    assert len(met) <= 4 + 3 * 4


def test_single_lines_share_one_program():
    ladder = Ladder(256, 512, 16_384)
    shapes = {
        (layout.row_length, plan.num_rows)
        for length in (3, 17, 90, 128)
        for layout, size in [ladder.choose(np.array([length], np.int32))]
        for plan in plan_epoch(np.array([length], np.int32), layout, size, seed=None)
    }
    assert shapes == {(128, 1)}
    assert ladder.choose(np.array([129], np.int32))[0].row_length == 512


def test_a_large_piece_is_laid_out_as_a_data_set_is_and_serves_the_next():
    rng = np.random.default_rng(0)
    ladder = Ladder(256, 512, 16_384)
    lengths = rng.integers(3, 20, 8192).astype(np.int32)
    layout, size = ladder.choose(lengths)
    tokens = sum(plan.num_rows * layout.row_length for plan in plan_epoch(lengths, layout, size, seed=None))
    assert lengths.sum() / tokens > 0.9
    assert ladder.choose(rng.integers(3, 20, 8192).astype(np.int32))[0] is layout
    longer, _ = ladder.choose(rng.integers(3, 400, 8192).astype(np.int32))
    assert longer.row_length >= 400
    assert ladder.choose(lengths)[0] is layout


def test_small_pieces_on_very_many_devices_fit():
    """Their steps would have several groups, each with as many rows as the first one."""
    lengths = np.full(65_600, 16, np.int32)
    layout, size = Ladder(200_000, 128, 2**30, row_multiple=1025).choose(lengths)
    assert layout.row_counts == (1025, 8200)
    assert sum(len(plan.example_ids) for plan in plan_epoch(lengths, layout, size, seed=None)) == 65_600
