"""The FLOPs of one instruction of a compiled program: matrix products, convolutions, and kernels that XLA only calls."""

from __future__ import annotations

import math
import re

from jaxbert.plan.hlo import Computation, Instruction, arrays_of, sizes_of

_Table = dict[str, tuple[int, int]]
_SPLASH: _Table = {"splash_mha_fwd": (2, -2), "splash_mha_dkv": (5, -2)}
"""Splash attention's kernels by the beginning of their names: how many products of T x T x K there are, and the axis of T in
the queries. They are logits and mixed values; in the fused backward pass the logits again, and the gradients of weights,
queries, keys and values."""
_TRITON: _Table = {
    "packed_attention_forward": (2, -3),
    "packed_attention_query": (3, -3),
    "packed_attention_key": (4, -3),
    "residual_norm_": (0, -1),
}
"""Jaxbert's own kernels, in the same way; those without products only move bytes."""
_CUBLAS = ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8")
_WITHOUT_PRODUCTS = re.compile(r"[A-Z]\w*|annotate_device_placement|cu_threefry2x32_ffi|__cub\$.*")
"""Targets of custom calls that multiply nothing: XLA's marks and simple operations have names in capitals, such as TopK."""


def flops_of(name: str, instruction: Instruction, computation: Computation) -> float | None:
    """Return the FLOPs of a matrix product, convolution or kernel, None for a kernel that does not report them, else 0."""
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, *_operand_sizes(instruction, computation))
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        return _product_flops(instruction, computation, contracted.group(1) if contracted else "")
    return _call_flops(name, instruction, computation) if instruction.opcode == "custom-call" else 0.0


def _call_flops(name: str, instruction: Instruction, computation: Computation) -> float | None:
    """Return the FLOPs of a custom call; None if its kernel is not known."""
    found = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
    target = found.group(1) if found else ""
    if target == "tpu_custom_call":
        told = re.search(r'"cost_estimate":\s*\{"flops":\s*"?(\d+)', instruction.rest)
        return float(told.group(1)) if told else _attention_flops(name, _SPLASH, instruction, computation)
    if target == "__gpu$xla.gpu.triton":
        kernel = re.search(r'\bname = "([^"]*)"', instruction.rest)
        return _attention_flops(kernel.group(1) if kernel else "", _TRITON, instruction, computation)
    if target in _CUBLAS:
        contracted = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', instruction.rest)
        return _product_flops(instruction, computation, contracted.group(1).replace('"', "")) if contracted else None
    if target.startswith("__cudnn$fmha"):
        return _cudnn_flops(5 if "Backward" in target else 2, instruction, computation)
    return 0.0 if _WITHOUT_PRODUCTS.fullmatch(target) else None


def _product_flops(instruction: Instruction, computation: Computation, contracted: str) -> float:
    """Return the FLOPs of a matrix product, from the contracted axes of its left operand."""
    left, _ = _operand_sizes(instruction, computation)
    return 2.0 * math.prod(left[axis] for axis in sizes_of(contracted)) * math.prod(_result_sizes(instruction))


def _attention_flops(kernel: str, table: _Table, instruction: Instruction, computation: Computation) -> float | None:
    """Return the FLOPs of a kernel of the table over whole rows; None for other kernels."""
    products, axis = next((found for name, found in table.items() if kernel.startswith(name)), (None, 0))
    if products == 0:
        return 0.0
    shapes = (computation.instructions[operand].shape for operand in instruction.operands)
    queries = next((shape for shape in shapes if re.match(r"(bf|f)\d", shape)), None)  # of one row or more
    if products is None or queries is None:
        return None
    sizes = list(arrays_of(queries)[0].sizes)
    if len(sizes) == 5:  # keys, values and queries in one array, [B, T, 3, H, K]
        del sizes[2]
    return 2.0 * products * math.prod(sizes) * sizes[axis]


def _cudnn_flops(products: int, instruction: Instruction, computation: Computation) -> float | None:
    """Return the FLOPs of cuDNN's attention, from the shape of the weights, [B, H, T, T], that its configuration has."""
    weights = re.search(r'"intermediate_tensor_shape":\s*\{[^{}]*"dimensions":\s*\[([^\]]*)\]', instruction.rest)
    if weights is None:
        return None
    queries, _ = _operand_sizes(instruction, computation)
    return 2.0 * products * math.prod(sizes_of(weights.group(1).replace('"', ""))) * queries[-1]


def _result_sizes(instruction: Instruction) -> tuple[int, ...]:
    return arrays_of(instruction.shape)[0].sizes


def _operand_sizes(instruction: Instruction, computation: Computation) -> list[tuple[int, ...]]:
    return [_result_sizes(computation.instructions[name]) for name in instruction.operands[:2]]


def _convolution_flops(instruction: Instruction, left_sizes: tuple[int, ...], right_sizes: tuple[int, ...]) -> float:
    """Return the FLOPs of a convolution without the products of padding and holes.

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
    """Return the number of pairs of output and kernel positions at which the input has an entry, along one axis."""
    stride, left_dilation, right_dilation = (int(window.get(k, 1)) for k in ("stride", "lhs_dilate", "rhs_dilate"))
    low = int(window.get("pad", "0_0").split("_")[0])
    positions = (o * stride + k * right_dilation - low for o in range(out) for k in range(right))
    return sum(p % left_dilation == 0 and 0 <= p // left_dilation < left for p in positions)
