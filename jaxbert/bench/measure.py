"""Drive the training step as the loop does, one step ahead of what is read, and time it.

The first run of every batch shape, which compiles, is never on the clock.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.bench.options import BenchOptions
from jaxbert.bench.setup import Bench
from jaxbert.data.batches import Batch, BatchSize, batch_size_of
from jaxbert.models.functional import init_params
from jaxbert.train.prefetch import Prefetcher
from jaxbert.train.program import Program
from jaxbert.train.speed import Speed
from jaxbert.train.start import compute_dtype
from jaxbert.train.step import DeviceBatch


class Stopwatch:
    """The step, its state, and the time of each step that counted."""

    def __init__(self, program: Program) -> None:
        self.train_step = program.train_step()
        self.speed = Speed(program.model.config)
        self.step_seconds: list[float] = []
        self._key = program.base_key
        self._state = program.first_state(init_params(program.model, self._key))
        self._pending: dict[str, Array] | None = None
        self._last_read = 0.0

    def run(self, loader: Prefetcher, options: BenchOptions) -> None:
        """Run until enough steps are timed."""
        warmed = 0
        running = False
        for (size, batch), waited in loader.timed():
            if warmed < options.warmup or not self.train_step.has(batch):
                self._stop()
                self._dispatch(batch)
                jax.block_until_ready(self._state)
                self._pending, running = None, False
                warmed += 1
                continue
            if not running:
                running, waited = True, 0.0
                self._last_read = time.perf_counter()
                self.speed.resume()
            self.speed.add(size, waited)
            previous = self._pending
            self._dispatch(batch)
            if previous is not None:
                self._read(previous)
            if self.speed.steps >= options.steps:
                break
        self._stop()

    def _dispatch(self, batch: DeviceBatch) -> None:
        if not self.train_step.has(batch):
            self.train_step.compile(self._state, batch, self._key)
        with jax.transfer_guard("disallow"):
            self._state, self._pending = self.train_step(self._state, batch, self._key)

    def _read(self, sums: dict[str, Array]) -> None:
        jax.device_get(sums)
        now = time.perf_counter()
        self.step_seconds.append(now - self._last_read)
        self._last_read = now

    def _stop(self) -> None:
        """Read the last step, and so wait for it, then stop the clock."""
        if self._pending is not None:
            self._read(self._pending)
            self._pending = None
        self.speed.pause()


def run_bench(bench: Bench, options: BenchOptions) -> dict[str, Any]:
    """Time the step and return the numbers, ready for JSON; None stands for what the device does not tell."""

    def prepare(batch: Batch) -> tuple[BatchSize, DeviceBatch]:
        return batch_size_of(batch), bench.program.put(batch)

    watch = Stopwatch(bench.program)
    with Prefetcher(bench.feed(), prepare) as loader:
        watch.run(loader, options)
    p50, p90 = (round(float(np.percentile(watch.step_seconds, p)) * 1e3, 3) for p in (50, 90))
    rates = watch.speed.summary()
    return {
        **_describe(bench),
        "steps_timed": rates.pop("timed_steps"),
        "compile_seconds": round(watch.train_step.compile_seconds, 2),
        "compilations": watch.train_step.count,
        "step_ms_p50": p50,
        "step_ms_p90": p90,
        **rates,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _describe(bench: Bench) -> dict[str, Any]:
    config, layout, model = bench.program.config, bench.layout, bench.program.model
    return {
        "model": config.model.name_or_path,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)),
        "lengths": bench.source,
        "batch_size": config.train.batch_size,
        "packing": config.data.packing,
        "precision": jnp.dtype(compute_dtype(config.precision)).name,
        "row_length": layout.row_length,
        "row_counts": list(layout.row_counts),
        "slots": layout.slots,
    }


def peak_memory_bytes() -> int | None:
    """Return the most memory that any device of this process has held, or None where devices do not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks, default=None)
