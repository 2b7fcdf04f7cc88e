"""What bounds a step, on made-up numbers: a device of 100 FLOP/s and 10 bytes/s, and steps of one second."""

from __future__ import annotations

import pytest
from tiny import tiny_config

from jaxbert.plan.bounds import cost_per_million, costs
from jaxbert.plan.roofline import ADVICE, StepCost, least_bytes, roofline


def step(flops: float = 1.0, moved: float = 0.1, waiting: float = 0.0, dispatch: float | None = 0.0) -> StepCost:
    return StepCost(1.0, flops, moved, waiting, dispatch)


@pytest.mark.parametrize(
    ("cost", "bound"),
    [
        (step(flops=80), "compute"),
        (step(flops=40, moved=2), "compute"),
        (step(moved=9), "memory"),
        (step(flops=40, moved=5), "memory"),
        (step(moved=25), "memory"),
        (step(waiting=0.6), "input"),
        (step(flops=40, waiting=0.45), "input"),
        (step(dispatch=0.9), "overhead"),
        (step(flops=40, moved=3, dispatch=0.7), "overhead"),
        (step(flops=20, moved=1), "overhead"),
        (step(flops=20, moved=2, dispatch=None), "overhead"),
        (step(flops=29, waiting=0.29, dispatch=0.29), "overhead"),
        (step(flops=31, waiting=0.29, dispatch=0.29), "compute"),
    ],
)
def test_the_largest_share_bounds_the_step(cost, bound):
    found = roofline(cost, 100, 10)
    assert (found.bound, found.reason) == (bound, ADVICE[bound])


@pytest.mark.parametrize(
    ("cost", "flops", "bandwidth", "bound", "reason"),
    [
        (
            step(flops=40),
            None,
            None,
            None,
            "FLOP/s and memory bandwidth of this device are not known: give --peak_tflops",
        ),
        (step(flops=40), 100, None, None, "give --peak_bandwidth"),
        (step(moved=4), None, 10, None, "give --peak_tflops"),
        (step(waiting=0.7), None, None, "input", "waits for batches"),
        (step(dispatch=0.7), None, None, "overhead", "small kernels"),
        (step(flops=70), 100, None, "compute", "matrix products"),
        (step(moved=7), None, 10, "memory", "moving parameters"),
    ],
)
def test_without_a_peak_only_what_is_clear_is_said(cost, flops, bandwidth, bound, reason):
    found = roofline(cost, flops, bandwidth)
    assert found.bound == bound
    assert reason in found.reason
    assert (found.compute_share is None, found.memory_share is None) == (flops is None, bandwidth is None)


def test_shares_are_times_at_the_peak_over_the_time_that_it_took():
    found = roofline(StepCost(2.0, 50.0, 4.0, 0.125, None), 100, 10).to_dict()
    assert (found["compute_share"], found["memory_share"], found["input_share"]) == (0.25, 0.2, 0.125)
    assert (found["flops_per_byte"], found["balance_flops_per_byte"]) == (12.5, 10.0)
    assert found["dispatch_share"] is None


def test_the_least_bytes_of_a_step():
    """Those of the optimizer, and 80 widths of 32 numbers for each token and layer."""
    config = tiny_config(num_hidden_layers=3)
    assert least_bytes(config, 28_000, 0, 4) == 28_000
    assert least_bytes(config, 28_000, 10, 4) == 28_000 + 10 * 3 * 80 * 32 * 4
    assert least_bytes(config, 0, 10, 2) == 10 * 3 * 80 * 32 * 2


def test_a_price_is_spread_over_what_an_hour_gives():
    assert cost_per_million(3.6, 1000) == pytest.approx(1.0)
    assert cost_per_million(7.2, 100) == pytest.approx(20.0)
    assert cost_per_million(None, 1000) is None
    assert cost_per_million(3.6, None) is None
    assert costs(36.0, 1000.0, 10_000.0, 30_000.0) == {
        "cost_per_hour": 36.0,
        "cost_per_million_examples": 10.0,
        "cost_per_million_real_tokens": 1.0,
        "cost_per_million_predictions": 0.3333,
    }
    assert set(costs(None, 1.0, 1.0, 1.0).values()) == {None}
