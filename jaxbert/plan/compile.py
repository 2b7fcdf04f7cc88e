"""The cost of one training step on a device, from compiling it: no parameters are made and nothing runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend import source_info_util

from jaxbert.data.batches import Batch, one_row
from jaxbert.data.packing import Layout
from jaxbert.errors import UserError
from jaxbert.models import layers
from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.cudnn import compiling_for
from jaxbert.plan.gpu import compiler_options
from jaxbert.plan.hlo_cost import Traffic, read_cost
from jaxbert.plan.hlo_kernels import KernelCost, moved_bytes, read_kernels
from jaxbert.plan.topology import hbm_bytes
from jaxbert.train.programs import Program
from jaxbert.train.speed import training_flops


class DoesNotFitError(UserError):
    """A step needs more memory than a device has."""

    needed_bytes: float | None = None
    """Bytes that the compiler asked for, at least; None if it did not say."""


@dataclass(frozen=True)
class CompiledStep:
    """The needs of a step; bytes and FLOPs are those of one device."""

    device: str
    devices: int
    rows: int
    """Rows of the step over all devices."""
    row_length: int
    argument_bytes: int
    """Bytes of state and batch."""
    output_bytes: int
    """Bytes of the new state, most of which replaces the old one in place."""
    alias_bytes: int
    """Bytes of output that reuse the memory of an argument."""
    temp_bytes: int
    """Bytes of activations, gradients and other temporary arrays of the step."""
    code_bytes: int
    peak_bytes: int
    """The most bytes that are held at one time, as the compiler planned it."""
    hbm_bytes: int | None
    """Bytes of the device's memory; None if not known."""
    flops: float
    """FLOPs of the compiled matrix products; those in a loop count as often as it runs."""
    counted_flops: float | None
    """FLOPs by XLA's cost analysis: all operations, but the body of a loop counts once. None if the compiler has none."""
    formula_flops: float
    """FLOPs by `training_flops`, if every row were one segment."""
    collective_bytes: dict[str, int]
    """Result bytes of each kind of collective: received data, or sums with other devices."""
    traffic: tuple[Traffic, ...]
    """The same traffic by kind and by size of the groups that exchange data."""
    silent_kernels: int
    """The number of kernel runs whose FLOPs are not in `flops`."""
    unknown_loops: int
    """The number of loops whose body counts once in `flops`, because their number of rounds is not known."""
    kernels: tuple[KernelCost, ...]
    compile_seconds: float

    @property
    def needed_bytes(self) -> int:
        """Bytes that must be free on a device: state, batch, the new part of the results, and temporary buffers."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes

    @property
    def moved_bytes(self) -> float:
        """Bytes that the kernels read and write in the device's memory."""
        return moved_bytes(self.kernels)

    @property
    def kernel_runs(self) -> int:
        """The number of kernels that a step starts."""
        return sum(kernel.runs for kernel in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON; of the kernels their sums alone."""
        numbers = dataclasses.asdict(dataclasses.replace(self, kernels=()))
        return numbers | {"kernels": self.kernel_runs, "moved_bytes": self.moved_bytes}


def compile_step(
    program: Program,
    layout: Layout,
    num_rows: int | None = None,
    *,
    quick: bool = False,
    like: Batch | None = None,
) -> CompiledStep:
    """Compile the training step for the program's mesh, whose devices this machine need not have, and read its cost.

    Args:
      program: the program, with its mesh.
      layout: row length and slots.
      num_rows: rows of a step over all devices; by default the most that the layout allows.
      quick: whether the compiler spends less effort on the program's speed; it then takes slightly more memory. For
        BERT-large libtpu 0.0.42 under jax 0.10.2 took a quarter of the time, for the same FLOPs and collectives and 2% more
        memory.
      like: a batch with the keys of the step's batch; by default a classifier's batch.

    Raises:
      DoesNotFitError: if the step needs more memory than a device has.
    """
    num_rows = num_rows or layout.row_counts[-1]
    # As a run multiplies: see `runtime.multiply_in`.
    exact = jax.default_matmul_precision("float32" if program.config.precision.compute == "float32" else "default")
    with exact, _little_effort() if quick else contextlib.nullcontext():
        compiled, seconds = _compile(program, one_row(layout) if like is None else like, num_rows)
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    assert memory is not None, "compilers for TPU, GPU and CPU tell"
    cost = read_cost(text)
    counted: dict[str, float] = compiled.cost_analysis() or {}  # that for GPUs, without a GPU, does not analyze
    device, devices = program.mesh.devices.flat[0], program.mesh.size
    tokens = num_rows * layout.row_length
    return CompiledStep(
        device=device.device_kind,
        devices=devices,
        rows=num_rows,
        row_length=layout.row_length,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        hbm_bytes=hbm_bytes(device),
        flops=cost.flops,
        counted_flops=counted.get("flops"),
        formula_flops=training_flops(
            program.model.config, tokens, tokens * layout.row_length, program.trainable.backward
        )
        / devices,
        collective_bytes=cost.collective_bytes,
        traffic=cost.traffic,
        silent_kernels=cost.silent_kernels,
        unknown_loops=cost.unknown_loops,
        kernels=tuple(read_kernels(text)),
        compile_seconds=round(seconds, 1),
    )


def _compile(program: Program, like: Batch, num_rows: int) -> tuple[jax.stages.Compiled, float]:
    """Return the compiled step and the seconds of compilation."""
    step, batch = program.train_step(), program.batch_target(like, num_rows)
    device = program.mesh.devices.flat[0]
    options = compiler_options() if device.platform == "gpu" else None
    _show_lines_of_the_model()
    begin = time.perf_counter()
    try:
        with _no_cache(), compiling_for(Hardware.of(device)):
            step.compile(program.state_target, batch, program.arguments_target, options=options)
    except jax.errors.JaxRuntimeError as error:
        raise _out_of_memory(error, program, num_rows) from error
    return step.program(batch), time.perf_counter() - begin


@functools.cache
def _show_lines_of_the_model() -> None:
    """Let an operation's place be the innermost line of jaxbert, and not one in Flax, in optax or in a common layer.

    XLA keeps one line of each operation's stack.
    """
    for library in ("flax", "optax"):
        found = importlib.util.find_spec(library)
        for folder in (found.submodule_search_locations or ()) if found else ():
            source_info_util.register_exclusion(folder)
    source_info_util.register_exclusion(layers.__file__)


@contextlib.contextmanager
def _little_effort() -> Iterator[None]:
    """Make the compiler spend little effort on a program's speed; jax 0.12 has levels instead of the older efforts."""
    has_effort = hasattr(jax.config, "jax_exec_time_optimization_effort")
    name, value = ("jax_exec_time_optimization_effort", -1.0) if has_effort else ("jax_optimization_level", "O1")
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Bypass the persistent cache: without its devices, a program can be stored there but not read again."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _out_of_memory(error: jax.errors.JaxRuntimeError, program: Program, num_rows: int) -> Exception:
    """Turn the compiler's out-of-memory error into a DoesNotFitError; return any other error unchanged."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    device = program.mesh.devices.flat[0].device_kind
    sizes = re.findall(r"\(([\d.]+[KMGT])\)", str(error))
    amount = f"{sizes[0]} of {sizes[1]}" if len(sizes) > 1 else "more than the memory"
    refusal = DoesNotFitError(
        f"a step of {num_rows} rows on {program.mesh.size} x {device} does not fit: it needs {amount}: "
        "lower train.batch_size, or raise train.accumulation_steps or mesh.fsdp"
    )
    if sizes:
        refusal.needed_bytes = float(sizes[0][:-1]) * 1024.0 ** ("KMGT".index(sizes[0][-1]) + 1)
    return refusal
