"""Rates of a run and their share of the hardware's peak.

The rates are those of the steady state: compilation, evaluation and saving are left out. The number of timed steps is given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from transformers import BertConfig

from jaxbert.data.batches import BatchSize
from jaxbert.hardware import device_spec
from jaxbert.train.optimizer import Backward


def training_flops(
    config: BertConfig,
    tokens: float,
    attended_pairs: float,
    backward: Backward = Backward(),  # noqa: B008 (frozen)
) -> float:
    """Return the FLOPs of the matrix products in forward and backward pass over real tokens.

    Six times the layers' parameters per token, plus 12 D per pair of tokens that attend to each other, per layer (PaLM,
    appendix B). Heads, pooler and embeddings are left out.

    Args:
      config: the encoder.
      tokens: the number of real tokens.
      attended_pairs: the sum over examples of their squared length.
      backward: the share of the backward pass that is needed when parameters are frozen.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * width**2 + 2 * width * config.intermediate_size)
    return (
        2.0 * (1 + backward.layers + backward.kernels) * weights * tokens
        + 4.0 * (1 + 2 * backward.layers) * layers * width * attended_pairs
    )


def peak_flops(device: Any) -> float | None:
    """Return the device's dense bfloat16 peak in FLOP/s, or None where it is not known."""
    spec = device_spec(device.device_kind)
    return spec.bf16_tflops * 1e12 if spec else None


@dataclass
class Speed:
    """Accumulated timings of this process."""

    bert_config: BertConfig
    backward: Backward = field(default_factory=Backward)
    steps: int = 0
    examples: int = 0
    real_tokens: int = 0
    row_tokens: int = 0
    attended_pairs: int = 0
    computed_pairs: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    _since: float | None = None

    def resume(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock; the caller must have waited for the device."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def add(self, sizes: Sequence[BatchSize], waited: float) -> None:
        """Count batches that are about to run; `waited` is how many seconds the loop waited for them."""
        for size in sizes:
            self.steps += 1
            self.examples += size.examples
            self.real_tokens += size.tokens
            self.row_tokens += size.row_tokens
            self.attended_pairs += size.attended_pairs
            self.computed_pairs += size.computed_pairs
            self.flops += training_flops(self.bert_config, size.tokens, size.attended_pairs, self.backward)
        self.wait_seconds += waited

    @property
    def elapsed(self) -> float:
        """Seconds on the clock."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self.seconds + running

    def summary(self) -> dict[str, Any]:
        """Return the rates under their names in `summary.json`; None for a rate that was not timed or is not known."""
        seconds = self.elapsed if self.steps else 0.0
        device = jax.devices()[0]
        peak = peak_flops(device)

        def rate(amount: float) -> float | None:
            return round(amount / seconds, 3) if seconds else None

        return {
            "timed_steps": self.steps,
            "examples_per_second": rate(self.examples),
            "real_tokens_per_second": rate(self.real_tokens),
            "row_tokens_per_second": rate(self.row_tokens),
            "packing_efficiency": round(self.real_tokens / self.row_tokens, 4) if self.row_tokens else None,
            "masked_attention_fraction": round(1 - self.attended_pairs / self.computed_pairs, 4)
            if self.computed_pairs
            else None,
            "data_wait_fraction": round(self.wait_seconds / seconds, 5) if seconds else None,
            "tflops_per_second": round(self.flops / seconds / 1e12, 4) if seconds else None,
            "mfu": round(self.flops / seconds / peak / len(jax.devices()), 4) if seconds and peak else None,
            "peak_memory_bytes": peak_memory_bytes(),
            "device": device.device_kind,
            "devices": len(jax.devices()),
            "jax_version": jax.__version__,
        }


def peak_memory_bytes() -> int | None:
    """Return the most bytes that any device of this process has held, or None if devices do not report it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks, default=None)
