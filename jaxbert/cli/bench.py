"""`jaxbert bench`: time training and prediction of a configuration, once or for every combination of some settings."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from jaxbert.bench.options import BenchOptions, Mode, check
from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.settings import add_config, to_config

_TOP_LEVEL = {
    "mode": (Mode, "what is timed: train, predict or both"),
    "profile": (str, "a folder for a trace of the timed steps, for TensorBoard and Perfetto"),
    "peak_tflops": (float, "peak TFLOP/s of one device, where the table of known devices lacks it"),
    "peak_bandwidth": (float, "peak GB/s of one device's memory, where the table lacks it"),
    "cost_per_hour": (float, "price of all devices for an hour: adds the price of a million examples"),
}
"""Fields of `BenchOptions` that are flags without a section."""


def run(arguments: list[str]) -> int:
    """Time; a table for people, and all numbers as JSON where `--output` names a file."""
    parser = _make_parser()
    values = parse(parser, arguments)
    config, options = to_config(values), _options(values)
    check(options)
    if values.output is not None:
        check_output(values.output)
    if values.sweep:
        from jaxbert.cli.sweep import run_sweep

        each = dataclasses.replace(options, measure_compile=bool(options.measure_compile))
        return run_sweep(parser, arguments, values, options, _flags(each))
    if values.plot is not None:
        raise UserError("--plot draws a sweep: add --sweep KEY=VALUE,VALUE, or leave it out")
    return _run_once(config, options, values)


def _make_parser() -> ArgumentParser:
    parser = make_parser("bench", "Time training and prediction of a configuration, on random weights.")
    add_config(parser)
    parser.add_class_arguments(BenchOptions, "bench", skip=set(_TOP_LEVEL))
    for name, (kind, text) in _TOP_LEVEL.items():
        default = getattr(BenchOptions, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=text)
    parser.add_argument(
        "--lengths",
        type=str | None,
        default=None,
        help="lengths of synthetic examples: sst2, uniform:LOW:HIGH, fixed:N or a file with one length a line; "
        "left out, those of data.train, or sst2 without data",
    )
    parser.add_argument(
        "--sweep",
        type=str,
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="time every value of a key of the configuration, or of lengths; given again, every combination",
    )
    parser.add_argument(
        "--plot",
        type=str,
        default=None,
        help="an image of the sweep (png, svg, pdf); left out, a png beside the file of --output",
    )
    parser.add_argument("--output", type=str | None, default=None, help="a file for the JSON, or - for standard output")
    return parser


def _options(values: Namespace) -> BenchOptions:
    return BenchOptions(**values.bench.as_dict(), **{name: values[name] for name in _TOP_LEVEL})


def _flags(options: BenchOptions) -> list[str]:
    """Return the command line of `options`."""
    flags = []
    for name, value in dataclasses.asdict(options).items():
        if value is not None:
            flag = name.replace("_", "-") if name in _TOP_LEVEL else f"bench.{name}"
            flags.append(f"--{flag}={json.dumps(value) if isinstance(value, bool) else value}")
    return flags


def _run_once(config: Config, options: BenchOptions, values: Namespace) -> int:
    from jaxbert.bench.measure import run_bench
    from jaxbert.bench.setup import open_bench
    from jaxbert.bench.table import headline, result_table
    from jaxbert.bench.trace import prepare_folder
    from jaxbert.launch.start import start
    from jaxbert.processes import is_main
    from jaxbert.terminal import Status, console
    from jaxbert.train.runtime import prepare_process

    if options.profile is not None:
        prepare_folder(options.profile)
    prepare_process(config.precision.compute)
    start(config.launch)
    with Status("preparing examples") as status:
        result = run_bench(*open_bench(config, values.lengths), options, status.say)
    if not is_main():
        return 0
    console.print(result_table(result), highlight=False)
    written = _write(result, values.output)
    console.print(f"{headline(result)}; {written}", highlight=False, soft_wrap=True)
    if options.profile is not None:
        console.print(_about_trace(options.profile), highlight=False, soft_wrap=True)
    return 0


def _write(result: dict[str, Any], output: str | None) -> str:
    """Write the JSON where it is asked for, and say where it is."""
    if output is None:
        return "--output FILE keeps all numbers"
    write_text(output, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return f"all numbers: {'standard output' if output == '-' else output}"


def _about_trace(folder: str) -> str:
    from jaxbert.bench.trace import trace_file

    opened = f"tensorboard --logdir {folder} (with pip install tensorboard xprof)"
    file = trace_file(folder)
    return f"trace: {opened}" + ("" if file is None else f", or {file} at https://ui.perfetto.dev")
