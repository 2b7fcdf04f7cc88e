"""`jaxbert bench`: times training and prediction of a configuration, or of every combination of some settings."""

from __future__ import annotations

import dataclasses
import functools
import json

from jsonargparse import Namespace

from jaxbert.bench.options import SECTION_KEYS, SERVE_KEYS, BenchOptions
from jaxbert.cli.output import check_output, write_numbers
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.plan.options import PlanOptions
from jaxbert.settings import add_config, add_fields, add_section, to_config

_TOP_LEVEL = tuple(field.name for field in dataclasses.fields(BenchOptions) if field.name not in SECTION_KEYS)
"""Fields of `BenchOptions` that are flags without a section."""
_USAGE = """\
Example:  jaxbert bench --model.name_or_path small --lengths sst2 --output bench.json
          jaxbert bench --config run.yaml --sweep train.batch_size=64,128,256
          jaxbert bench --config run.yaml --tune
          jaxbert bench --mode serve --model.name_or_path runs/reviews
Data:     --data.train as in `jaxbert train`, or random texts whose lengths --lengths names. The
          weights are random.
Results:  a table on the terminal: examples and tokens per second, memory, MFU. --output FILE adds
          all numbers as JSON."""
_MAIN_KEYS = (
    *("model.name_or_path", "data.train", "lengths", "train.batch_size", "precision.compute", "mode", "bench.steps"),
    *("sweep", "peak_tflops", "output"),
)


def run(arguments: list[str]) -> int:
    """Run the benchmark; print a table, and write all numbers as JSON if `--output` names a file."""
    parser = _make_parser()
    values = parse(parser, arguments)
    options = _options(values)
    if values.output is not None:
        check_output(values.output)
    if options.mode == "serve":
        return _serve(to_config(values), options, values)
    if values.tune:
        return _tune(to_config(values), options, values)
    if values.sweep:
        from jaxbert.cli.sweep import run_sweep

        each = dataclasses.replace(options, measure_compile=bool(options.measure_compile))
        return run_sweep(parser, arguments, values, options, _flags(each))
    if values.plot is not None:
        raise UserError("--plot draws a sweep: add --sweep KEY=VALUE,VALUE, or leave it out")
    return _run_once(to_config(values), options, values)


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("bench", "Time training and prediction of a configuration.", _USAGE, _MAIN_KEYS)
    add_config(parser)
    add_section(parser, BenchOptions, "bench", skip=_TOP_LEVEL)
    add_fields(parser, BenchOptions, _TOP_LEVEL)
    add_fields(parser, PlanOptions, ["lengths"])
    parser.add_argument(
        "--sweep",
        type=str,
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="Times every value of a key, or of lengths. If given several times, every combination is timed.",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="Whether to find the fastest settings of a training step on this device (kernels of attention, layers in a "
        "loop or unrolled, steps sent at once) and keep them beside the compiled programs. Runs of this kind then use them.",
    )
    parser.add_argument(
        "--plot",
        type=str,
        default=None,
        help="Image file for the sweep (png, svg, pdf). If not set, a png next to the file of --output.",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="File for all numbers as JSON, or - for standard output."
    )
    return parser


def _options(values: Namespace) -> BenchOptions:
    return BenchOptions(**values.bench.as_dict(), **{name: values[name] for name in _TOP_LEVEL})


def _flags(options: BenchOptions) -> list[str]:
    """Return `options` as flags of the command line, but for those of a server, which a sweep does not time."""
    flags = []
    for name, value in dataclasses.asdict(options).items():
        if value is not None and name not in SERVE_KEYS:
            flag = name if name in _TOP_LEVEL else f"bench.{name}"
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
    written = write_numbers(result, values.output)
    console.print(f"{headline(result)}; {written}", highlight=False, soft_wrap=True)
    if options.profile is not None:
        console.print(_about_trace(options.profile), highlight=False, soft_wrap=True)
    return 0


def _serve(config: Config, options: BenchOptions, values: Namespace) -> int:
    """Time a server, and print the rates."""
    for flag, given in (("tune", values.tune), ("sweep", values.sweep), ("plot", values.plot)):
        if given:
            raise UserError(f"--mode serve times one server: leave out --{flag}")
    from jaxbert.bench.serving import bench_server
    from jaxbert.bench.table import rates_table
    from jaxbert.serve.process import require_serve
    from jaxbert.terminal import Status, console

    require_serve()
    with Status("starting the server") as status:
        result = bench_server(config, values.lengths, options, status.say)
    console.print(rates_table(result["rates"]), highlight=False)
    written = write_numbers(result, values.output)
    found = f"{result['goodput']:,.0f} requests a second, 99% of them answered within {result['limit_ms']:g} ms"
    idle = "" if result["idle_p50_ms"] is None else f"; idle {result['idle_p50_ms']:g} ms"
    console.print(f"{found}{idle}; {written}", highlight=False, soft_wrap=True)
    return 0


def _tune(config: Config, options: BenchOptions, values: Namespace) -> int:
    """Time the candidates, print a table, and keep the best settings."""
    for flag, given in (("sweep", values.sweep), ("plot", values.plot), ("profile", options.profile)):
        if given:
            raise UserError(f"--tune times its own candidates: leave out --tune or --{flag}")
    if options.mode == "predict":
        raise UserError("--tune times training steps, which --mode predict does not run: leave one of them out")
    from jaxbert.bench.setup import open_bench
    from jaxbert.bench.table import tuning_table
    from jaxbert.bench.tune import tune
    from jaxbert.launch.start import start
    from jaxbert.processes import is_alone
    from jaxbert.terminal import Status, console
    from jaxbert.train.runtime import prepare_process
    from jaxbert.train.tuned import keep_tuned, tuned_file

    prepare_process(config.precision.compute)
    start(config.launch)
    path = tuned_file()
    if path is None:
        raise UserError(
            "--tune saves its results in the folder of compiled programs, but this machine has none: set "
            "JAX_COMPILATION_CACHE_DIR"
        )
    if not is_alone():
        raise UserError("--tune runs in one process: start it on one machine, with the devices of that machine")
    with Status("preparing examples") as status:
        run, lengths = open_bench(config, values.lengths, use_tuned=False)
        result = {"lengths": lengths, "file": str(path), **tune(run, options, status.say)}
    kept = result.pop("kept")
    if result["rows"]:
        console.print(tuning_table(result["rows"]), highlight=False)
    written = write_numbers(result, values.output)
    if result["tuned"]:
        keep_tuned(path, kept)
    found = f"kept in {path}: {result['tuned']}" if result["tuned"] else f"nothing was tuned, {path} is as before"
    console.print(f"{found}; {written}", highlight=False, soft_wrap=True)
    return 0


def _about_trace(folder: str) -> str:
    from jaxbert.bench.trace import trace_file

    opened = f"tensorboard --logdir {folder} (with pip install tensorboard xprof)"
    file = trace_file(folder)
    return f"trace: {opened}" + ("" if file is None else f", or {file} at https://ui.perfetto.dev")
