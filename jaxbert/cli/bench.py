"""`jaxbert bench`: time the training step of a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxbert.bench.options import BenchOptions, check
from jaxbert.cli.output import write_text
from jaxbert.cli.parsing import add_config, make_parser, parse, to_config
from jaxbert.errors import UserError


def run(arguments: list[str]) -> int:
    """Time the step; a table for people, and all numbers as JSON where `--output` names a file."""
    parser = make_parser("bench", "Time the training step of a configuration, on random weights.")
    add_config(parser)
    parser.add_class_arguments(BenchOptions, "bench")
    parser.add_argument(
        "--lengths",
        type=str | None,
        default=None,
        help="lengths of synthetic examples: sst2, uniform:LOW:HIGH, fixed:N or a file with one length a line; "
        "left out, those of data.train, or sst2 without data",
    )
    parser.add_argument("--output", type=str | None, default=None, help="a file for the JSON, or - for standard output")
    values = parse(parser, arguments)
    config, options = to_config(values), BenchOptions(**values.bench.as_dict())
    check(options)
    _check_output(values.output)
    from jaxbert.bench.measure import run_bench
    from jaxbert.bench.setup import open_bench
    from jaxbert.train.runtime import prepare_process

    prepare_process(config.precision.compute)
    result = run_bench(open_bench(config, values.lengths), options)
    _print(result)
    if values.output is not None:
        write_text(values.output, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return 0


def _check_output(output: str | None) -> None:
    """Refuse a file that cannot be written before the time is spent."""
    if output not in (None, "-") and not Path(output).expanduser().parent.is_dir():
        raise UserError(f"--output {output} cannot be written: there is no such folder")


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    from jaxbert.train.report import console

    table = Table("", "", show_header=False)
    for name, text in _rows(result):
        table.add_row(name, text)
    console.print(table, highlight=False)


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    packed = "packed" if result["packing"] else "padded"
    rows = " or ".join(str(count) for count in result["row_counts"])
    hardware = f"{result['tflops_per_second']:.2f} TFLOP/s"
    if result["mfu"] is not None:
        hardware += f", MFU {result['mfu']:.1%}"
    memory = result["peak_memory_bytes"]
    return [
        ("device", f"{result['devices']} x {result['device']}, jax {result['jax_version']}, {result['precision']}"),
        ("model", f"{result['model']}, {result['parameters'] / 1e6:.1f} M parameters"),
        ("batch", f"{result['batch_size']} examples ({result['lengths']}), {packed}, {rows} x {result['row_length']}"),
        (
            "step",
            f"{result['step_ms_p50']:.2f} ms median, {result['step_ms_p90']:.2f} ms p90 ({result['steps_timed']})",
        ),
        ("examples", f"{result['examples_per_second']:,.0f} a second"),
        (
            "tokens",
            f"{result['real_tokens_per_second']:,.0f} real a second, {result['packing_efficiency']:.1%} of rows",
        ),
        ("hardware", hardware),
        ("waiting", f"{result['data_wait_fraction']:.2%} of the time for data"),
        ("compiled", f"{result['compilations']} batch shape(s) in {result['compile_seconds']:.1f} s"),
        ("memory", "not told by this device" if memory is None else f"{memory / 2**30:.2f} GiB peak"),
    ]
