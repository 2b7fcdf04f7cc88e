"""Decide whether a metric is better if it is larger or smaller.

Every metric of every task has its direction here; code that compares or sorts models calls `improves` or `merit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_FALLING_ENDS = ("loss", "error", "perplexity")
"""Endings of metrics that are better if smaller: nsp_loss, calibration_error."""
_FALLING = {"mse", "mae", "brier"}
_RISING = {
    *("accuracy", "exact_match", "f1", "mcc", "pearson", "precision", "r2", "recall", "spearman"),
    *("answered_f1", "unanswered_accuracy", "masked_accuracy", "nsp_accuracy"),
    *(f"{score}_{mean}" for score in ("f1", "precision", "recall") for mean in ("macro", "micro", "weighted")),
    "f1_macro_present",
}

_own: dict[str, bool] = {}
"""Metrics that a program has declared: whether each is better if smaller."""


def declare(name: str, *, greater_is_better: bool) -> None:
    """Declare the direction of a metric that no task has.

    Raises:
      ValueError: if a task has a metric with this name.
    """
    if is_known(name):
        raise ValueError(f"there is a metric {name!r} already: choose another name")
    _own[name] = not greater_is_better


def is_known(name: str) -> bool:
    """Return whether a task of this package has a metric with this name."""
    return name in _FALLING or name in _RISING or name.endswith(_FALLING_ENDS)


def falls(name: str) -> bool:
    """Return whether a metric is better if it is smaller.

    Raises:
      KeyError: for a metric without a known direction: a wrong one would keep the worst model.
    """
    if name in _own:
        return _own[name]
    if name in _FALLING or name.endswith(_FALLING_ENDS):
        return True
    if name not in _RISING:
        raise KeyError(f"the metric {name!r} has no direction: name it in {__name__}")
    return False


def merit(name: str, value: float) -> float:
    """Return a metric's value, negated if smaller is better, so that larger is better; applied twice, the same value."""
    return -value if falls(name) else value


def improves(name: str, new: float, old: float | None) -> bool:
    """Return whether `new` is better than `old`; None and values that are not finite are worse than any number."""
    if not math.isfinite(new):
        return False
    return old is None or not math.isfinite(old) or merit(name, new) > merit(name, old)


def value_of(metrics: Mapping[str, Any], name: str) -> float:
    """Return a metric's value; `f1_macro_present` is only in `metrics` if it differs from `f1_macro`."""
    return float(metrics["f1_macro" if name == "f1_macro_present" and name not in metrics else name])
