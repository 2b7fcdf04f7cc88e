"""A plan: the real training step, compiled for devices that this machine need not have, with its needs and times.

Nothing runs. `fit` finds changes for a step that does not fit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxbert.config import Config
from jaxbert.hardware import Link
from jaxbert.models.attention.select import backend_of
from jaxbert.plan.bounds import BANDWIDTH, PRODUCTS, Bounds, Peaks, bounds, predicted_rate, price, rates
from jaxbert.plan.compile import CompiledStep, DoesNotFitError, compile_step
from jaxbert.plan.hlo_kernels import KernelCost, join_alike
from jaxbert.plan.options import PlanOptions
from jaxbert.plan.roofline import known_peaks, least_bytes, moved_by_optimizer
from jaxbert.plan.target import Target, devices_of
from jaxbert.plan.workload import Material, Workload, find_material, make_workload, stand_in
from jaxbert.train.programs import Program, compute_dtype
from jaxbert.train.sharding import make_mesh, optimizer_bytes, placements, row_devices
from jaxbert.train.speed import training_flops
from jaxbert.versions import installed

_FLOAT32 = 4
_COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin", "jax-cuda12-plugin")}
"""The packages that bring a platform's compiler."""


@dataclass(frozen=True)
class Attempt:
    """A configuration whose step was compiled, or rejected by the compiler."""

    config: Config
    """The configuration, with the choices that replace the target's own."""
    workload: Workload
    step: CompiledStep | None
    needed_bytes: float | None
    """Bytes per device; a lower bound if the compiler rejected the step, None if it did not say."""
    fits: bool | None
    """Whether the step fits; None if the device's memory is not known."""


class Planner:
    """Compiles configurations for one target."""

    def __init__(self, config: Config, target: Target, options: PlanOptions) -> None:
        """Find the devices and the model and lengths of the run.

        Raises:
          UserError: for a mistake in configuration, target or lengths.
        """
        self.config = stand_in(config, target)
        self.target = target
        self.options = options
        self._devices = devices_of(target)
        make_mesh(config.mesh, list(self._devices))  # a mesh that does not fit is reported before any data is read

    @cached_property
    def material(self) -> Material:
        """The model's shape and the lengths, read once."""
        return find_material(self.config, self.options.lengths)

    @property
    def memory_bytes(self) -> float | None:
        """The bytes that a step may use on one device; None if not known."""
        given = self.options.memory_gb
        return self.target.memory_bytes if given is None else given * 1e9

    def workload(self, config: Config) -> Workload:
        """Lay out the step of a configuration without compiling it."""
        return make_workload(config, self.target, self._devices, self.material)

    def attempt(self, config: Config, workload: Workload | None = None) -> Attempt:
        """Compile the step of a configuration."""
        workload = workload or self.workload(config)
        try:
            quick = self.target.platform == "tpu" and not self.options.thorough
            step = compile_step(workload.program, workload.layout, workload.rows, quick=quick, like=workload.batch)
        except DoesNotFitError as refusal:
            return Attempt(config, workload, None, refusal.needed_bytes, fits=False)
        memory = self.memory_bytes
        # A TPU's compiler knows the memory of its chip, and has rejected a step that needs more.
        known = memory is not None and (self.target.platform != "tpu" or self.options.memory_gb is not None)
        fits = None if memory is None else step.needed_bytes <= memory if known else True
        return Attempt(config, workload, step, step.needed_bytes, fits)


def describe_plan(planner: Planner, attempt: Attempt) -> dict[str, Any]:
    """Return all that is known of a step, ready for JSON; None for unknown values."""
    costs = _costs(planner, attempt)
    return {
        **_described(planner, attempt.workload),
        "memory": _memory(planner, attempt),
        "fits": attempt.fits,
        "change": None,
        **costs,
        "sharding": sharding_rows(attempt.workload.program),
        "assumptions": assumptions(planner, costs["bounds"]),
        "versions": installed(("jax", "jaxlib", "flax", "optax", *_COMPILERS.get(planner.target.platform, ()))),
    }


def _described(planner: Planner, work: Workload) -> dict[str, Any]:
    program, layout, target = work.program, work.layout, planner.target
    config = program.config
    return {
        "topology": target.name,
        "device": target.chip,
        "devices": target.devices,
        "estimate": target.stands_in,
        "mesh": dict(program.mesh.shape),
        "model": config.model.name_or_path,
        "parameters": program.parameters,
        "lengths": planner.material.source,
        "batch_size": config.train.batch_size,
        "accumulation_steps": config.train.accumulation_steps,
        "remat": config.model.remat,
        "packing": config.data.packing,
        "precision": jnp.dtype(compute_dtype(config.precision, program.mesh)).name,
        "attention": backend_of(program.call.attention, program.attention_request(layout.row_length)),
        "row_length": layout.row_length,
        "rows": work.rows,
        "slots": layout.slots,
        "examples_per_step": work.examples,
        "real_tokens_per_step": work.tokens,
        "packing_efficiency": round(work.tokens / (work.rows * layout.row_length), 4),
        "total_steps": work.total_steps,
    }


def _memory(planner: Planner, attempt: Attempt) -> dict[str, Any]:
    step = attempt.step
    # XLA for CPU leaves temporaries out of its peak.
    told = step is not None and planner.target.platform != "cpu" and not planner.target.stands_in
    return {
        "state_bytes": state_bytes(attempt.workload.program),
        "argument_bytes": None if step is None else step.argument_bytes,
        "temp_bytes": None if step is None else step.temp_bytes,
        "peak_bytes": step.peak_bytes if step is not None and told else None,
        "needed_bytes": attempt.needed_bytes,
        "available_bytes": planner.memory_bytes,
    }


def _costs(planner: Planner, attempt: Attempt) -> dict[str, Any]:
    """Return FLOPs, collectives, bounds, rates and prices; None if the compiler rejected the step."""
    step, work = attempt.step, attempt.workload
    if step is None:
        names = (
            *("flops", "collectives", "kernels", "bounds", "tokens_per_second", "examples_per_second"),
            *("predicted_tokens_per_second", "cost", "compile_seconds"),
        )
        return dict.fromkeys(names)
    found = bounds_of(step, work.program, planner.target, planner.options)
    bert_config = work.program.model.config
    per_hour = planner.options.cost_per_hour
    return {
        "flops": {
            "compiled": step.flops,
            "formula": step.formula_flops,
            "real_tokens": training_flops(bert_config, work.tokens, work.pairs, work.program.trainable.backward)
            / step.devices,
            "silent_kernels": step.silent_kernels,
            "unknown_loops": step.unknown_loops,
        },
        "collectives": {
            "result_bytes": step.collective_bytes,
            "sent_bytes": sum(part.sent_bytes for part in step.traffic),
            "runs": sum(part.runs for part in step.traffic),
        },
        "kernels": None if planner.target.stands_in else kernel_rows(step, planner.options.kernels),
        "bounds": found.to_dict(),
        "tokens_per_second": rates(found, work.tokens),
        "examples_per_second": rates(found, work.examples),
        "predicted_tokens_per_second": predicted_rate(found, work.tokens),
        "cost": price(
            None if per_hour is None else per_hour * planner.target.devices, found, work.tokens, work.total_steps
        ),
        "compile_seconds": step.compile_seconds,
    }


def bounds_of(step: CompiledStep, program: Program, target: Target, options: PlanOptions) -> Bounds:
    """Bound the time of a compiled step on the target's devices.

    Nothing is predicted where CPU devices stand in, and for formats whose peak is not known.
    """
    precision = program.config.precision
    compute = compute_dtype(precision, program.mesh)
    tokens = step.rows * step.row_length / row_devices(program.mesh)
    least = least_bytes(program.model.config, moved_by_optimizer(program), tokens, jnp.dtype(compute).itemsize)
    peaks = _peaks(target, options, fp8=precision.fp8)
    found = bounds(
        step.flops, least, step.traffic, peaks, options.utilization, None if target.stands_in else step.moved_bytes
    )
    if options.peak_tflops is None and (precision.fp8 or compute == jnp.float32):
        return dataclasses.replace(found, predicted_seconds=None)
    return found


def kernel_rows(step: CompiledStep, number: int) -> dict[str, Any]:
    """Return how many kernels a step starts and what they move, and the `number` largest by bytes and by FLOPs."""
    alike = join_alike(step.kernels)

    def largest(size: Callable[[KernelCost], float]) -> list[dict[str, Any]]:
        found = sorted((kernel for kernel in alike if size(kernel)), key=size, reverse=True)[:number]
        return [dataclasses.asdict(kernel) | {"moved_bytes": kernel.moved_bytes} for kernel in found]

    return {
        "runs": step.kernel_runs,
        "moved_bytes": step.moved_bytes,
        "by_bytes": largest(lambda kernel: kernel.moved_bytes),
        "by_flops": largest(lambda kernel: kernel.flops or 0.0),
    }


def _peaks(target: Target, options: PlanOptions, *, fp8: bool) -> Peaks:
    """Return the device's peaks: the given values, or else the known ones; that of float8 products is twice bfloat16's."""
    link = target.link
    if options.link_bandwidth is not None:
        given = link or Link(target.chip, 0.0, 0, None, None, 0.0, "")
        link = dataclasses.replace(given, sent_gbs=options.link_bandwidth)
    flops, bandwidth = known_peaks(target.spec, options.peak_tflops, options.peak_bandwidth)
    if fp8 and flops is not None and options.peak_tflops is None:
        flops *= 2
    return Peaks(flops, bandwidth, link, target.sizes)


def state_bytes(program: Program) -> int:
    """Return the bytes of parameters and optimizer state on one device; exact for any compiler."""
    leaves = jax.tree.leaves(program.state_target)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def sharding_rows(program: Program) -> list[dict[str, Any]]:
    """Return one row per parameter: the rule that matched it, and its part on one device."""
    kept = optimizer_bytes(program.state_target)
    return [
        {
            "rule": placed.pattern,
            "parameter": placed.name,
            "spec": list(placed.spec),
            "shape": list(placed.shape),
            "device_shape": list(placed.device_shape),
            "device_bytes": _FLOAT32 * math.prod(placed.device_shape),
            "device_bytes_with_moments": _FLOAT32 * math.prod(placed.device_shape) + kept.get(placed.name, 0),
        }
        for placed in placements(program.mesh, program.model.abstract_params)
    ]


def assumptions(planner: Planner, found: dict[str, Any] | None) -> list[str]:
    """Return the assumptions of the numbers, one per line; `found` are the bounds, or None if the step was refused."""
    target, link = planner.target, planner.target.link
    lines = [
        "nothing was run: every time, rate and price is predicted from data sheets, and waiting for data is left out"
    ]
    if target.platform == "tpu":
        effort = "as for a run" if planner.options.thorough else "with its least effort (--thorough true: as for a run)"
        lines.append(f"memory, FLOPs and collectives are those of the program that libtpu compiled, {effort}")
    if target.platform == "gpu":
        lines += _gpu_assumptions(target)
    if compute_name(planner) == "float32" and target.platform != "cpu":
        lines.append("the peak is that of bfloat16 products: float32 cannot come near the lower bound")
    if planner.config.precision.fp8 and planner.options.peak_tflops is None:
        lines.append("the peak is that of float8, twice that of bfloat16, in which a part of the products stays")
    if link is not None:
        lines.append(f"links: {link.sent_gbs:g} GB/s sent by a device ({link.source})")
        each = "hop of a collective" if link.axes else "collective"
        lines.append(f"upper bound: ASSUMED {link.delay_us:g} microseconds for each {each}")
    share = planner.options.utilization
    lines.append(f"upper bound: ASSUMED {share:.0%} of each peak, with nothing overlapping; lower bound: all overlaps")
    if found is not None and found["predicted_seconds"] is not None:
        lines.append(
            f"prediction: ASSUMED products at {PRODUCTS:.0%} of the peak (90% of the 80% that large products reach) and the "
            f"bytes of all kernels at {BANDWIDTH:.0%} of the bandwidth, with nothing overlapping"
        )
    return lines


def _gpu_assumptions(target: Target) -> list[str]:
    lines = ["a step may use the share of a GPU's memory that JAX takes (XLA_PYTHON_CLIENT_MEM_FRACTION, 0.75)"]
    if target.lacks:
        return [
            "ESTIMATE: memory and collectives are those of a program for CPU devices in the place of the GPUs, with "
            "attention by plain products and with saved activations; parameters and state are exact; float8 is left out",
            f"the GPUs' own compiler was not used: {target.lacks}",
            *lines,
        ]
    return [
        "memory, kernels, their bytes, FLOPs and collectives are those of the program that XLA compiled for these GPUs; "
        "without a GPU it cannot time products, so their tiles are not tuned, which changes memory and bytes little",
        *lines,
    ]


def compute_name(planner: Planner) -> str:
    """Return the number format of the matrix products."""
    compute = planner.config.precision.compute
    return ("float32" if planner.target.platform == "cpu" else "bfloat16") if compute == "auto" else compute


def make_plan(
    config: Config, target: Target, options: PlanOptions, say: Callable[[str], None] = lambda _: None
) -> tuple[Planner, Attempt]:
    """Compile the step of a configuration for a target.

    Raises:
      UserError: for a mistake in configuration, target or lengths.
    """
    planner = Planner(config, target, options)
    say("reading lengths")
    workload = planner.workload(planner.config)
    shape = f"{workload.rows} x {workload.layout.row_length}"
    say(f"compiling the step of {shape} tokens for {target.devices} x {target.chip}")
    return planner, planner.attempt(planner.config, workload)
