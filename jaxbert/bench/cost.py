"""From a price per hour and rates to the price of a million."""

from __future__ import annotations


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
