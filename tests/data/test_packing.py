"""The plan of an epoch: rows never overflow, steps never change, shapes are few."""

from __future__ import annotations

import itertools
import sys
import tracemalloc

import numpy as np
import pytest

from jaxbert.data import packing
from jaxbert.data.packing import Layout, balance_lengths, best_fit, choose_layout, padded_layout, plan_epoch
from jaxbert.errors import UserError


def draw_lengths(rng, count: int, longest: int) -> np.ndarray:
    """Draw lengths of one of three shapes: even, mostly short, all alike."""
    shape = rng.integers(3)
    if shape == 0:
        return rng.integers(1, longest + 1, count).astype(np.int32)
    if shape == 1:
        return np.minimum(rng.geometric(0.2, count), longest).astype(np.int32)
    return np.full(count, longest, np.int32)


def assert_rows_hold(lengths, rows, slots, starts, row_length: int, max_slots: int) -> None:
    """Check that no two examples share a token and that slots are numbered by position."""
    assert np.all(starts >= 0)
    assert np.all(starts + lengths <= row_length)
    taken = np.zeros((rows.max() + 1, row_length), int)
    for row, start, length in zip(rows, starts, lengths, strict=True):
        taken[row, start : start + length] += 1
    assert taken.max() == 1, "two examples overlap"
    for row in range(rows.max() + 1):
        mine = np.flatnonzero(rows == row)
        assert 1 <= mine.size <= max_slots
        by_start = mine[np.argsort(starts[mine])]
        np.testing.assert_array_equal(slots[by_start], np.arange(mine.size))


def test_best_fit_never_overlaps_or_overflows():
    rng = np.random.default_rng(0)
    for _ in range(200):
        row_length = int(rng.integers(1, 80))
        lengths = draw_lengths(rng, int(rng.integers(1, 60)), int(rng.integers(1, row_length + 1)))
        max_slots = int(rng.integers(1, 10))
        rows, slots, starts, num_rows = best_fit(lengths, row_length, max_slots)
        assert num_rows == rows.max() + 1
        assert_rows_hold(lengths, rows, slots, starts, row_length, max_slots)


def test_best_fit_takes_the_fullest_row_with_room():
    rows, _, starts, num_rows = best_fit(np.array([6, 5, 4, 3, 2]), row_length=10, max_slots=9)
    assert num_rows == 2
    assert rows.tolist() == [0, 1, 0, 1, 1]
    assert starts.tolist() == [0, 0, 6, 5, 8]


def test_best_fit_needs_at_most_eleven_ninths_of_the_fewest_rows():
    """The theorem of Johnson et al. (1974), against the bound that the sum of lengths gives."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        lengths = rng.integers(1, 65, 500)
        *_, num_rows = best_fit(lengths, 64, 64)
        # Lengths above a half need a row each.
        fewest = max(-(-int(lengths.sum()) // 64), int((lengths > 32).sum()))
        assert num_rows <= fewest * 11 / 9 + 1


def one_by_one(lengths: np.ndarray, row_length: int, max_slots: int) -> list[int]:
    """Return the row of each segment by best fit, decreasing, with no shortcut: the last of the fullest rows with room."""
    rows, free, used, last = [0] * len(lengths), [], [], []
    for turn, i in enumerate(np.argsort(-lengths, kind="stable").tolist()):
        roomy = [row for row in range(len(free)) if lengths[i] <= free[row] and used[row] < max_slots]
        row = min(roomy, key=lambda row: (free[row], -last[row]), default=len(free))
        if row == len(free):
            free.append(row_length)
            used.append(0)
            last.append(turn)
        rows[i], free[row], used[row], last[row] = row, free[row] - int(lengths[i]), used[row] + 1, turn
    return rows


def test_equal_lengths_that_are_placed_at_once_lie_where_one_by_one_they_would():
    rng = np.random.default_rng(6)
    for _ in range(100):
        row_length = int(rng.integers(1, 80))
        lengths = draw_lengths(rng, int(rng.integers(1, 200)), int(rng.integers(1, row_length + 1)))
        max_slots = int(rng.integers(1, 12))
        rows, *_ = best_fit(lengths, row_length, max_slots)
        assert rows.tolist() == one_by_one(lengths, row_length, max_slots)


@pytest.fixture
def small_groups(monkeypatch):
    """Groups of 16 segments, and a list of how many segments are placed in each call."""
    placed, place = [], packing._rows_of_ranks

    def counting(lengths, *sizes):
        placed.append(len(lengths))
        return place(lengths, *sizes)

    monkeypatch.setattr(packing, "GROUP", 16)
    monkeypatch.setattr(packing, "_rows_of_ranks", counting)
    return placed


def test_only_one_group_is_placed_and_its_rows_hold_the_others(small_groups):
    rng = np.random.default_rng(7)
    for _ in range(100):
        row_length = int(rng.integers(2, 80))
        lengths = draw_lengths(rng, int(rng.integers(1, 200)), int(rng.integers(1, row_length + 1)))
        max_slots = int(rng.integers(2, 10))
        small_groups.clear()
        rows, slots, starts, num_rows = best_fit(lengths, row_length, max_slots)
        groups = max(1, len(lengths) // 16)
        assert small_groups == [-(-len(lengths) // groups)]
        assert num_rows % groups == 0
        assert rows.max() < num_rows
        longest_first = np.argsort(-lengths, kind="stable")
        of_group = rows // (num_rows // groups)
        np.testing.assert_array_equal(of_group[longest_first], np.arange(len(lengths)) % groups)
        by_group = [longest_first[g::groups] for g in range(groups)]
        for name, values in (("row", rows % (num_rows // groups)), ("slot", slots)):
            for members in by_group:
                expected = values[by_group[0]][: len(members)]
                np.testing.assert_array_equal(values[members], expected, err_msg=name)
        for members in by_group:
            mine = rows[members] - rows[members].min()
            assert_rows_hold(lengths[members], mine, slots[members], starts[members], row_length, max_slots)


def test_a_layout_holds_any_step_of_groups(small_groups):
    rng = np.random.default_rng(8)
    for trial in range(30):
        lengths, batch_size, multiple = random_case(rng)
        packed = choose_layout(lengths, batch_size, row_multiple=multiple, seed=trial)
        count = min(batch_size, lengths.size)
        for step in (np.sort(lengths)[::-1][:count], np.full(count, lengths.max()), np.full(count, lengths.min())):
            for layout in (packed, padded_layout(lengths, batch_size, None, multiple)):
                *_, needed = best_fit(step, layout.row_length, layout.slots)
                assert layout.rows_for(needed) >= needed


def test_dealing_blocks_of_equal_lengths_at_once_changes_nothing():
    rng = np.random.default_rng(9)
    for longest in (1, 3, 70):
        lengths = rng.integers(1, longest + 1, 12 * 40)
        ids, totals, dealt = rng.permutation(lengths.size), np.zeros(12, int), [[] for _ in range(12)]
        by_length = np.argsort(-lengths[ids], kind="stable")
        for block in by_length.reshape(-1, 12):
            for step, place in zip(np.argsort(totals, kind="stable"), block, strict=True):
                dealt[step].append(ids[place])
                totals[step] += lengths[ids[place]]
        np.testing.assert_array_equal(balance_lengths(ids, lengths[ids], 12), dealt)


def test_dealt_steps_have_nearly_the_same_tokens():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.1, 32 * 16), 60)
    ids = rng.permutation(lengths.size)
    dealt = balance_lengths(ids, lengths[ids], 32)
    np.testing.assert_array_equal(np.sort(dealt.ravel()), np.arange(lengths.size))
    totals = lengths[dealt].sum(1)
    shuffled = lengths[ids].reshape(32, 16).sum(1)
    assert totals.std() < shuffled.std() / 5
    assert np.ptp(totals) <= lengths.max() / 2


def random_case(rng) -> tuple[np.ndarray, int, int]:
    """Draw lengths, a batch size and a row multiple."""
    lengths = draw_lengths(rng, int(rng.integers(1, 900)), int(rng.integers(1, 70)))
    return lengths, int(rng.integers(1, 70)), int(rng.choice([1, 2, 8]))


def test_packed_and_padded_steps_see_the_same_examples():
    rng = np.random.default_rng(2)
    for trial in range(30):
        lengths, batch_size, multiple = random_case(rng)
        packed = choose_layout(lengths, batch_size, row_multiple=multiple, seed=trial)
        padded = padded_layout(lengths, batch_size, None, 1)
        plans = [list(plan_epoch(lengths, layout, batch_size, seed=trial, epoch=2)) for layout in (packed, padded)]
        for one, other in zip(*plans, strict=True):
            np.testing.assert_array_equal(np.sort(one.example_ids), np.sort(other.example_ids))


def test_an_epoch_sees_each_example_once_and_only_the_last_step_is_short():
    rng = np.random.default_rng(3)
    for trial in range(30):
        lengths, batch_size, multiple = random_case(rng)
        layout = choose_layout(lengths, batch_size, row_multiple=multiple, seed=trial)
        steps = list(plan_epoch(lengths, layout, batch_size, seed=trial, epoch=trial))
        ids = np.concatenate([step.example_ids for step in steps])
        np.testing.assert_array_equal(np.sort(ids), np.arange(lengths.size))
        assert [len(step.example_ids) for step in steps[:-1]] == [batch_size] * (len(steps) - 1)
        assert len(steps[-1].example_ids) == (lengths.size % batch_size or batch_size)


def test_without_a_seed_windows_keep_the_order_of_the_source():
    lengths = np.full(100, 5, np.int32)
    layout = choose_layout(lengths, 10, seed=None)
    one, other = (list(plan_epoch(lengths, layout, 10, seed=None, epoch=epoch)) for epoch in (0, 1))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.example_ids, b.example_ids)


def test_going_on_gives_the_tail_of_the_plan():
    rng = np.random.default_rng(4)
    for trial in range(15):
        lengths, batch_size, _ = random_case(rng)
        layout = choose_layout(lengths, batch_size, seed=trial)
        whole = list(plan_epoch(lengths, layout, batch_size, seed=trial, epoch=1))
        for first in {0, 1, len(whole) // 2, len(whole) - 1, len(whole)}:
            tail = list(plan_epoch(lengths, layout, batch_size, seed=trial, epoch=1, first_step=first))
            assert len(tail) == len(whole[first:])
            for step, expected in zip(tail, whole[first:], strict=True):
                np.testing.assert_array_equal(step.example_ids, expected.example_ids)
                np.testing.assert_array_equal(step.rows, expected.rows)
                np.testing.assert_array_equal(step.starts, expected.starts)


def test_a_layout_has_few_shapes_and_any_step_fits():
    """Any: the worst examples of the data in one step, too, which no order that was sampled need have had."""
    rng = np.random.default_rng(5)
    for trial in range(40):
        lengths, batch_size, multiple = random_case(rng)
        layout = choose_layout(lengths, batch_size, row_multiple=multiple, seed=trial)
        assert 1 <= len(layout.row_counts) <= 4
        assert list(layout.row_counts) == sorted(set(layout.row_counts))
        assert all(count % multiple == 0 for count in layout.row_counts)
        step_size = min(batch_size, lengths.size)
        longest_first = np.sort(lengths)[::-1][:step_size]
        for step in (longest_first, np.full(step_size, lengths.max()), np.full(step_size, lengths.min())):
            *_, needed = best_fit(step, layout.row_length, layout.slots)
            assert layout.rows_for(needed) >= needed
        for plan in plan_epoch(lengths, layout, batch_size, seed=trial, epoch=7):
            assert plan.num_rows in layout.row_counts
            assert_rows_hold(
                lengths[plan.example_ids], plan.rows, plan.slots, plan.starts, layout.row_length, layout.slots
            )


def test_a_layout_of_a_sample_holds_the_steps_of_the_whole():
    """Above 65,536 examples a layout is chosen from a sample; the rarest and longest examples are not in it."""
    lengths = np.full(150_000, 4, np.int32)
    lengths[-40:] = 100
    layout = choose_layout(lengths, 64, seed=0)
    assert layout.row_length >= 100
    for plan in itertools.islice(plan_epoch(lengths, layout, 64, seed=0), 3000):
        assert plan.num_rows in layout.row_counts


def test_a_padded_layout_has_one_example_a_row_and_one_shape():
    lengths = np.array([3, 9, 4, 5, 6])
    layout = padded_layout(lengths, 3, None, 8)
    assert layout == Layout(row_length=16, row_counts=(8,), slots=1)
    assert padded_layout(lengths, 100, 12, 1) == Layout(12, (5,), 1)
    for plan in plan_epoch(lengths, layout, 3, seed=0):
        assert plan.num_rows == 8
        assert np.all(plan.slots == 0)


def test_a_given_row_length_is_kept():
    lengths = np.array([3, 9, 4, 5, 6])
    assert choose_layout(lengths, 4, row_length=37).row_length == 37
    assert choose_layout(lengths, 4, row_length=9).row_length == 9
    assert choose_layout(lengths, 4, alignment=128).row_length == 128


@pytest.mark.parametrize("packing", [True, False])
def test_a_row_length_below_the_longest_example_is_refused(packing):
    lengths = np.array([3, 9])
    with pytest.raises(UserError, match=r"data\.row_length is 8, but an example has 9 tokens: raise"):
        choose_layout(lengths, 4, row_length=8) if packing else padded_layout(lengths, 4, 8, 1)


def typical_lengths(count: int) -> np.ndarray:
    """Draw lengths as short texts have them: median 10, a tail to 60."""
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(2.3, 0.7, count), 3, 60).astype(np.int32)


@pytest.mark.parametrize("count", [5_000, 20_000])
def test_the_planner_takes_few_lines_of_python_an_example(count):
    """It must keep up with the device: 15 lines, for how many examples it may be. The rate is in the documentation."""
    lengths = typical_lengths(count)
    layout = choose_layout(lengths, 256, seed=0)
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        planned = sum(len(plan.example_ids) for plan in plan_epoch(lengths, layout, 256, seed=0))
    finally:
        sys.settrace(before)
    assert planned == count
    assert lines < 18 * count


def test_the_plan_takes_no_more_memory_for_more_data():
    """Beside the array of lengths itself: the peak over the first 200 steps is that of a window, whatever the set."""

    def peak(count: int) -> int:
        lengths = typical_lengths(count)
        layout = choose_layout(lengths, 32, seed=0)
        tracemalloc.start()
        for _ in itertools.islice(plan_epoch(lengths, layout, 32, seed=0, first_step=count // 64), 200):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small, large = peak(100_000), peak(1_000_000)
    assert large < 1.1 * small
    assert large < 1_000_000


def test_a_shape_that_saves_next_to_nothing_is_left_out():
    """Steps of 140 and of 141 rows share a program; those of 100 and of 141 do not."""
    alike, unlike = [np.full(n, 8) for n in (140, 141) * 4], [np.full(n, 8) for n in (100, 141) * 4]
    counts = [packing._fit_layout(steps, 141, 8, 8, 1, 2)[1].row_counts for steps in (alike, unlike)]
    assert counts == [(141,), (100, 141)]


def test_a_step_that_is_a_little_larger_than_those_of_the_sample_needs_few_rows_more():
    """The mean length of other windows is a little larger; the next row count was 5% above."""
    steps = [typical_lengths(4000)] * 32
    layout = packing._fit_layout(steps, 4000, 60, 128, 1, 2)[1]
    *_, needed = best_fit(steps[0], 128, layout.slots)
    assert layout.row_counts[0] == needed
    assert needed < layout.rows_for(needed + 1) < 1.02 * needed
    assert len(layout.row_counts) == 4


def test_no_segments_need_no_rows():
    *places, num_rows = best_fit(np.zeros(0, np.int64), 8, 8)
    assert num_rows == 0
    assert not any(map(len, places))


@pytest.mark.parametrize("count", [1, 31, 32, 700, 2500])
def test_rows_are_counted_as_best_fit_needs_them(count):
    lengths = typical_lengths(count)
    _, slots, _, num_rows = best_fit(lengths, 128, 128)
    assert packing._count_rows(lengths, 128) == (num_rows, int(slots.max()) + 1)
