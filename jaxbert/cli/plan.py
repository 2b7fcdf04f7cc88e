"""`jaxbert plan`: compile the step of a configuration for devices that need not be here, and say what it needs there."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from jaxbert.cli.output import check_output, write_text
from jaxbert.cli.parsing import make_parser, parse
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.plan.options import PlanOptions, check
from jaxbert.plan.target import Target, parse_target, prepare_target
from jaxbert.settings import add_config, to_config

if TYPE_CHECKING:
    from jaxbert.plan.fit import Found
    from jaxbert.plan.planner import Attempt, Planner

_HELP = {
    "lengths": "lengths of the examples: sst2, uniform:LOW:HIGH, fixed:N or a file with one length a line; left out, those "
    "of data.train where it can be read, else sst2",
    "utilization": "share of the peaks that is assumed for the upper bound of a step's time",
    "thorough": "compile for TPUs as a run does; false: with the compiler's least effort, in about a quarter of the time, "
    "with the same FLOPs and collectives, and a few percent more memory",
    "cost_per_hour": "price of ONE device for an hour: adds what a million tokens, and the run, cost",
    "memory_gb": "GB (10^9 bytes) that a step may use on one device, where the table of known devices lacks it",
    "peak_tflops": "peak TFLOP/s of one device, where the table lacks it",
    "peak_bandwidth": "peak GB/s of one device's memory, where the table lacks it",
    "link_bandwidth": "GB/s that one device sends to others, one direction, where the table of links lacks it",
}


def run(arguments: list[str]) -> int:
    """Plan; a table for people, and all numbers as JSON where `--output` names a file."""
    values = parse(_make_parser(), arguments)
    config, options = to_config(values), PlanOptions(**{name: values[name] for name in _HELP})
    check(options)
    if values.topology is None:
        raise UserError("--topology is missing: name the devices, as v5e:16x16, h200:8 or cpu:8")
    target = parse_target(values.topology)
    if values.output is not None:
        check_output(values.output)
    prepare_target(target)
    return _plan(config, target, options, values)


def _make_parser() -> ArgumentParser:
    parser = make_parser(
        "plan", "Say whether a run fits devices that need not be here, and what it takes and costs there."
    )
    add_config(parser)
    parser.add_argument(
        "--topology",
        type=str | None,
        default=None,
        help="the devices: a slice of TPUs (v5e:16x16, v5p:4x4x4; v4, v6e), GPUs (h200:8, h100:8, a100-80gb:8, b200:8; an "
        "estimate) or cpu:8",
    )
    hints = typing.get_type_hints(PlanOptions)
    for field in dataclasses.fields(PlanOptions):
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=hints[field.name], default=field.default, help=_HELP[field.name])
    parser.add_argument("--output", type=str | None, default=None, help="a file for the JSON, or - for standard output")
    return parser


def _plan(config: Config, target: Target, options: PlanOptions, values: Namespace) -> int:
    from jaxbert.plan.fit import find_fit
    from jaxbert.plan.planner import describe_plan, make_plan
    from jaxbert.terminal import Status

    with Status("looking at the devices") as status:
        planner, attempt = make_plan(config, target, options, status.say)
        found = find_fit(planner, attempt, status.say) if attempt.fits is False else None
    result = describe_plan(planner, attempt)
    if found is not None:
        result["change"] = {"settings": found.settings, "needed_bytes": found.attempt.needed_bytes}
    _show(result, values.output)
    if attempt.fits is False:
        raise UserError(_refusal(planner, attempt, found))
    return 0


def _show(result: dict[str, Any], output: str | None) -> None:
    from jaxbert.plan.table import plan_headline, plan_table, sharding_table
    from jaxbert.terminal import console

    console.print(sharding_table(result))
    console.print(plan_table(result), highlight=False)
    for line in result["assumptions"]:
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    written = "--output FILE keeps all numbers"
    if output is not None:
        write_text(output, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        written = f"all numbers: {'standard output' if output == '-' else output}"
    console.print(f"{plan_headline(result)}; {written}", highlight=False, soft_wrap=True)


def _refusal(planner: Planner, attempt: Attempt, found: Found | None) -> str:
    """Say in one line what is lacking, and the way out."""
    from jaxbert.plan.table import gib

    rows, target = attempt.workload.rows, planner.target
    needed = "more memory" if attempt.needed_bytes is None else gib(attempt.needed_bytes)
    needed += " (an estimate)" if target.stands_in else ""
    lacking = (
        f"a step of {rows} rows on {target.name} needs {needed} on each {target.chip}, which has "
        f"{gib(planner.memory_bytes)} for it"
    )
    if found is None:
        return f"{lacking}; no mesh.fsdp, model.remat, train.accumulation_steps or train.batch_size that was tried fits"
    another = ", which is another run (fewer examples a step)" if "train.batch_size" in found.settings else ""
    return f"{lacking}: {found.flags} would fit, with {gib(found.attempt.needed_bytes)}{another}"
