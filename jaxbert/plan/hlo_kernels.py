"""The kernels of a compiled program, with the bytes that each reads and writes in the device's memory.

A kernel is an instruction of the optimized program that runs by itself: a fusion, a product, a custom call, a copy. It reads
each operand once and writes each result once. A fusion that takes only slices of an operand reads these slices, and one that
updates a part of a buffer in place writes this part. Caches are not considered: neither that a kernel finds in one what the
kernel before it wrote, nor that it reads an operand several times. Arrays in a TPU's on-chip memory count nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from jaxbert.plan.hlo import Computation, Instruction, Program, arrays_of, called_by, count_runs, parse_hlo
from jaxbert.plan.hlo_flops import flops_of

_NO_KERNEL = frozenset(
    ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id")
) | {"domain", "opt-barrier", "add-dependency"}
"""Instructions that move nothing: names for values that exist, or for parts of them."""
_CALLERS = frozenset(("while", "conditional", "call", "async-start"))
"""Instructions whose computations are made of kernels themselves."""
_NEW_BUFFER = 'custom_call_target="AllocateBuffer"'
"""A custom call that only names memory, which something else fills."""
_SLICING = frozenset(("dynamic-slice", "slice", "gather"))
_RENAMING = frozenset(("bitcast", "reshape", "transpose", "get-tuple-element"))
_PASSING = _RENAMING | {"convert", "copy"}
"""Instructions inside a fusion that compute only what is read of their result: an operand passes through to a slice."""
_WRITTEN_PARTS = {"packed_attention_query": Fraction(1, 3), "packed_attention_key": Fraction(2, 3)}
"""The kernels of jaxbert that write a part of their first result, [B, T, 3, H, K], and leave the others as they are."""
_FUSED_AXES = 5


@dataclass(frozen=True)
class KernelCost:
    """All runs of one kernel in one run of the program on one device."""

    name: str
    runs: int
    read_bytes: float
    """Bytes that all runs read."""
    written_bytes: float
    flops: float | None
    """FLOPs of the matrix products of all runs; None if the kernel does not report them."""
    kind: str
    """The opcode; for a custom call, its target."""
    operation: str
    """The name of the JAX operation in which it began, empty if the compiler made it."""
    place: str
    """File, line and function of the operation, `models/encoder.py:193 BertIntermediate.__call__`; empty if not known."""

    @property
    def moved_bytes(self) -> float:
        """Bytes read and written by all runs."""
        return self.read_bytes + self.written_bytes


def read_kernels(text: str) -> list[KernelCost]:
    """Return the kernels of a program from its optimized HLO text, in the order of the text.

    Those of a loop's condition, which look at some numbers, are left out; those of both branches of a conditional count.
    """
    program = parse_hlo(text)
    runs, _ = count_runs(program)
    places = _Places(text)
    return [
        _kernel(name, instruction, program[caller], program, runs[caller], places)
        for caller in _walked(program)
        for name, instruction in program[caller].instructions.items()
        if runs[caller] and _is_kernel(instruction)
    ]


def moved_bytes(kernels: Iterable[KernelCost]) -> float:
    """Return the bytes that all kernels read and write."""
    return sum(kernel.moved_bytes for kernel in kernels)


def join_alike(kernels: Iterable[KernelCost]) -> list[KernelCost]:
    """Join kernels that are the same in every layer: of one line, operation and kind, of equal size, with numbered names."""
    joined: dict[tuple, KernelCost] = {}
    for kernel in kernels:
        name = re.sub(r"[.\d]+$", "", kernel.name)
        flops = kernel.flops if kernel.flops is None else kernel.flops / kernel.runs
        key = name, kernel.kind, kernel.operation, kernel.place, kernel.moved_bytes / kernel.runs, flops
        if (found := joined.get(key)) is None:
            joined[key] = dataclasses.replace(kernel, name=name)
        else:
            joined[key] = dataclasses.replace(
                found,
                runs=found.runs + kernel.runs,
                read_bytes=found.read_bytes + kernel.read_bytes,
                written_bytes=found.written_bytes + kernel.written_bytes,
                flops=None if found.flops is None or kernel.flops is None else found.flops + kernel.flops,
            )
    return list(joined.values())


def _walked(program: Program) -> list[str]:
    """Return the computations whose instructions are kernels: the entry, and those that loops, branches and calls run."""
    found = [next(reversed(program))]
    for name in found:
        for instruction in program[name].instructions.values():
            if instruction.opcode in _CALLERS:
                found += [name for how, name in called_by(instruction) if how != "condition" and name not in found]
    return found


def _is_kernel(instruction: Instruction) -> bool:
    opcode = instruction.opcode
    if opcode in _NO_KERNEL or opcode in _CALLERS or opcode.endswith(("-done", "-update")):
        return False
    return _NEW_BUFFER not in instruction.rest


def _kernel(
    name: str, instruction: Instruction, computation: Computation, program: Program, runs: int, places: _Places
) -> KernelCost:
    read, written = _traffic(instruction, computation, program)
    flops = _flops(name, instruction, computation, program)
    target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
    operation, place = places.of(instruction)
    return KernelCost(
        name=name,
        runs=runs,
        read_bytes=float(runs * read),
        written_bytes=float(runs * written),
        flops=None if flops is None else runs * flops,
        kind=target.group(1) if target else instruction.opcode,
        operation=operation,
        place=place,
    )


def _flops(name: str, instruction: Instruction, computation: Computation, program: Program) -> float | None:
    """Return the FLOPs of one run, those inside a fusion and its inner fusions included."""
    if instruction.opcode != "fusion":
        return flops_of(name, instruction, computation)
    inside = _fused(instruction, program)
    return sum(_flops(inner, part, inside, program) or 0.0 for inner, part in inside.instructions.items())


def _fused(fusion: Instruction, program: Program) -> Computation:
    return program[called_by(fusion)[0][1]]


def _traffic(instruction: Instruction, computation: Computation, program: Program) -> tuple[int, int]:
    """Return the bytes that one run of a kernel reads and writes."""
    operands = [
        computation.instructions[name].shape for name in instruction.operands if name in computation.instructions
    ]
    opcode, result = instruction.opcode, instruction.shape
    if opcode == "fusion":
        inside = _fused(instruction, program)
        return sum(_fused_reads(inside, operands, program)), _fused_writes(inside, result, program)
    if opcode == "slice-start":  # (operand, result, ...), each perhaps a tuple
        part = arrays_of(result)[1]
        return _part_bytes(operands[0], part.entries), part.main_bytes()
    if opcode in _SLICING:
        return _part_bytes(operands[0], _count(result)), _size(result)
    if opcode in ("dynamic-update-slice", "scatter"):
        update = operands[1 if opcode == "dynamic-update-slice" else 2]
        return _size(update), _part_bytes(operands[0], _count(update))
    if opcode == "custom-call":
        return _call_traffic(instruction, computation)
    read = sum(map(_size, operands))
    if opcode.endswith("-start") and opcode != "all-reduce-start":  # its result holds the operands too
        return read, max(_size(result) - read, 0)
    return read, _size(result)


def _call_traffic(instruction: Instruction, computation: Computation) -> tuple[int, int]:
    """Return the bytes that a custom call reads and writes: an operand that it gets several times is read once."""
    begin = instruction.rest.find("output_to_operand_aliasing={")
    aliases = instruction.rest[begin : instruction.rest.find("}, ", begin)] if begin >= 0 else ""
    updated = {int(number) for number in re.findall(r": \((\d+),", aliases)}
    read = {name for number, name in enumerate(instruction.operands) if number not in updated}
    written = arrays_of(_without_workspace(instruction))
    kernel = re.search(r'\bname = "([^"]*)"', instruction.rest)
    parts = _WRITTEN_PARTS.get(kernel.group(1) if kernel else "", 1)
    sizes = [array.main_bytes() for array in written]
    if written and len(written[0].sizes) == _FUSED_AXES:
        sizes[0] = int(sizes[0] * parts)
    return sum(_size(computation.instructions[name].shape) for name in read), sum(sizes)


def _without_workspace(instruction: Instruction) -> str:
    """Return the type of a result without the scratch memory that NVIDIA's libraries list beside it."""
    if 'custom_call_target="__cu' in instruction.rest and instruction.shape.startswith("("):
        return re.sub(r"\b[su]8\[\d+\](\{[^}]*\})?\)$", ")", instruction.shape)
    return instruction.shape


def _fused_reads(inside: Computation, operands: list[str], program: Program) -> list[int]:
    """Return the bytes that a fusion reads of each operand."""
    parts = [_read_count(inside, name, program) for name in _parameters(inside)[: len(operands)]]
    return [
        _size(shape) if part is None else min(_part_bytes(shape, part), _size(shape))
        for part, shape in zip(parts, operands, strict=True)
    ]


def _parameters(inside: Computation) -> list[str]:
    """Return the names of a computation's parameters in their order."""
    numbered = {
        int(part.rest.split(")")[0]): name for name, part in inside.instructions.items() if part.opcode == "parameter"
    }
    return [numbered[number] for number in sorted(numbered)]


def _read_count(inside: Computation, name: str, program: Program) -> int | None:
    """Return how many numbers of a value are read, or None if all are."""
    if name == inside.root:
        return None
    total = 0
    for user_name, user in inside.instructions.items():
        if name in user.operands:
            part = _read_by(user_name, user, name, inside, program)
            if part is None:
                return None
            total += part
    return total


def _read_by(user_name: str, user: Instruction, name: str, inside: Computation, program: Program) -> int | None:
    """Return how many numbers of a value one instruction of a fusion reads, or None if all are."""
    if user.opcode == "fusion":
        inner = _fused(user, program)
        found = [
            _read_count(inner, parameter, program)
            for parameter, operand in zip(_parameters(inner), user.operands, strict=True)
            if operand == name
        ]
        return None if None in found else sum(part or 0 for part in found)
    if user.opcode in _PASSING:
        return _read_count(inside, user_name, program)
    if user.operands[0] != name or name in user.operands[1:]:
        return None
    if user.opcode in _SLICING:
        return _count(user.shape)
    if user.opcode == "dynamic-update-slice":
        return 0  # the rest of the buffer stays as it is
    return _count(inside.instructions[user.operands[2]].shape) if user.opcode == "scatter" else None


def _fused_writes(inside: Computation, shape: str, program: Program) -> int:
    """Return the bytes that a fusion with a result of this type writes: of a buffer updated in place, the new part."""
    root = inside.instructions[inside.root]
    results = root.operands if root.opcode == "tuple" else (inside.root,)
    arrays = arrays_of(shape)
    if len(arrays) != len(results):
        return _size(shape)
    return sum(
        array.main_bytes(_updated_count(inside, name, program)) for name, array in zip(results, arrays, strict=True)
    )


def _updated_count(inside: Computation, name: str, program: Program) -> int | None:
    """Return how many numbers of a buffer are replaced in place; None if the value is not a buffer from outside."""
    found = inside.instructions[name]
    while found.opcode in _RENAMING and found.operands[0] in inside.instructions:
        found = inside.instructions[found.operands[0]]
    if found.opcode == "parameter":
        return 0
    if found.opcode == "fusion":
        inner = _fused(found, program)
        return _updated_count(inner, inner.root, program)
    update = {"dynamic-update-slice": 1, "scatter": 2}.get(found.opcode)
    before = None if update is None else _updated_count(inside, found.operands[0], program)
    return (
        None if update is None or before is None else before + _count(inside.instructions[found.operands[update]].shape)
    )


def _size(shape: str) -> int:
    """Return the bytes of all arrays of a type that lie in the device's main memory."""
    return sum(array.main_bytes() for array in arrays_of(shape))


def _part_bytes(shape: str, count: int) -> int:
    """Return the bytes of so many numbers of an array, if it lies in the device's main memory."""
    return arrays_of(shape)[0].main_bytes(count)


def _count(shape: str) -> int:
    """Return the number of entries of an array."""
    return arrays_of(shape)[0].entries


class _Places:
    """The lines of the source, from the tables at the beginning of a program's text."""

    def __init__(self, text: str) -> None:
        self._tables = {
            name: _table(text, name) for name in ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
        }

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
            location = self._tables["FileLocations"].get(
                _field(self._tables["StackFrames"][frame], "file_location_id"), ""
            )
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
