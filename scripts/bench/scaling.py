"""Predict how BERT-base and BERT-large scale over slices of TPUs, from compiled steps and published speeds.

  python scripts/bench/scaling.py --document docs/scaling.md --results docs/results/scaling.json

Rows of 512 tokens, bfloat16, AdamW, default settings. Needs libtpu (`pip install 'jaxbert[tpu]'`) and no TPU: NOTHING is
measured but the compilation. Each point is the whole training step, compiled for its slice; its bounds are those of `jaxbert
plan`. Weak scaling keeps the rows of a chip, strong scaling the rows of a step. Points that are in the results already are
not compiled again. With `--document`, tables and chart replace what stands between the lines `<!-- scaling:begin -->` and
`<!-- scaling:end -->`, and the chart goes to images/scaling.png beside the document.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling_tables import END, MARK, document_block, write_between
from table import cpu_name

ROW_LENGTH, SLOTS = 512, 32
Result = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One model on slices of one generation; weak and strong scaling begin at the first slice."""

    model: str
    chip: str
    slices: tuple[str, ...]
    rows: int
    """Rows per chip, on the first slice and in weak scaling."""
    fsdp: int = 1


@dataclass(frozen=True)
class Point:
    """One step of a series."""

    series: Series
    slice: str
    rows: int
    """Rows per chip."""
    kinds: tuple[str, ...]
    """`weak`, `strong` or both."""

    @property
    def name(self) -> str:
        """The name of the point in the results."""
        return f"{self.series.model}@{self.series.chip}:{self.slice} {self.rows} rows"


_FLAT, _CUBES = ("4x4", "16x16"), ("4x4x4", "8x8x8", "16x16x16")
SERIES = (
    Series("base", "v5e", _FLAT, rows=32),
    Series("base", "v6e", _FLAT, rows=64),
    Series("base", "v5p", _CUBES, rows=64),
    Series("large", "v5e", _FLAT, rows=16, fsdp=16),
    Series("large", "v6e", _FLAT, rows=32, fsdp=16),
    Series("large", "v5p", _CUBES, rows=64, fsdp=16),
)


def points_of(series: Series) -> list[Point]:
    """Return the first slice, the last slice with the first's rows per chip, and all slices with the first's rows per step.

    In weak scaling the slices between have the same program on each chip; only the groups that exchange data differ.
    """
    first, *others = series.slices
    points = [Point(series, first, series.rows, ("weak", "strong"))]
    for slice_ in others:
        if slice_ == others[-1]:
            points.append(Point(series, slice_, series.rows, ("weak",)))
        rows = series.rows * chips_of(first) // chips_of(slice_)
        if rows:
            points.append(Point(series, slice_, rows, ("strong",)))
    return points


def chips_of(slice_: str) -> int:
    """Return the number of chips in a slice."""
    count = 1
    for size in slice_.split("x"):
        count *= int(size)
    return count


def run_point(point: Point) -> Result:
    """Compile one step and bound its time; a step that does not fit is a result with `error`."""
    from jaxbert.bench.setup import new_program
    from jaxbert.config import Config, MeshConfig, ModelConfig
    from jaxbert.data.packing import Layout
    from jaxbert.errors import UserError
    from jaxbert.plan.compile import compile_step
    from jaxbert.plan.options import PlanOptions
    from jaxbert.plan.planner import bounds_of, state_bytes
    from jaxbert.plan.target import parse_target
    from jaxbert.plan.topology import topology_mesh

    series, target = point.series, parse_target(f"{point.series.chip}:{point.slice}")
    model = ModelConfig(name_or_path=series.model)
    config = Config(model=model, mesh=MeshConfig(fsdp=series.fsdp))
    program = new_program(config, topology_mesh(target.name, config.mesh))
    rows = point.rows * target.devices
    try:
        step = compile_step(program, Layout(ROW_LENGTH, (rows,), SLOTS), quick=True)
    except UserError as error:
        return {"error": str(error)}
    found = bounds_of(step, program, target, PlanOptions())
    return {
        "model": series.model,
        "chip": series.chip,
        "slice": point.slice,
        "chips": target.devices,
        "fsdp": series.fsdp,
        "rows": point.rows,
        "kinds": list(point.kinds),
        "tokens": rows * ROW_LENGTH,
        "state_bytes": state_bytes(program),
        "state_bytes_of_all": state_bytes(program) if series.fsdp == 1 else _whole_state(program),
        "sent_bytes": sum(part.sent_bytes for part in step.traffic),
        "collectives": sum(part.runs for part in step.traffic),
        **{
            name: getattr(step, name)
            for name in ("peak_bytes", "hbm_bytes", "flops", "formula_flops", "compile_seconds")
        },
        **found.to_dict(),
    }


def _whole_state(program: Any) -> int:
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state_target))


def describe() -> dict[str, str]:
    """Return the software, place and date of the compilation."""
    from jaxbert.hardware import LINKS
    from jaxbert.plan.options import PlanOptions

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax", "libtpu"))
    chips = {f"TPU {series.chip}" for series in SERIES}
    links = "; ".join(f"{x.name} {x.sent_gbs:g} GB/s one direction ({x.source})" for x in LINKS if x.name in chips)
    return {
        "step": f"rows of {ROW_LENGTH} tokens, all of them real, {SLOTS} example slots, AdamW, bfloat16, layers as "
        "one loop, jaxbert's attention kernels, dropout 0.1",
        "links": links,
        "upper bound": f"ASSUMED {PlanOptions().utilization:.0%} of each peak, nothing overlapping, collectives along one "
        "dimension of the torus, 1 microsecond a hop",
        "compiler": "at its least effort, as `jaxbert plan`: the same FLOPs and collectives, a few percent more memory",
        "versions": f"{versions}, Python {platform.python_version()}",
        "compiled on": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, no TPU",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    names = [f"{series.model}@{series.chip}" for series in SERIES]
    parser.add_argument("--series", default=",".join(names), help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--results", type=Path, required=True, help="file of all numbers, as JSON; what it has is kept")
    parser.add_argument("--document", type=Path, help="Markdown file with the two marker lines")
    values = parser.parse_args(arguments)
    wanted = values.series.split(",")
    unknown = set(wanted) - set(names)
    if unknown:
        parser.error(f"unknown series {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    values.series = [series for series, name in zip(SERIES, names, strict=True) if name in wanted]
    if values.document is not None:
        text = values.document.read_text("utf-8") if values.document.is_file() else ""
        if not -1 < text.find(MARK) < text.find(END):
            parser.error(f"{values.document} lacks the lines {MARK} and {END}")
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile the missing points, and write tables and chart; return 1 if any point did not fit."""
    values = parse_arguments(arguments)
    content: Result = {"points": {}}
    if values.results.is_file():
        content = json.loads(values.results.read_text("utf-8"))
    for series in values.series:
        for point in points_of(series):
            if point.name not in content["points"]:
                result = content["points"][point.name] = run_point(point)
                content["about"] = describe()
                values.results.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
                said = result.get("error") or f"compiled in {result['compile_seconds']:.0f} s"
                print(f"{point.name}: {said}", file=sys.stderr, flush=True)
    names = [point.name for series in SERIES for point in points_of(series)]
    block = document_block(content, [name for name in names if name not in content["points"]])
    if values.document is not None:
        from scaling_chart import draw

        write_between(values.document, block)
        draw(content, values.document.parent / "images" / "scaling.png")
    print(block, end="")
    return int(any("error" in result for result in content["points"].values()))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
