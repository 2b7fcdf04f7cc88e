"""Bounds of a step's time, on made-up numbers: devices of 100 FLOP/s, 10 bytes/s, and links of 4 GB/s."""

from __future__ import annotations

import pytest

from jaxbert.hardware import Link
from jaxbert.plan.bounds import Bounds, Peaks, bounds, predicted_rate, price, rates
from jaxbert.plan.hlo_cost import Traffic

TORUS = Link("torus", 4.0, 2, None, None, 1.0, "made up")
SWITCH = Link("switch", 4.0, 0, 8, 0.25, 20.0, "made up")
SUM = Traffic("all-reduce", 8, 10**9, 2 * 10**9, 3)


def bounds_of(flops: float = 50.0, moved: float = 2.0, traffic: tuple[Traffic, ...] = (), **peaks: object) -> Bounds:
    known: dict = {"flops": 100.0, "bandwidth": 10.0, "link": TORUS, "sizes": (4, 8)} | peaks
    return bounds(flops, moved, traffic, Peaks(**known), 0.5)


def test_the_slowest_part_is_the_lower_bound_and_all_of_them_the_upper():
    found = bounds_of(traffic=(SUM,))
    assert (found.compute_seconds, found.memory_seconds, found.interconnect_seconds) == (0.5, 0.2, 0.5)
    # One of two dimensions, and three sums that reach 2 + 4 hops.
    assert found.slow_interconnect_seconds == pytest.approx(1.0 + 3 * 6e-6)
    assert found.lower_seconds == 0.5
    assert found.upper_seconds == pytest.approx((0.5 + 0.2 + 1.0 + 18e-6) / 0.5)
    assert rates(found, 10) == (pytest.approx(10 / found.upper_seconds), 20)


@pytest.mark.parametrize(
    ("changes", "bound", "lower"),
    [({"flops": 80.0}, "compute", 0.8), ({"moved": 9.0}, "memory", 0.9), ({"flops": 1.0}, "interconnect", 0.5)],
)
def test_the_bound_has_a_name(changes, bound, lower):
    found = bounds_of(**changes, traffic=(SUM,))
    assert (found.bound, found.lower_seconds) == (bound, lower)


def test_a_permutation_goes_one_hop():
    shift = Traffic("collective-permute", 2, 10**9, 1e9, 7)
    assert bounds_of(traffic=(shift,)).slow_interconnect_seconds == pytest.approx(0.5 + 7e-6)


@pytest.mark.parametrize(("group", "lower", "upper"), [(8, 0.5, 0.5), (16, 1.0, 1.5)])
def test_beyond_a_node_a_sum_crosses_the_network(group, lower, upper):
    """An eighth of 2 GB at 0.25 GB/s takes a second more."""
    found = bounds_of(traffic=(Traffic("all-reduce", group, 10**9, 2e9, 1),), link=SWITCH, sizes=())
    assert found.interconnect_seconds == lower
    assert found.slow_interconnect_seconds == pytest.approx(upper + 20e-6)


def test_what_is_not_known_is_none():
    assert bounds_of(link=None).upper_seconds == pytest.approx(0.7 / 0.5), "nothing is exchanged"
    without_link = bounds_of(traffic=(SUM,), link=None)
    assert (without_link.lower_seconds, without_link.upper_seconds) == (0.5, None)
    without_peak = bounds_of(flops=50.0, traffic=(SUM,), **{"bandwidth": None})
    assert (without_peak.lower_seconds, without_peak.upper_seconds) == (0.5, None)
    nothing = bounds(1.0, 1.0, (), Peaks(None, None, None), 0.5)
    assert (nothing.bound, nothing.lower_seconds, rates(nothing, 1)) == (None, None, (None, None))


def test_prices_follow_the_bounds():
    found = bounds_of()
    cost = price(7200.0, found, tokens=1e6, steps=10)
    assert cost["cost_per_million_tokens_least"] == pytest.approx(2 * 0.5)
    assert cost["cost_per_million_tokens_most"] == pytest.approx(2 * 1.4)
    assert (cost["cost_of_run_least"], cost["cost_of_run_most"]) == (10.0, pytest.approx(28.0))
    assert price(7200.0, found, 1e6, None)["cost_of_run_least"] is None
    assert set(price(None, found, 1e6, 10).values()) == {None}


def test_between_the_bounds_lies_a_prediction():
    """Products at 72% and memory at 85% of the peaks, and the collectives, one after the other."""
    found = bounds(50.0, 1.0, (SUM,), Peaks(100.0, 10.0, TORUS, (4, 8)), 0.5, moved=2.0)
    assert found.predicted_seconds == pytest.approx(0.5 / 0.72 + 0.2 / 0.85 + found.slow_interconnect_seconds)
    assert found.lower_seconds < found.predicted_seconds < found.upper_seconds
    assert predicted_rate(found, 10) == pytest.approx(10 / found.predicted_seconds)


def test_what_a_cache_may_hold_is_not_in_the_lower_bound():
    found = bounds(1.0, 2.0, (), Peaks(100.0, 10.0, TORUS), 0.5, moved=7.0)
    assert (found.bound, found.lower_seconds, found.memory_seconds) == ("memory", 0.2, 0.7)
    assert found.upper_seconds == pytest.approx((0.01 + 0.7) / 0.5)


def test_without_compiled_bytes_or_a_peak_nothing_is_predicted():
    assert predicted_rate(bounds_of(), 10) is None
    assert bounds(50.0, 2.0, (SUM,), Peaks(100.0, 10.0, None), 0.5, moved=2.0).predicted_seconds is None
