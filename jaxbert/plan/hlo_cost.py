"""The cost of a compiled program on one device, from its HLO text: FLOPs of matrix products and bytes of collectives."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from jaxbert.plan.hlo import Instruction, arrays_of, closing, count_runs, parse_hlo
from jaxbert.plan.hlo_flops import flops_of

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind among groups of one size."""

    kind: str
    group: int
    """Devices in one group; 0 if the text does not say, 2 for a permutation."""
    result_bytes: int
    sent_bytes: float
    """Bytes that one device sends if each byte goes around a ring once (twice for a sum that all receive)."""
    runs: int


@dataclass(frozen=True)
class HloCost:
    """Sums over one run of the program on one device."""

    flops: float
    """FLOPs of matrix products and convolutions, two per multiply-add, and of kernels that report theirs."""
    collective_bytes: dict[str, int]
    """Result bytes of each kind of collective."""
    traffic: tuple[Traffic, ...]
    """The same traffic by kind and by size of the groups."""
    silent_kernels: int
    """The number of runs of hand-written kernels that do not report their FLOPs."""
    unknown_loops: int
    """The number of loops with unknown rounds; their bodies count once."""


def read_cost(text: str) -> HloCost:
    """Sum the costs of a program."""
    program = parse_hlo(text)
    runs, unknown_loops = count_runs(program)
    flops, silent_kernels = 0.0, 0
    moved: dict[tuple[str, str], Traffic] = {}
    for name, computation in program.items():
        for own_name, instruction in computation.instructions.items():
            known = flops_of(own_name, instruction, computation)
            flops += runs[name] * (known or 0.0)
            silent_kernels += runs[name] * (known is None)
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                # Work that overlaps a collective is fused with a part of it: all parts have the whole's shape and channel.
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                key = kind, channel.group(1) if channel else f"{name}/{own_name}"
                found = _traffic(kind, instruction, runs[name])
                if key not in moved or found.result_bytes > moved[key].result_bytes:
                    moved[key] = found
    traffic = _summed(moved.values())
    collective_bytes = {kind: sum(t.result_bytes for t in traffic if t.kind == kind) for kind in COLLECTIVES}
    return HloCost(flops, collective_bytes, traffic, silent_kernels, unknown_loops)


def _traffic(kind: str, instruction: Instruction, runs: int) -> Traffic:
    group = 2 if kind == "collective-permute" else _group_size(instruction.rest)
    size = runs * _result_bytes(instruction)
    others = (group - 1) / group if group else 1.0
    share = {"all-reduce": 2 * others, "reduce-scatter": max(group - 1.0, 1.0), "collective-permute": 1.0}
    return Traffic(kind, group, size, size * share.get(kind, others), runs)


def _summed(parts: Iterable[Traffic]) -> tuple[Traffic, ...]:
    """Sum the traffic of the same kind and group size."""
    groups: dict[tuple[str, int], list[Traffic]] = defaultdict(list)
    for part in parts:
        if part.runs and part.group != 1:
            groups[part.kind, part.group].append(part)
    return tuple(
        Traffic(*key, sum(t.result_bytes for t in found), sum(t.sent_bytes for t in found), sum(t.runs for t in found))
        for key, found in sorted(groups.items())
    )


def _group_size(attributes: str) -> int:
    """Return the devices per group: listed, as `[GROUPS,SIZE]<=[...]`, or as axes of a mesh; 0 if unknown."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed.group(1).count(",") + 1
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(counted.group(1))
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\][^{}]*\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", meshed.group(1))}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed.group(2))  # a part of an axis: 'name':(OFFSET)SIZE
        return math.prod(int(size) if size else sizes[axis] for axis, size in parts)
    return 0


def _result_bytes(instruction: Instruction) -> int:
    """Return the bytes of a collective's result; some asynchronous ones start with (operands, results, ...)."""
    shape = instruction.shape
    if instruction.opcode in ("all-gather-start", "reduce-scatter-start", "collective-permute-start"):
        if shape.startswith("(("):
            results = shape[1 + closing(shape[1:]) :]
            shape = results[: closing(results)]
        else:
            return arrays_of(shape)[1].bytes
    return sum(array.bytes for array in arrays_of(shape))
