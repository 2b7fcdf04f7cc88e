"""The scheduler alone: what shares a batch, in which order, in which shape; simulated with given times and no clock."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxbert.serve.scheduler import Packed, Scheduler, Waiting, even_rows, row_cost, serving_layouts

BUDGET, LONGEST = 256, 128
LAYOUTS = serving_layouts(LONGEST, BUDGET)


def waiting(*lengths: int, arrived: float = 0.0) -> Waiting:
    return Waiting(np.array(lengths, np.int32), arrived=arrived)


def scheduler(*requests: Waiting, trims: bool = False) -> Scheduler:
    made = Scheduler(LAYOUTS, BUDGET, trims)
    for request in requests:
        made.add(request)
    return made


def members(packed: Packed | None) -> list[tuple[Waiting, int, int]]:
    assert packed is not None
    return [(piece.request, piece.first, piece.last) for piece in packed.pieces]


def check_places(packed: Packed) -> None:
    """No two segments share a token or a slot, and all lie inside the rows of a compiled shape."""
    plan, layout = packed.plan, packed.layout
    assert layout in LAYOUTS
    assert plan.num_rows in layout.row_counts
    used = np.zeros((plan.num_rows, layout.row_length), int)
    for row, start, length in zip(plan.rows, plan.starts, packed.lengths, strict=True):
        assert start + length <= layout.row_length
        used[row, start : start + length] += 1
    assert used.max() == 1
    assert used.sum() == packed.lengths.sum()
    assert plan.slots.max() < layout.slots
    assert len({*zip(plan.rows.tolist(), plan.slots.tolist(), strict=True)}) == len(packed.lengths)


def test_shapes_hold_every_text_and_no_more_than_the_budget():
    assert [layout.row_length for layout in LAYOUTS] == [16, 32, 64, 128]
    assert [layout.row_counts for layout in LAYOUTS] == [(1,), (1,), (1, 2, 4), (1, 2)]
    assert serving_layouts(100, 8)[-1].row_counts == (1,), "one row of the longest texts, whatever the budget"
    wide = serving_layouts(512, 4096, alignment=128)
    assert [layout.row_length for layout in wide] == [256, 512]
    assert wide[0].row_counts == (1, 2, 4, 8, 16)


def test_what_waits_is_taken_oldest_first_up_to_the_budget():
    requests = [waiting(60) for _ in range(6)]
    made = scheduler(*requests)
    first, second = made.take(), made.take()
    assert [request for request, _, _ in members(first)] == requests[:4]
    assert [request for request, _, _ in members(second)] == requests[4:]
    assert made.take() is None
    assert first is not None
    check_places(first)
    assert (first.plan.num_rows, first.layout.row_length) == (4, 64)


def test_a_single_text_has_the_smallest_shape():
    for length, expected in ((3, 16), (17, 32), (33, 64), (128, 128)):
        packed = scheduler(waiting(length)).take()
        assert packed is not None
        assert (packed.plan.num_rows, packed.layout.row_length) == (1, expected)


def test_the_cheapest_shape_is_chosen():
    packed = scheduler(waiting(30), waiting(20), waiting(10)).take()
    assert packed is not None
    assert (packed.plan.num_rows, packed.layout.row_length) == (1, 64)
    assert row_cost(2, 64) < row_cost(1, 128)


def test_a_large_request_is_divided_and_completes_before_younger_ones():
    large, small = waiting(*[50] * 12), waiting(10)
    made, taken, batches = scheduler(large, small), 0, 0
    while large.taken < 12:
        (request, first, last), *_ = members(made.take())
        assert (request, first) == (large, taken)
        taken, batches = last, batches + 1
    assert batches == 3
    assert small.taken or members(made.take()) == [(small, 0, 1)]


def test_a_client_that_left_is_not_packed():
    gone, partly, stays = waiting(20), waiting(*[50] * 9), waiting(30)
    made = scheduler(gone, partly, stays)
    gone.left = True
    assert all(request is not gone for request, _, _ in members(made.take()))
    partly.left = True
    assert made.tokens == 30 + partly.tokens > 30
    assert members(made.take()) == [(stays, 0, 1)]
    assert len(made) == made.tokens == 0


def test_a_batch_is_full_when_waiting_would_change_nothing():
    made = scheduler(waiting(100), waiting(100))
    assert not made.fills_a_batch
    last = waiting(60)
    made.add(last)
    assert made.fills_a_batch
    last.left = True
    assert not made.fills_a_batch
    assert made.tokens == 260


def test_segments_are_divided_evenly_over_rows():
    lengths = np.array([10, 40, 30, 20, 5])
    rows, slots, starts = even_rows(lengths, 2)
    assert rows.tolist() == [0, 0, 1, 1, 0]
    assert slots.tolist() == [1, 0, 0, 1, 2]
    assert starts.tolist() == [40, 0, 0, 30, 50]


def test_an_engine_that_trims_gets_rows_without_padding():
    packed = scheduler(*[waiting(length) for length in (30, 20, 10, 25, 35, 40, 31, 9)], trims=True).take()
    assert packed is not None
    check_places(packed)
    assert packed.lengths.sum() == 200
    assert packed.row_tokens <= 1.1 * 200
    fixed = scheduler(*[waiting(length) for length in (30, 20, 10, 25, 35, 40, 31, 9)]).take()
    assert fixed is not None
    assert fixed.row_tokens == 256
    alone = scheduler(waiting(17), trims=True).take()
    assert alone is not None
    assert (alone.row_tokens, alone.layout.row_length) == (17, 32)


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_everything_is_computed_once_in_order(seed, trims):
    rng = np.random.default_rng(seed)
    requests = [waiting(*rng.integers(1, LONGEST + 1, rng.integers(1, 9)).tolist()) for _ in range(30)]
    made, order = scheduler(trims=trims), []
    coming = list(requests)
    while coming or len(made):
        for _ in range(int(rng.integers(0, 4))):
            if coming:
                made.add(coming.pop(0))
        packed = made.take()
        if packed is not None:
            check_places(packed)
            order += [
                (requests.index(piece.request), at) for piece in packed.pieces for at in range(piece.first, piece.last)
            ]
    assert order == [(place, at) for place, request in enumerate(requests) for at in range(len(request.lengths))]


@dataclasses.dataclass
class Outcome:
    """What a simulation gave."""

    waits: np.ndarray
    """Seconds from arrival to answer."""
    busy: float
    """Seconds of computing."""


def seconds_of(packed: Packed) -> float:
    """A batch's time: as measured for MiniLM on one core, 4.3 ms for a row of 64 and 1 ms for each batch."""
    return 0.001 + 0.0043 * row_cost(packed.plan.num_rows, packed.layout.row_length) / row_cost(1, 64)


def simulate(rate: float, count: int = 400, *, alone: bool = False, seed: int = 0) -> Outcome:
    """Let requests arrive at random times; the engine takes a batch, or a single request, whenever it is free."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    lengths = np.clip(rng.lognormal(3.0, 0.6, count).astype(int), 3, LONGEST)
    coming = [waiting(int(length), arrived=at) for at, length in zip(arrivals, lengths, strict=True)]
    made, now, ended, busy = Scheduler(LAYOUTS, BUDGET), 0.0, list[float](), 0.0
    left = list(coming)
    while left or len(made):
        if not len(made):
            now = max(now, left[0].arrived)
        while left and left[0].arrived <= now:
            made.add(left.pop(0))
        if alone:
            one = scheduler(made._waiting.popleft())
            packed = one.take()
        else:
            packed = made.take()
        assert packed is not None
        busy += seconds_of(packed)
        now += seconds_of(packed)
        ended += [now - piece.request.arrived for piece in packed.pieces]
    return Outcome(np.array(ended), busy)


def test_an_idle_server_answers_as_fast_as_one_by_one():
    assert np.median(simulate(5).waits) <= np.median(simulate(5, alone=True).waits) * 1.05


def test_packing_serves_a_rate_at_which_one_by_one_fails():
    packed, single = simulate(600), simulate(600, alone=True)
    assert np.quantile(packed.waits, 0.99) < 0.1
    assert np.quantile(single.waits, 0.99) > 0.5
    assert packed.busy < 0.65 * single.busy


def test_after_overload_the_queue_is_gone_at_once():
    """A burst of 200 texts at one moment takes little more than its computing: nothing waits for a timer."""
    made = scheduler(*[waiting(20) for _ in range(200)])
    seconds, batches = 0.0, 0
    while (packed := made.take()) is not None:
        check_places(packed)
        seconds, batches = seconds + seconds_of(packed), batches + 1
    assert batches == 17
    assert seconds < 1.1 * 200 * 20 / 64 * 0.0053
