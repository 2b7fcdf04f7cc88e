"""The numbers of the training step: compile times, step times, rates, memory, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbert.bench.compiling import compile_cold_and_warm
from jaxbert.bench.options import BenchOptions
from jaxbert.bench.setup import endless_batches
from jaxbert.bench.stopwatch import Stopwatch
from jaxbert.bench.trace import Trace
from jaxbert.hardware import device_spec
from jaxbert.models.functional import Params
from jaxbert.plan.roofline import StepCost, least_bytes, moved_by_optimizer, roofline
from jaxbert.train.programs import Program, compute_dtype
from jaxbert.train.run import Run
from jaxbert.train.sharding import platform_of
from jaxbert.train.speed import Speed, training_flops

NUMBERS = (
    *("compile_seconds", "compile_cold_seconds", "compile_warm_seconds", "compilations"),
    *("step_ms_p50", "step_ms_p90", "step_memory_bytes", "peak_memory_bytes", "roofline"),
)
"""What is None in a result without training."""


def time_training(run: Run, options: BenchOptions, say: Callable[[str], None]) -> tuple[dict[str, Any], Params]:
    """Compile and time the step; return the numbers and the parameters that it left."""
    program = run.program
    step, cold, warm = program.train_step(), None, None
    if options.measure_compile is not False:
        say("compiling the step with nothing cached, then again from the cache")
        step, cold, warm = compile_cold_and_warm(program, program.put(next(endless_batches(run))))
    watch = Stopwatch(program, step, Trace(options.profile))
    say(f"compiling what is missing, and timing {options.steps} training steps")
    watch.run(endless_batches(run), options)
    p50, p90 = (round(float(np.percentile(watch.step_seconds, p)) * 1e3, 3) for p in (50, 90))
    numbers = {
        **rates(watch.speed, options),
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


def rates(speed: Speed, options: BenchOptions) -> dict[str, Any]:
    """Return the summary of `speed` under the names of a benchmark, with MFU against the peak that was given, if one was."""
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
    moved = least_bytes(config, moved_by_optimizer(program), row_tokens / devices, itemsize)
    on_cpu = platform_of(program.mesh) == "cpu"  # there the host that starts a step is the device that computes it
    cost = StepCost(
        seconds=speed.elapsed / speed.steps,
        flops=training_flops(config, row_tokens, speed.computed_pairs / speed.steps, program.trainable.backward)
        / devices,
        bytes_moved=max(moved, bytes_accessed(watch.executable) or 0.0),
        input_share=speed.wait_seconds / speed.elapsed,
        dispatch_share=None if on_cpu else watch.dispatch_seconds / speed.elapsed,
    )
    return roofline(cost, *_peaks(options)).to_dict()


def _peaks(options: BenchOptions) -> tuple[float | None, float | None]:
    """Return FLOP/s and bytes/s of one device, as given or else as known."""
    spec = device_spec(jax.devices()[0].device_kind)
    tflops, bandwidth = options.peak_tflops, options.peak_bandwidth
    if spec is not None:
        tflops, bandwidth = tflops or spec.bf16_tflops, bandwidth or spec.bandwidth_gbs
    return None if tflops is None else tflops * 1e12, None if bandwidth is None else bandwidth * 1e9


def bytes_accessed(executable: Any) -> float | None:
    """Return XLA's count of the bytes that a program reads and writes on one device, or None where it has none.

    The body of a compiled loop over layers is counted once, and library kernels on GPU not at all.
    """
    analysis = executable.cost_analysis()
    return analysis.get("bytes accessed") if isinstance(analysis, dict) else None


def step_memory_bytes(executable: Any) -> int | None:
    """Return what a program needs on one device by XLA's own plan: arguments, results and temporary buffers."""
    plan = executable.memory_analysis()
    if plan is None:
        return None
    shared = plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + plan.output_size_in_bytes - shared + plan.temp_size_in_bytes


def peak_memory_bytes() -> int | None:
    """Return the most memory that any device of this process has held, or None where devices do not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks, default=None)
