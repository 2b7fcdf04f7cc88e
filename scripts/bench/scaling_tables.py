"""The tables of predicted scaling, and their place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
MARK, END = "<!-- scaling:begin -->", "<!-- scaling:end -->"
GIB = 2**30
# Measured, docs/data.md: a million rows of 12.3 tokens, processor seconds of one core.
_TOKENS_A_ROW, _TOKENIZING, _PACKING = 12.3, 34.8, 1.1
_ID_BYTES = 4
_HOST_CHIPS = 4
_HEAD = (
    *("model", "slice", "chips", "scaling", "rows a chip", "peak, GiB of", "compute, ms", "memory, ms"),
    *("interconnect, ms", "step, ms", "million tokens/s", "efficiency", "compiled in, s"),
)
_LIMITS = (
    *("model", "slice", "million tokens/s", "cores that tokenize as fast", "cores that pack as fast"),
    *("tokens from the cache, GB/s", "a host, MB/s", "checkpoint, GB", "chip hours while compiling"),
)


def rows_of(content: Result, kind: str) -> list[Result]:
    """Return the points of one kind of scaling, with each bound's `efficiency` against the first slice of the series."""
    first: dict[tuple[str, str], Result] = {}
    found = []
    for point in content["points"].values():
        if "error" in point or kind not in point["kinds"]:
            continue
        start = first.setdefault((point["model"], point["chip"]), point)
        efficiency = [_a_chip(point, end) / _a_chip(start, end) for end in ("upper_seconds", "lower_seconds")]
        found.append(point | {"efficiency": efficiency})
    return found


def _a_chip(point: Result, end: str) -> float:
    return point["tokens"] / point[end] / point["chips"]


def tokens_per_second(point: Result) -> tuple[float, float]:
    """Return the lowest and the highest tokens per second."""
    return point["tokens"] / point["upper_seconds"], point["tokens"] / point["lower_seconds"]


def document_block(content: Result, missing: Sequence[str] = ()) -> str:
    """Return chart, tables and their assumptions; `missing` are points that the results lack."""
    about = content.get("about", {})
    failed = [f"- {name}: {point['error']}" for name, point in content["points"].items() if "error" in point]
    waiting = [f"- not compiled yet: {', '.join(missing)}"] if missing else []
    parts = [
        "![PREDICTED tokens a second over the number of chips](images/scaling.png)",
        "PREDICTED, none of it measured on a TPU. `step` goes from the lower bound of its time to the upper, `million "
        "tokens/s` and `efficiency` (a chip's rate against the first slice's) from what the upper bound gives to what the "
        "lower gives, `interconnect` from all links at once to one dimension with waiting.",
        _table(_HEAD, [_scaling_row(point, kind) for kind in ("weak", "strong") for point in rows_of(content, kind)]),
        "What the host side would have to give at the largest slice (weak scaling), at the lower bound of the step's time:",
        _table(_LIMITS, [_limit_row(point) for point in _largest(content)]),
        "\n".join([*failed, *waiting, *(f"- {name}: {value}" for name, value in about.items())]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scaling_row(point: Result, kind: str) -> list[str]:
    mesh = f" (fsdp {point['fsdp']})" if point["fsdp"] > 1 else ""
    ms = {name: point[f"{name}_seconds"] * 1e3 for name in ("compute", "memory", "interconnect", "slow_interconnect")}
    low, high = (value / 1e6 for value in tokens_per_second(point))
    return [
        f"BERT-{point['model']}{mesh}",
        f"{point['chip']}:{point['slice']}",
        f"{point['chips']:,}",
        kind,
        str(point["rows"]),
        f"{point['peak_bytes'] / GIB:.1f} of {point['hbm_bytes'] / GIB:g}",
        f"{ms['compute']:.1f}",
        f"{ms['memory']:.1f}",
        f"{ms['interconnect']:.2f}-{ms['slow_interconnect']:.2f}",
        f"{point['lower_seconds'] * 1e3:.1f}-{point['upper_seconds'] * 1e3:.1f}",
        f"{low:.2f}-{high:.2f}",
        "-".join(f"{value:.0%}" for value in point["efficiency"]),
        f"{point['compile_seconds']:.0f}",
    ]


def _largest(content: Result) -> list[Result]:
    """Return the largest slice of each series, in weak scaling."""
    found: dict[tuple[str, str], Result] = {}
    for point in rows_of(content, "weak"):
        key = point["model"], point["chip"]
        if key not in found or point["chips"] > found[key]["chips"]:
            found[key] = point
    return list(found.values())


def _limit_row(point: Result) -> list[str]:
    _, rate = tokens_per_second(point)
    examples = rate / _TOKENS_A_ROW / 1e6
    return [
        f"BERT-{point['model']}",
        f"{point['chip']}:{point['slice']}",
        f"{rate / 1e6:,.1f}",
        f"{examples * _TOKENIZING:,.0f}",
        f"{examples * _PACKING:,.0f}",
        f"{rate * _ID_BYTES / 1e9:.2f}",
        f"{rate * _ID_BYTES / 1e6 / max(1, point['chips'] // _HOST_CHIPS):.1f}",
        f"{point['state_bytes_of_all'] / 1e9:.2f}",
        f"{point['compile_seconds'] * point['chips'] / 3600:.1f}",
    ]


def write_between(document: Path, block: str) -> None:
    """Replace the text between the markers."""
    before, _, rest = document.read_text("utf-8").partition(MARK)
    document.write_text(f"{before}{MARK}\n{block}{END}{rest.partition(END)[2]}", "utf-8")
