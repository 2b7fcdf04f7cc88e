"""`jaxbert plan`: compiles the step of a configuration for devices that this machine need not have, and shows its needs."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from jaxbert.cli.output import check_output, write_numbers
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.plan.options import PlanOptions
from jaxbert.plan.target import Target, parse_target, prepare_target
from jaxbert.settings import add_config, add_fields, to_config

if TYPE_CHECKING:
    from jaxbert.plan.fit import FittingPlan
    from jaxbert.plan.planner import Attempt, Planner

_OPTIONS = tuple(field.name for field in dataclasses.fields(PlanOptions))
_USAGE = """\
Example:  jaxbert plan --config run.yaml --topology h200:8 --lengths sst2
Devices:  --topology names them; they need not be here. Their compilers are extras of the installation:
          jaxbert[gpu-compiler] and jaxbert[tpu].
Data:     the lengths of --data.train, or those that --lengths names.
Results:  a table on the terminal: memory, time and price of a step, or a change that makes it fit.
          --output FILE adds all numbers as JSON. Nothing is trained."""
_MAIN_KEYS = (
    *("topology", "model.name_or_path", "data.train", "lengths", "train.batch_size", "mesh.fsdp", "model.remat"),
    *("cost_per_hour", "memory_gb", "output"),
)


def run(arguments: list[str]) -> int:
    """Make the plan; print a table, and write all numbers as JSON if `--output` names a file."""
    values = parse(_make_parser(), arguments)
    config, options = to_config(values), PlanOptions(**{name: values[name] for name in _OPTIONS})
    if values.topology is None:
        raise UserError("--topology is missing: name the devices, as v5e:16x16, h200:8 or cpu:8")
    target = parse_target(values.topology)
    if values.output is not None:
        check_output(values.output)
    prepare_target(target)
    return _plan(config, target, options, values)


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser(
        "plan",
        "Tell whether a run fits into the memory of other devices, and predict its time and price.",
        _USAGE,
        _MAIN_KEYS,
    )
    add_config(parser)
    parser.add_argument(
        "--topology",
        type=str | None,
        default=None,
        help="The devices: a slice of TPUs (v5e:16x16, v5p:4x4x4; v4, v6e), GPUs (h200:8, h100:8, b200:8, a100:8, "
        "a100-80gb:8, l4:1, t4:1; estimates without jaxbert[gpu-compiler]) or cpu:8.",
    )
    add_fields(parser, PlanOptions, _OPTIONS)
    parser.add_argument(
        "--output", type=str | None, default=None, help="File for all numbers as JSON, or - for standard output."
    )
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
    _show(result, values.output, kernels=bool(options.kernels))
    if attempt.fits is False:
        raise UserError(_refusal(planner, attempt, found))
    return 0


def _show(result: dict[str, Any], output: str | None, *, kernels: bool) -> None:
    from jaxbert.plan.table import kernel_tables, plan_headline, plan_table, sharding_table
    from jaxbert.terminal import console

    console.print(sharding_table(result))
    for table in kernel_tables(result):
        console.print(table, highlight=False)
    if kernels and result["kernels"] is None:
        why = "CPU devices stand in" if result["estimate"] else "the compiler refused the step"
        console.print(f"--kernels shows nothing: {why}", highlight=False)
    console.print(plan_table(result), highlight=False)
    for line in result["assumptions"]:
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    written = write_numbers(result, output)
    console.print(f"{plan_headline(result)}; {written}", highlight=False, soft_wrap=True)


def _refusal(planner: Planner, attempt: Attempt, found: FittingPlan | None) -> str:
    """Return one line that says what is missing and how to fix it."""
    from jaxbert.plan.table import gib

    rows, target = attempt.workload.rows, planner.target
    needed = "more memory" if attempt.needed_bytes is None else gib(attempt.needed_bytes)
    needed += " (an estimate)" if target.stands_in else ""
    lacking = (
        f"a step of {rows} rows on {target.name} needs {needed} on each {target.chip}, which has "
        f"{gib(planner.memory_bytes)} for it"
    )
    if found is None:
        tried = "mesh.fsdp, model.remat, train.accumulation_steps and train.batch_size"
        return f"{lacking}; changes of {tried} were tried, and none makes it fit"
    another = ", which is another run (fewer examples a step)" if "train.batch_size" in found.settings else ""
    return f"{lacking}: {found.flags} would fit, with {gib(found.attempt.needed_bytes)}{another}"
