"""Lower and upper bounds on the time of a step, from its FLOPs, its bytes and its collectives. Works on numbers only.

The lower bound assumes that everything overlaps and all links of a device work at their peak. The upper bound assumes no
overlap, a given share of the peaks, traffic along only one dimension of a torus, and a delay for each collective. Between
them lies a prediction: no overlap either, but the shares of the peaks that good kernels reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from jaxbert.hardware import Link
from jaxbert.plan.hlo_cost import Traffic

PRODUCTS = 0.9 * 0.8
"""ASSUMED share of the peak FLOP/s in the prediction: 90% of the 80% that large products reach (790 TFLOP/s on an H100)."""
BANDWIDTH = 0.85
"""ASSUMED share of the memory's bandwidth in the prediction."""


@dataclass(frozen=True)
class Peaks:
    """The peaks of one device per second; None for an unknown one."""

    flops: float | None
    bandwidth: float | None
    """Bytes per second of its memory."""
    link: Link | None
    sizes: tuple[int, ...] = ()
    """The sizes of the torus."""


@dataclass(frozen=True)
class Bounds:
    """Bounds on the seconds of a step; None if a peak is not known."""

    compute_seconds: float | None
    memory_seconds: float | None
    """Seconds for the bytes of the compiled kernels, which a cache may make less; without them for the least bytes."""
    interconnect_seconds: float | None
    """Seconds at the peak of all links of a device."""
    slow_interconnect_seconds: float | None
    """Seconds along one dimension of the torus, or also over the network, with delays."""
    lower_seconds: float | None
    """The longest of the times at the peaks, with the least bytes that any program moves."""
    predicted_seconds: float | None
    """Seconds at `PRODUCTS` and `BANDWIDTH`, nothing overlapping; None if the bytes are not those of a compiled program."""
    upper_seconds: float | None
    utilization: float
    """The share of the peaks that the upper bound assumes."""
    bound: str | None
    """The resource that decides the lower bound."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def bounds(
    flops: float,
    least: float,
    traffic: Iterable[Traffic],
    peaks: Peaks,
    utilization: float,
    moved: float | None = None,
) -> Bounds:
    """Bound the time of a step.

    Args:
      flops: FLOPs of one device's compiled matrix products.
      least: bytes that one device's memory moves at least, for the lower bound.
      traffic: the collectives of one device.
      peaks: the peaks of the device.
      utilization: the share of the peaks in the upper bound.
      moved: bytes of the compiled program's kernels, for the other times; without them nothing is predicted. They may be
        more than really move, because a cache may hold what a kernel reads.
    """
    exchanged = tuple(traffic)
    fast, slow = (_exchange_seconds(exchanged, peaks, slow=slow) for slow in (False, True))
    times = {
        "compute": flops / peaks.flops if peaks.flops else None,
        "memory": least / peaks.bandwidth if peaks.bandwidth else None,
        "interconnect": fast,
    }
    known = {name: seconds for name, seconds in times.items() if seconds is not None}
    bound = max(known, key=lambda name: known[name]) if "compute" in known else None
    whole = slow is not None and len(known) == len(times)
    memory = (least if moved is None else moved) / peaks.bandwidth if peaks.bandwidth else None
    upper = (known["compute"] + (memory or 0.0) + (slow or 0.0)) / utilization if whole else None
    predicted = None
    if whole and moved is not None:
        predicted = known["compute"] / PRODUCTS + (memory or 0.0) / BANDWIDTH + (slow or 0.0)
    return Bounds(
        compute_seconds=times["compute"],
        memory_seconds=memory,
        interconnect_seconds=fast,
        slow_interconnect_seconds=slow,
        lower_seconds=known[bound] if bound else None,
        predicted_seconds=predicted,
        upper_seconds=upper,
        utilization=utilization,
        bound=bound,
    )


def _exchange_seconds(traffic: tuple[Traffic, ...], peaks: Peaks, *, slow: bool) -> float | None:
    """Return the seconds of the collectives; `slow`: along one dimension, also between nodes, and with delays."""
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
    """Return the most links that a collective crosses: half the way around each dimension of the torus."""
    if part.kind == "collective-permute" or not sizes:
        return 1
    return max(1, sum(size // 2 for size in sizes))


def predicted_rate(bounds_: Bounds, amount: float) -> float | None:
    """Return the predicted rate per second of something of which a step has `amount`."""
    return amount / bounds_.predicted_seconds if bounds_.predicted_seconds else None


def rates(bounds_: Bounds, amount: float) -> tuple[float | None, float | None]:
    """Return the lowest and the highest rate per second of something of which a step has `amount`."""
    slow, fast = bounds_.upper_seconds, bounds_.lower_seconds
    return (amount / slow if slow else None), (amount / fast if fast else None)


def price(per_hour: float | None, bounds_: Bounds, tokens: float, steps: int | None) -> dict[str, float | None]:
    """Return the lowest and the highest cost of a million real tokens and of the whole run; the price is for all devices."""
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
    """Return the cost of a million items at this rate, or None if price or rate is not known."""
    return None if per_hour is None or not per_second else per_hour / 3600 / per_second * 1e6


def costs(
    per_hour: float | None, examples: float | None, real_tokens: float | None, predictions: float | None
) -> dict[str, float | None]:
    """Return the costs of a benchmark, with four significant digits, from its rates per second."""
    prices = {
        "cost_per_hour": per_hour,
        "cost_per_million_examples": cost_per_million(per_hour, examples),
        "cost_per_million_real_tokens": cost_per_million(per_hour, real_tokens),
        "cost_per_million_predictions": cost_per_million(per_hour, predictions),
    }
    return {name: None if price is None else float(f"{price:.4g}") for name, price in prices.items()}
