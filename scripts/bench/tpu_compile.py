"""Compile the whole training step of BERT-base and BERT-large for TPU slices that are not here, and print what it costs.

  python scripts/bench/tpu_compile.py --document docs/benchmarks.md --output tpu-compile.json

Rows of 512 tokens, bfloat16, AdamW, default settings. Needs libtpu (`pip install 'jaxbert[tpu]'`) and no TPU. Nothing is
measured on a TPU: memory is the compiler's plan, FLOPs are those of the compiled matrix products. With `--document`, the
table replaces what stands between the lines `<!-- tpu-compile:begin -->` and `<!-- tpu-compile:end -->`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import cpu_name

ROW_LENGTH, SLOTS = 512, 32
BEGIN, END = "<!-- tpu-compile:begin -->", "<!-- tpu-compile:end -->"
GIB = 2**30
HEAD = (
    *("model", "slice", "mesh", "rows a chip", "remat", "peak, GiB", "of GiB", "state and batch", "temporaries"),
    *("TFLOP a chip", "to formula", "collectives, GB", "compiled in, s", "processor s"),
)
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One step: a model on a slice, and the settings that make it fit."""

    model: str
    topology: str
    rows: int
    """Rows per chip."""
    fsdp: int = 1
    remat: str = "none"

    @property
    def name(self) -> str:
        """The name of the case on the command line."""
        return f"{self.model}@{self.topology}"


CASES = (
    Case("base", "v5e:2x4", rows=16),
    Case("base", "v6e:16x16", rows=32),
    Case("base", "v5p:4x4x4", rows=64),
    Case("large", "v5e:2x4", rows=8, fsdp=8),
    Case("large", "v6e:16x16", rows=16, fsdp=16),
    Case("large", "v5p:4x4x4", rows=32, fsdp=8),
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    names = [case.name for case in CASES]
    parser.add_argument("--cases", default=",".join(names), help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--document", type=Path, help="Markdown file with the two marker lines")
    parser.add_argument("--output", type=Path, help="file for all numbers as JSON")
    values = parser.parse_args(arguments)
    wanted = [name for name in values.cases.split(",") if name]
    unknown = set(wanted) - set(names)
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    values.cases = [case for case in CASES if case.name in wanted]
    if values.document is not None:
        text = values.document.read_text("utf-8") if values.document.is_file() else ""
        if not -1 < text.find(BEGIN) < text.find(END):
            parser.error(f"{values.document} lacks the lines {BEGIN} and {END}")
    return values


def run_case(case: Case) -> Result:
    """Compile one step; a step that does not fit is a result with `error`."""
    from jaxbert.bench.setup import new_program
    from jaxbert.config import Config, MeshConfig, ModelConfig
    from jaxbert.data.packing import Layout
    from jaxbert.errors import UserError
    from jaxbert.plan.compile import compile_step
    from jaxbert.plan.topology import topology_mesh

    model = ModelConfig(name_or_path=case.model, remat=case.remat)
    config = Config(model=model, mesh=MeshConfig(fsdp=case.fsdp))
    mesh = topology_mesh(case.topology, config.mesh)
    rows, begin = case.rows * mesh.size, time.process_time()
    try:
        step = compile_step(new_program(config, mesh), Layout(ROW_LENGTH, (rows,), SLOTS))
    except UserError as error:
        return {"error": str(error)}
    return step.to_dict() | {"processor_seconds": round(time.process_time() - begin, 1)}


def row_of(case: Case, result: Result) -> list[str]:
    """Return a line of the table."""
    mesh = f"fsdp {case.fsdp}" if case.fsdp > 1 else "data"
    first = [f"BERT-{case.model}", case.topology, mesh, str(case.rows), case.remat]
    if "error" in result:
        return [*first, f"UNMEASURED ({result['error']})".replace("|", "/"), *[""] * (len(HEAD) - len(first) - 1)]
    memory = (result[key] / GIB for key in ("peak_bytes", "hbm_bytes", "argument_bytes", "temp_bytes"))
    peak, capacity, arguments, temporaries = (f"{size:.2f}" for size in memory)
    return [
        *first,
        peak,
        f"{float(capacity):g}",
        arguments,
        temporaries,
        f"{result['flops'] / 1e12:.2f}",
        f"{result['flops'] / result['formula_flops']:.3f}",
        f"{sum(result['collective_bytes'].values()) / 1e9:.2f}",
        f"{result['compile_seconds']:.0f}",
        f"{result['processor_seconds']:.0f}",
    ]


def markdown(results: dict[Case, Result], about: dict[str, str]) -> str:
    """Return the table, with the versions of the compiler below it."""
    lines = [HEAD, ["---"] * len(HEAD), *(row_of(case, result) for case, result in results.items())]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    return f"{body}\n\n{facts}\n"


def describe() -> dict[str, str]:
    """Return the software, place and date of the compilation."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax", "libtpu"))
    return {
        "step": f"packed rows of {ROW_LENGTH}, {SLOTS} example slots, AdamW, bfloat16, layers as one loop, "
        "jaxbert's attention kernels, dropout 0.1",
        "versions": f"{versions}, Python {platform.python_version()}",
        "compiled on": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, no TPU",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write_between(document: Path, table: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace the text between the markers."""
    before, _, rest = document.read_text("utf-8").partition(begin)
    document.write_text(f"{before}{begin}\n{table}{end}{rest.partition(end)[2]}", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all cases and print the table; return 1 if any did not fit."""
    values = parse_arguments(arguments)
    results: dict[Case, Result] = {}
    for case in values.cases:
        results[case] = run_case(case)
        said = results[case].get("error") or f"compiled in {results[case]['compile_seconds']:.0f} s"
        print(f"{case.name}: {said}", file=sys.stderr, flush=True)
    about = describe()
    table = markdown(results, about)
    print(table, end="")
    if values.document is not None:
        write_between(values.document, table)
    if values.output is not None:
        content = {"about": about, "steps": {case.name: result for case, result in results.items()}}
        values.output.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return int(any("error" in result for result in results.values()))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
