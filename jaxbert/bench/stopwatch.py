"""Drive the training step as the loop does, one step ahead of what is read, and time it.

The first run of every batch shape, which compiles, is never on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
from jax import Array

from jaxbert.bench.options import BenchOptions
from jaxbert.bench.trace import Trace
from jaxbert.data.batches import Batch, BatchSize
from jaxbert.models.functional import init_params
from jaxbert.train.prefetch import Prefetcher
from jaxbert.train.programs import Compiled, Program
from jaxbert.train.speed import Speed
from jaxbert.train.step import DeviceBatch


class Stopwatch:
    """The step, its state, and the time of each step that counted."""

    def __init__(self, program: Program, train_step: Compiled, trace: Trace) -> None:
        self.train_step = train_step
        self.speed = Speed(program.model.config, program.trainable.backward)
        self.step_seconds: list[float] = []
        self.dispatch_seconds = 0.0
        self.state = program.first_state(
            init_params(program.model, program.base_key, program.state_shardings["params"])
        )
        self._program = program
        self._key = program.base_key
        self._trace = trace
        self._batch: DeviceBatch = {}
        self._pending: dict[str, Array] | None = None
        self._last_read = 0.0

    def run(self, feed: Iterator[Batch], options: BenchOptions) -> None:
        """Run until enough steps are timed."""

        def prepare(batch: Batch) -> tuple[BatchSize, DeviceBatch]:
            return self._program.count(batch), self._program.put(batch)

        try:
            with Prefetcher(feed, prepare) as loader:
                self._run(loader, options)
        finally:
            self._trace.stop()

    @property
    def executable(self) -> Any:
        """The compiled program of the last step."""
        return self.train_step.program(self._batch)

    def _run(self, loader: Prefetcher, options: BenchOptions) -> None:
        warmed = 0
        running = False
        for (size, batch), waited in loader.timed():
            if warmed < options.warmup or not self.train_step.has(batch):
                self._stop()
                self._dispatch(batch)
                jax.block_until_ready(self.state)
                self._pending, running = None, False
                warmed += 1
                continue
            if not running:
                running, waited = True, 0.0
                self._start()
            self.speed.add([size], waited)
            previous = self._pending
            begin = time.perf_counter()
            self._dispatch(batch)
            self.dispatch_seconds += time.perf_counter() - begin
            if previous is not None:
                self._read(previous)
            if self.speed.steps >= options.steps:
                break
        self._stop()

    def _start(self) -> None:
        self._trace.start()
        self._last_read = time.perf_counter()
        self.speed.resume()

    def _dispatch(self, batch: DeviceBatch) -> None:
        if not self.train_step.has(batch):
            self.train_step.compile(self.state, batch, self._key)
        with jax.transfer_guard("disallow"), self._trace.step(self.speed.steps):
            self.state, self._pending = self.train_step(self.state, batch, self._key)
        self._batch = batch

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
