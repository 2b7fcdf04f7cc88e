"""Between which times a step lies: what its FLOPs, its bytes and its collectives need at the peaks. Numbers only.

The lower bound lets everything overlap and all links of a device work at their peak. The upper bound lets nothing overlap
at an assumed share of the peaks, sends along one dimension of a torus only, and makes each collective wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from jaxbert.hardware import Link
from jaxbert.plan.hlo_cost import Traffic


@dataclass(frozen=True)
class Peaks:
    """Of one device, a second; None where it is not known."""

    flops: float | None
    bandwidth: float | None
    """Bytes of its memory."""
    link: Link | None
    sizes: tuple[int, ...] = ()
    """Of the torus."""


@dataclass(frozen=True)
class Bounds:
    """Seconds of a step; None where a peak is not known."""

    compute_seconds: float | None
    memory_seconds: float | None
    interconnect_seconds: float | None
    """At the peak of all links of a device."""
    slow_interconnect_seconds: float | None
    """Along one dimension of the torus, or over the network as well, with waiting."""
    lower_seconds: float | None
    upper_seconds: float | None
    utilization: float
    """Assumed for the upper bound."""
    bound: str | None
    """What the lower bound comes from."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def bounds(flops: float, moved: float, traffic: Iterable[Traffic], peaks: Peaks, utilization: float) -> Bounds:
    """Bound the time of a step.

    Args:
      flops: of the compiled matrix products of one device.
      moved: bytes of one device's memory, at least.
      traffic: its collectives.
      peaks: of the device.
      utilization: share of the peaks in the upper bound.
    """
    exchanged = tuple(traffic)
    fast, slow = (_exchange_seconds(exchanged, peaks, slow=slow) for slow in (False, True))
    times = {
        "compute": flops / peaks.flops if peaks.flops else None,
        "memory": moved / peaks.bandwidth if peaks.bandwidth else None,
        "interconnect": fast,
    }
    known = {name: seconds for name, seconds in times.items() if seconds is not None}
    bound = max(known, key=lambda name: known[name]) if "compute" in known else None
    whole = slow is not None and len(known) == len(times)
    return Bounds(
        compute_seconds=times["compute"],
        memory_seconds=times["memory"],
        interconnect_seconds=fast,
        slow_interconnect_seconds=slow,
        lower_seconds=known[bound] if bound else None,
        upper_seconds=(known["compute"] + known["memory"] + (slow or 0.0)) / utilization if whole else None,
        utilization=utilization,
        bound=bound,
    )


def _exchange_seconds(traffic: tuple[Traffic, ...], peaks: Peaks, *, slow: bool) -> float | None:
    """Return what the collectives take; `slow`: along one dimension, between nodes too, and with waiting."""
    link = peaks.link
    if not traffic:
        return 0.0
    if link is None:
        return None
    seconds = 0.0
    for part in traffic:
        within = part.sent_bytes / (link.sent_gbs * 1e9) * ((link.axes or 1) if slow else 1)
        between = 0.0
        if link.joined and link.network_gbs and (part.group > link.joined or not part.group):
            # Each device of a node carries its share of what the node sends.
            between = part.sent_bytes / link.joined / (link.network_gbs * 1e9)
        seconds += within + between if slow else max(within, between)
        if slow:
            seconds += part.runs * _hops(part, peaks.sizes) * link.delay_us * 1e-6
    return seconds


def _hops(part: Traffic, sizes: tuple[int, ...]) -> int:
    """Return over how many links a collective reaches at most: half around each dimension of the torus."""
    if part.kind == "collective-permute" or not sizes:
        return 1
    return max(1, sum(size // 2 for size in sizes))


def rates(bounds_: Bounds, amount: float) -> tuple[float | None, float | None]:
    """Return the least and the most of something a second, of which a step has `amount`."""
    slow, fast = bounds_.upper_seconds, bounds_.lower_seconds
    return (amount / slow if slow else None), (amount / fast if fast else None)


def price(per_hour: float | None, bounds_: Bounds, tokens: float, steps: int | None) -> dict[str, float | None]:
    """Return the least and the most that a million real tokens and the whole run cost, at this price of all devices."""
    slow, fast = rates(bounds_, tokens)
    whole = None if per_hour is None or steps is None else per_hour / 3600 * steps
    found = {
        "cost_per_hour": per_hour,
        "cost_per_million_tokens_least": cost_per_million(per_hour, fast),
        "cost_per_million_tokens_most": cost_per_million(per_hour, slow),
        "cost_of_run_least": _times(whole, bounds_.lower_seconds),
        "cost_of_run_most": _times(whole, bounds_.upper_seconds),
    }
    return {name: None if value is None else float(f"{value:.4g}") for name, value in found.items()}


def _times(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left * right


def cost_per_million(per_hour: float | None, per_second: float | None) -> float | None:
    """Return what a million of something costs at this rate, or None where price or rate is not known."""
    return None if per_hour is None or not per_second else per_hour / 3600 / per_second * 1e6


def costs(
    per_hour: float | None, examples: float | None, real_tokens: float | None, predictions: float | None
) -> dict[str, float | None]:
    """Return the prices of a benchmark, with four significant digits, from its rates per second."""
    prices = {
        "cost_per_hour": per_hour,
        "cost_per_million_examples": cost_per_million(per_hour, examples),
        "cost_per_million_real_tokens": cost_per_million(per_hour, real_tokens),
        "cost_per_million_predictions": cost_per_million(per_hour, predictions),
    }
    return {name: None if price is None else float(f"{price:.4g}") for name, price in prices.items()}
