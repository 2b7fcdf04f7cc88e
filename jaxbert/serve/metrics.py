"""Counts and durations of a server in Prometheus' text format; the names are those of text-embeddings-inference."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_TOKENS = tuple(2.0**power for power in range(4, 17))
COUNTERS = {
    "te_request_count": "Requests that ask for answers, by method: single or batch.",
    "te_request_success": "Requests that were answered, by method.",
    "te_request_failure": "Requests that were not answered, by err.",
    "te_embed_count": "Texts that were computed.",
    "jaxbert_bad_texts": "Texts of many that could not be read, beside others that were answered.",
    "jaxbert_dropped_requests": "Requests whose client left before they were computed.",
    "jaxbert_engine_errors": "Batches that the engine could not compute.",
    "jaxbert_real_tokens": "Tokens of texts in batches.",
    "jaxbert_row_tokens": "Tokens of rows in batches, padding included.",
    "jaxbert_reloads": "Models that were opened again, by result.",
}
HISTOGRAMS = {
    "te_request_duration": ("Seconds from the last byte of a request to its answer.", _SECONDS),
    "te_request_tokenization_duration": ("Seconds to read and tokenize the texts of a request.", _SECONDS),
    "te_request_queue_duration": ("Seconds that a request waited for the engine.", _SECONDS),
    "te_request_inference_duration": ("Seconds from the first batch of a request to its last result.", _SECONDS),
    "te_batch_next_size": ("Requests in a batch.", _SIZES),
    "te_batch_next_tokens": ("Tokens of texts in a batch.", _TOKENS),
}
Labels = tuple[tuple[str, str], ...]


@dataclass
class _Distribution:
    bounds: tuple[float, ...]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)


class Metrics:
    """Adds up what happens in a server; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        self._distributions = {name: _Distribution(bounds) for name, (_, bounds) in HISTOGRAMS.items()}
        self.gauges: dict[str, tuple[str, Callable[[], Mapping[str, float]]]] = {}
        """Values that are asked for when they are shown: the help text, and the value of each model."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        key = tuple(labels.items())
        with self._lock:
            held = self._counts[name]
            held[key] = held.get(key, 0) + amount

    def observe(self, name: str, value: float) -> None:
        """Add a value to a distribution."""
        held = self._distributions[name]
        with self._lock:
            held.counts[bisect_left(held.bounds, value)] += 1
            held.total += value

    def value(self, name: str, **labels: str) -> float:
        """Return a counter, summed over the labels that are not given."""
        wanted = set(labels.items())
        with self._lock:
            return sum(amount for key, amount in self._counts[name].items() if wanted <= set(key))

    def text(self) -> str:
        """Return all values in Prometheus' text format."""
        lines: list[str] = []
        with self._lock:
            for name, what in COUNTERS.items():
                lines += [f"# HELP {name} {what}", f"# TYPE {name} counter"]
                lines += [_line(name, key, amount) for key, amount in (self._counts[name] or {(): 0.0}).items()]
            for name, (what, _) in HISTOGRAMS.items():
                lines += [f"# HELP {name} {what}", f"# TYPE {name} histogram"]
                lines += _buckets(name, self._distributions[name])
        for name, (what, values) in self.gauges.items():
            lines += [f"# HELP {name} {what}", f"# TYPE {name} gauge"]
            lines += [_line(name, (("model", model),), amount) for model, amount in values().items()]
        return "\n".join(lines) + "\n"


def _buckets(name: str, held: _Distribution) -> list[str]:
    lines, below = [], 0
    for bound, count in zip((*map("{:g}".format, held.bounds), "+Inf"), held.counts, strict=True):
        below += count
        lines.append(_line(f"{name}_bucket", (("le", bound),), below))
    return [*lines, f"{name}_sum {held.total:g}", f"{name}_count {below}"]


def _line(name: str, labels: Labels, amount: float) -> str:
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for _, value in labels)
    written = ",".join(f'{key}="{value}"' for (key, _), value in zip(labels, escaped, strict=True))
    return f"{name}{{{written}}} {amount:.15g}" if written else f"{name} {amount:.15g}"
