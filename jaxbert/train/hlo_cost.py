"""What a compiled program does on one device, added up from its HLO text: matrix FLOPs, and bytes of collectives."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jaxbert.train.hlo import Computation, Instruction, closing, count_runs, parse

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}
"""Matrix products of the kernels of splash attention, which do not tell their FLOPs: logits and mixed values; and in the
fused backward pass the logits again, with the gradients of weights, queries, keys and values."""
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\]")


@dataclass(frozen=True)
class HloCost:
    """Sums over one run of the program on one device."""

    flops: float
    """Of matrix products and convolutions, two for each multiply and add, and of kernels that tell theirs."""
    collective_bytes: dict[str, int]
    """Bytes of the results of each kind of collective."""
    silent_kernels: int
    """Runs of hand-written kernels that do not tell their FLOPs."""
    unknown_loops: int
    """Loops whose rounds the text does not tell; their bodies count once."""


def read_cost(text: str) -> HloCost:
    """Add up a program's costs."""
    program = parse(text)
    runs, unknown_loops = count_runs(program)
    flops, silent_kernels = 0.0, 0
    moved: dict[tuple[str, str], int] = {}
    for name, computation in program.items():
        for own_name, instruction in computation.instructions.items():
            known = _flops(own_name, instruction, computation)
            flops += runs[name] * (known or 0.0)
            silent_kernels += runs[name] * (known is None)
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                # What runs beside a collective is fused with a piece of it: all pieces have the whole's shape and channel.
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                key = kind, channel.group(1) if channel else f"{name}/{own_name}"
                moved[key] = max(moved.get(key, 0), runs[name] * _result_bytes(instruction))
    collective_bytes = {kind: sum(b for (k, _), b in moved.items() if k == kind) for kind in COLLECTIVES}
    return HloCost(flops, collective_bytes, silent_kernels, unknown_loops)


def _result_bytes(instruction: Instruction) -> int:
    """Return the size of a collective's result; some asynchronous ones start with (operands, results, ...)."""
    shape = instruction.shape
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        if shape.startswith("(("):
            results = shape[1 + closing(shape[1:]) :]
            shape = results[: closing(results)]
        else:
            return _bytes(*_ARRAY.findall(shape)[1])
    return sum(_bytes(*array) for array in _ARRAY.findall(shape))


def _bytes(dtype: str, sizes: str) -> int:
    """Return the size of an array; a type's name has its width in bits (bf16, f32, s8, f8e4m3fn), but for booleans."""
    width = re.search(r"\d+", dtype)
    return math.prod(_sizes(sizes)) * (int(width.group()) if width else 8) // 8


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def _result_sizes(instruction: Instruction) -> list[int]:
    return _sizes(_ARRAY.findall(instruction.shape)[0][1])


def _operand_sizes(instruction: Instruction, computation: Computation) -> list[list[int]]:
    return [_result_sizes(computation.instructions[name]) for name in instruction.operands[:2]]


def _flops(name: str, instruction: Instruction, computation: Computation) -> float | None:
    """Return the FLOPs of a matrix product, a convolution or a kernel, None for a kernel that is silent, 0 for all else."""
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, *_operand_sizes(instruction, computation))
    if instruction.opcode == "dot":
        left, _ = _operand_sizes(instruction, computation)
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        depth = math.prod(left[axis] for axis in _sizes(contracted.group(1))) if contracted else 1
        return 2.0 * depth * math.prod(_result_sizes(instruction))
    if instruction.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in instruction.rest:
        told = re.search(r'"cost_estimate":\{"flops":"?(\d+)', instruction.rest)
        return float(told.group(1)) if told else _splash_flops(name, instruction, computation)
    return 0.0


def _splash_flops(name: str, instruction: Instruction, computation: Computation) -> float | None:
    """Count the products over whole rows of splash attention; None for other kernels."""
    products = next((count for kernel, count in _SPLASH_PRODUCTS.items() if name.startswith(kernel)), None)
    shapes = (computation.instructions[operand].shape for operand in instruction.operands)
    queries = next((shape for shape in shapes if re.match(r"(bf|f)\d", shape)), None)  # [H, T, K], of one row or more
    if products is None or queries is None:
        return None
    sizes = _sizes(_ARRAY.findall(queries)[0][1])
    return 2.0 * products * math.prod(sizes) * sizes[-2]


def _convolution_flops(instruction: Instruction, left_sizes: list[int], right_sizes: list[int]) -> float:
    """Count the products of a convolution that do not meet padding or a hole.

    On TPU every matrix product is a convolution, and one with batch axes is spread so far that most positions are empty.
    """
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    assert found is not None, "every convolution names its axes"
    sizes = (left_sizes, right_sizes, _result_sizes(instruction))
    left, right, out = (
        dict(zip(labels, size, strict=True)) for labels, size in zip(found.groups(), sizes, strict=True)
    )
    groups = re.search(r"batch_group_count=(\d+)", instruction.rest)
    products = 2.0 * left["b"] // (int(groups.group(1)) if groups else 1) * right["i"] * out["f"]
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    settings = dict(part.split("=") for part in window.group(1).split()) if window else {}
    for axis in range(len(out) - 2):
        of_axis = {name: values.split("x")[axis] for name, values in settings.items()}
        products *= _meetings(left[str(axis)], right[str(axis)], out[str(axis)], of_axis)
    return products


def _meetings(left: int, right: int, out: int, window: dict[str, str]) -> int:
    """Return for how many pairs of an output and a kernel position the input has an entry, along one axis."""
    stride, left_dilation, right_dilation = (int(window.get(k, 1)) for k in ("stride", "lhs_dilate", "rhs_dilate"))
    low = int(window.get("pad", "0_0").split("_")[0])
    positions = (o * stride + k * right_dilation - low for o in range(out) for k in range(right))
    return sum(p % left_dilation == 0 and 0 <= p // left_dilation < left for p in positions)
