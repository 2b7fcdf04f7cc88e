"""The kernels of a compiled program, with the bytes that each reads and writes in the device's memory.

A kernel is an instruction of the optimized program that runs by itself: a fusion, a product, a custom call, a copy. It reads
each operand once and writes each result once; a fusion that only takes slices of an operand reads these slices, and one that
updates a part of a buffer in place writes this part. Caches are not considered, and a kernel that reads an operand several
times counts it once, so the sum is an estimate: what a kernel moves at least if nothing is left in a cache from the one before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jaxbert.plan.hlo import Computation, Instruction, Program, count_runs, parse_hlo
from jaxbert.plan.hlo_cost import flops_of

_NO_KERNEL = frozenset(
    ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id", "domain")
    + ("opt-barrier", "add-dependency")
)
"""Instructions that move nothing: names for values that exist, or for parts of them."""
_CALLERS = frozenset(("while", "conditional", "call", "async-start"))
"""Instructions whose computations are made of kernels themselves."""
_SLICING = frozenset(("dynamic-slice", "slice", "gather"))
_RENAMING = frozenset(("bitcast", "reshape", "get-tuple-element", "transpose"))
"""Instructions inside a fusion through which an operand passes on its way to a slice."""
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_ON_CHIP = re.compile(r"S\([1-4]\)")
"""The memory space of an array in a TPU's vector or scalar memory; 5 is the host's."""


@dataclass(frozen=True)
class Kernel:
    """All runs of one kernel in one run of the program on one device."""

    name: str
    runs: int
    read_bytes: float
    """Bytes that all runs read."""
    written_bytes: float
    flops: float
    """FLOPs of the matrix products of all runs."""
    kind: str
    """The opcode; for a custom call, its target."""
    operation: str
    """The name of the JAX operation in which it began, empty if the compiler made it."""
    place: str
    """File, line and function of the operation, `layers.py:112 dropout`; empty if not known."""

    @property
    def bytes_moved(self) -> float:
        """Bytes read and written by all runs."""
        return self.read_bytes + self.written_bytes


def read_kernels(text: str) -> list[Kernel]:
    """Return the kernels of a program from its optimized HLO text, in the order of the text."""
    program = parse_hlo(text)
    runs, _ = count_runs(program)
    places = _Places(text)
    kernels = []
    for computation_name in _walked(program):
        computation = program[computation_name]
        for name, instruction in computation.instructions.items():
            if runs[computation_name] and _is_kernel(instruction):
                kernels.append(_kernel(name, instruction, computation, program, runs[computation_name], places))
    return kernels


def moved_bytes(kernels: Iterable[Kernel]) -> float:
    """Return the bytes that all kernels read and write."""
    return sum(kernel.bytes_moved for kernel in kernels)


def _walked(program: Program) -> list[str]:
    """Return the computations whose instructions are kernels: the entry, and those that loops, branches and calls run."""
    found = [next(reversed(program))]
    for name in found:
        for instruction in program[name].instructions.values():
            if instruction.opcode in _CALLERS:
                found += [called for called in _called(instruction) if called in program and called not in found]
    return found


def _called(instruction: Instruction) -> list[str]:
    pattern = r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    return re.findall(pattern, instruction.rest) + (re.findall(r"[\w.\-]+", branches.group(1)) if branches else [])


def _is_kernel(instruction: Instruction) -> bool:
    opcode = instruction.opcode
    return not (opcode in _NO_KERNEL or opcode in _CALLERS or opcode.endswith(("-done", "-update")))


def _kernel(
    name: str, instruction: Instruction, computation: Computation, program: Program, runs: int, places: _Places
) -> Kernel:
    fused = program[_called(instruction)[0]] if instruction.opcode == "fusion" else None
    read, written = _traffic(instruction, computation, fused)
    flops = flops_of(name, instruction, computation) or 0.0
    if fused is not None:
        flops += sum(flops_of(inner, part, fused) or 0.0 for inner, part in fused.instructions.items())
    target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
    operation, place = places.of(instruction)
    return Kernel(
        name=name,
        runs=runs,
        read_bytes=float(runs * read),
        written_bytes=float(runs * written),
        flops=runs * flops,
        kind=target.group(1) if target else instruction.opcode,
        operation=operation,
        place=place,
    )


def _traffic(instruction: Instruction, computation: Computation, fused: Computation | None) -> tuple[int, int]:
    """Return the bytes that one run of a kernel reads and writes."""
    operands = [computation.instructions[name].shape for name in instruction.operands if name in computation.instructions]
    if fused is not None:
        return sum(_fused_reads(fused, operands)), _fused_writes(fused)
    opcode = instruction.opcode
    if opcode in _SLICING:
        return _size(instruction.shape), _size(instruction.shape)
    if opcode == "dynamic-update-slice":
        return _size(operands[1]), _size(operands[1])
    if opcode.endswith("-start"):  # its result holds the operands too
        size = sum(map(_size, operands))
        return size, max(_size(instruction.shape) - size, 0)
    if opcode in ("iota", "broadcast", "rng-bit-generator"):
        return 0, _size(instruction.shape)
    return sum(map(_size, operands)), _size(_without_workspace(instruction))


def _without_workspace(instruction: Instruction) -> str:
    """Return the type of a result without the scratch memory that NVIDIA's libraries list beside it."""
    if 'custom_call_target="__cu' in instruction.rest and instruction.shape.startswith("("):
        return re.sub(r"\b[su]8\[\d+\](\{[^}]*\})?\)$", ")", instruction.shape)
    return instruction.shape


def _fused_reads(fused: Computation, operands: list[str]) -> list[int]:
    """Return the bytes that a fusion reads of each operand."""
    numbers = {
        int(part.rest.split(")")[0]): name for name, part in fused.instructions.items() if part.opcode == "parameter"
    }
    return [
        _size(shape) if (part := _read_part(fused, numbers[number])) is None else min(part, _size(shape))
        for number, shape in enumerate(operands)
        if number in numbers
    ]


def _read_part(fused: Computation, name: str) -> int | None:
    """Return the bytes of the slices that are all that is read of a value, or None if all of it is read."""
    total = 0
    for user_name, user in fused.instructions.items():
        if name not in user.operands:
            continue
        if user.opcode in _SLICING and user.operands[0] == name:
            total += _size(user.shape) * (name not in user.operands[1:] or 1)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name and name not in user.operands[1:]:
            continue  # the rest of the buffer stays as it is
        elif user.opcode in _RENAMING and (part := _read_part(fused, user_name)) is not None:
            total += part
        else:
            return None
    return total if any(name in user.operands for user in fused.instructions.values()) else 0


def _fused_writes(fused: Computation) -> int:
    """Return the bytes that a fusion writes: of a result that updates a part of a buffer in place, this part."""
    root = fused.instructions[fused.root]
    results = root.operands if root.opcode == "tuple" else (fused.root,)
    return sum(_written(fused, name) for name in results)


def _written(fused: Computation, name: str) -> int:
    whole = fused.instructions[name]
    found = whole
    while found.opcode in _RENAMING and found.operands[0] in fused.instructions:
        found = fused.instructions[found.operands[0]]
    if found.opcode == "dynamic-update-slice":
        return _size(fused.instructions[found.operands[1]].shape)
    return 0 if whole.opcode == "parameter" else _size(whole.shape)


def _size(shape: str) -> int:
    """Return the bytes of all arrays of a type that lie in the device's main memory."""
    return sum(
        math.prod(int(size) for size in sizes.split(",") if size) * _bits(dtype) // 8
        for dtype, sizes, layout in _ARRAY.findall(shape)
        if not _ON_CHIP.search(layout)
    )


def _bits(dtype: str) -> int:
    """Return the bits of a number; a type's name contains them (bf16, f32, s8, f8e4m3fn), except for booleans."""
    width = re.search(r"\d+", dtype)
    return int(width.group()) if width else 0 if dtype in ("token", "opaque") else 8


class _Places:
    """The lines of the source, from the tables at the beginning of a program's text."""

    def __init__(self, text: str) -> None:
        self._tables = {name: _table(text, name) for name in ("FileNames", "FunctionNames", "FileLocations", "StackFrames")}

    def of(self, instruction: Instruction) -> tuple[str, str]:
        """Return the name of an instruction's operation, and its file, line and function."""
        operation = re.search(r'op_name="((?:[^"\\]|\\.)*)"', instruction.rest)
        frame = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        if frame:
            place = self._place(frame.group(1))
        else:
            written = re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.rest)
            place = f"{_short(written.group(1))}:{written.group(2)}" if written else ""
        return operation.group(1) if operation else "", place

    def _place(self, frame: str) -> str:
        """Return the innermost line in jaxbert of a stack, or its innermost line."""
        innermost, seen = "", set()
        while frame in self._tables["StackFrames"] and frame not in seen:
            seen.add(frame)
            location = self._tables["FileLocations"].get(_field(self._tables["StackFrames"][frame], "file_location_id"), "")
            path = self._tables["FileNames"].get(_field(location, "file_name_id"), "").strip('"')
            function = self._tables["FunctionNames"].get(_field(location, "function_name_id"), "").strip('"')
            here = f"{_short(path)}:{_field(location, 'line')} {function.split('.<locals>')[0]}"
            innermost = innermost or here
            if "/jaxbert/" in path:
                return here
            frame = _field(self._tables["StackFrames"][frame], "parent_frame_id")
        return innermost


def _table(text: str, name: str) -> dict[str, str]:
    begin = text.find(f"\n{name}\n")
    if begin < 0:
        return {}
    lines = text[begin + len(name) + 2 :].split("\n\n", 1)[0].splitlines()
    return dict(line.split(" ", 1) for line in lines if " " in line)


def _field(entry: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\d+)", entry)
    return found.group(1) if found else ""


def _short(path: str) -> str:
    _, inside, rest = path.rpartition("/jaxbert/")
    return rest if inside else path.rpartition("/")[2]
