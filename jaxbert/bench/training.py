"""Times the training step: compilation, each step, rates, memory, and the bound of the step.

The step is dispatched as in the trainer, one step ahead of the read results. The first run of every batch shape, which
compiles, is never timed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.compilation_cache import compilation_cache

from jaxbert.bench.options import BenchOptions
from jaxbert.bench.trace import Trace
from jaxbert.data.batches import Batch, BatchSize, Prefetcher
from jaxbert.hardware import device_spec
from jaxbert.models.functional import Params, init_params
from jaxbert.plan.roofline import StepCost, known_peaks, least_bytes, moved_by_optimizer, roofline
from jaxbert.train.programs import Compiled, Program, compute_dtype
from jaxbert.train.run import Run
from jaxbert.train.sharding import platform_of, row_devices
from jaxbert.train.speed import Speed, peak_memory_bytes, training_flops
from jaxbert.train.step import DeviceBatch

TRAINING_NUMBERS = (
    *("compile_seconds", "compile_cold_seconds", "compile_warm_seconds", "compilations"),
    *("step_ms_p50", "step_ms_p90", "step_memory_bytes", "peak_memory_bytes", "roofline"),
)
"""The keys of a result that are None without training."""
_CACHE_SETTINGS: dict[str, Any] = {
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def time_training(run: Run, options: BenchOptions, say: Callable[[str], None]) -> tuple[dict[str, Any], Params]:
    """Compile and time the step; return the numbers and the trained parameters."""
    program = run.program
    step, cold, warm = program.train_step(), None, None
    if options.measure_compile is not False:
        say("compiling the step with nothing cached, then again from the cache")
        step, cold, warm = compile_cold_and_warm(program, program.put(next(run.batches_from(0))))
    watch = Stopwatch(program, step, Trace(options.profile))
    say(f"compiling what is missing, and timing {options.steps} training steps")
    watch.run(run.batches_from(0), options)
    p50, p90 = (round(float(np.percentile(watch.step_seconds, p)) * 1e3, 3) for p in (50, 90))
    numbers = {
        **bench_rates(watch.speed, options),
        "compile_seconds": round(step.compile_seconds, 2),
        "compile_cold_seconds": None if cold is None else round(cold, 2),
        "compile_warm_seconds": None if warm is None else round(warm, 2),
        "compilations": step.count,
        "step_ms_p50": p50,
        "step_ms_p90": p90,
        "step_memory_bytes": step_memory_bytes(watch.executable),
        "peak_memory_bytes": peak_memory_bytes(),
        "roofline": _roofline(program, watch, options),
    }
    return numbers, watch.state["params"]


def bench_rates(speed: Speed, options: BenchOptions) -> dict[str, Any]:
    """Return the summary of `speed` under the names of a benchmark; MFU uses the peak in `options`, if there is one."""
    summary = speed.summary()
    achieved = summary["tflops_per_second"]
    if options.peak_tflops is not None and achieved is not None:
        summary["mfu"] = round(achieved / options.peak_tflops / summary["devices"], 4)
    return {"steps_timed": summary.pop("timed_steps"), **summary}


def _roofline(program: Program, watch: Stopwatch, options: BenchOptions) -> dict[str, Any]:
    speed, devices = watch.speed, program.mesh.size
    config = program.model.config
    row_tokens = speed.row_tokens / speed.steps
    itemsize = jnp.dtype(compute_dtype(program.config.precision, program.mesh)).itemsize
    moved = least_bytes(config, moved_by_optimizer(program), row_tokens / row_devices(program.mesh), itemsize)
    on_cpu = platform_of(program.mesh) == "cpu"  # there the host itself computes the step
    cost = StepCost(
        seconds=speed.elapsed / speed.steps,
        flops=training_flops(config, row_tokens, speed.computed_pairs / speed.steps, program.trainable.backward)
        / devices,
        bytes_moved=max(moved, bytes_accessed(watch.executable) or 0.0),
        input_share=speed.wait_seconds / speed.elapsed,
        dispatch_share=None if on_cpu else watch.dispatch_seconds / speed.elapsed,
    )
    spec = device_spec(jax.devices()[0].device_kind)
    return roofline(cost, *known_peaks(spec, options.peak_tflops, options.peak_bandwidth)).to_dict()


def bytes_accessed(executable: Any) -> float | None:
    """Return XLA's count of the bytes that a program reads and writes on one device, or None if it has none.

    The body of a compiled loop over layers counts once, and library kernels on GPU do not count at all.
    """
    analysis = executable.cost_analysis()
    return analysis.get("bytes accessed") if isinstance(analysis, dict) else None


def step_memory_bytes(executable: Any) -> int | None:
    """Return the bytes that a program needs on one device by XLA's plan: arguments, results and temporary buffers."""
    plan = executable.memory_analysis()
    if plan is None:
        return None
    shared = plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + plan.output_size_in_bytes - shared + plan.temp_size_in_bytes


class Stopwatch:
    """The step, its state, and the times of the steps that counted."""

    def __init__(self, program: Program, train_step: Compiled, trace: Trace) -> None:
        self.train_step = train_step
        self.speed = Speed(program.model.config, program.trainable.backward)
        self.step_seconds: list[float] = []
        self.dispatch_seconds = 0.0
        self.state = program.first_state(
            init_params(program.model, program.base_key, program.state_shardings["params"])
        )
        self._program = program
        self._key = program.arguments
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


def compile_cold_and_warm(program: Program, batch: DeviceBatch) -> tuple[Compiled, float, float | None]:
    """Compile the step for a batch with an empty cache, then again with the cache that this left.

    Before both, everything that JAX keeps in memory is dropped, so both times include tracing and lowering, like the start
    of a run.

    Returns:
      The step of the second time, ready for this batch; seconds of the cold compilation; seconds of the warm one, or None if
      this backend keeps no programs on disk.
    """
    state, key = program.state_target, program.arguments

    def compile_anew() -> tuple[Compiled, float]:
        jax.clear_caches()
        step = program.train_step()
        step.compile(state, batch, key)
        return step, step.compile_seconds

    with _empty_cache() as folder:
        _, cold = compile_anew()
        kept = set(os.listdir(folder))
        step, warm = compile_anew()
        from_cache = bool(kept) and set(os.listdir(folder)) == kept
    return step, cold, warm if from_cache else None


@contextlib.contextmanager
def _empty_cache() -> Iterator[str]:
    """Use an empty folder for the persistent cache while entered."""
    with tempfile.TemporaryDirectory(prefix="jaxbert-bench-") as folder:
        settings = {**_CACHE_SETTINGS, "jax_compilation_cache_dir": folder}
        before = {name: getattr(jax.config, name) for name in settings}
        _set_cache(settings)
        try:
            yield folder
        finally:
            _set_cache(before)


def _set_cache(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads its settings only at the first use
