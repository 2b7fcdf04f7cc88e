"""Fine-tune the same model on the same data with jaxbert and with its peers, in turns, and write a table and a chart.

  python scripts/bench/compare.py --model FOLDER --train SST-2/train.tsv --text sentence --seconds 15 --repeats 3 \
      --name sst2-batch32

Modes:

{modes}

One run of every mode makes a round, and every round begins with another mode, so that a change of the machine's load
meets all of them. Each process times itself in steady state: compilation, the first steps, evaluation and saving are left
out. With `--seconds`, peers stop by their own clock, and jaxbert takes as many steps as a first, uncounted run says. What
was not run, or failed, says UNMEASURED. With `--name`, docs/results, docs/benchmarks.md and docs/images are written too.

All run on the GPU where their library sees one; peers may live in other environments (--peer-python, --legacy-python).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import modes
from modes import MODES, Recipe, Result, run_mode
from table import Runs, machine_facts, markdown, write_docs

_CALIBRATION_STEPS = 10
_RATE = "examples_per_second"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").format(modes=modes.__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = Recipe()
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a folder, or a cached Hub name")
    model.add_argument("--new-model", choices=["tiny", "mini", "small", "base", "large"], help="needs --vocab")
    parser.add_argument("--vocab", type=Path, help="vocabulary of a new model, one token a line")
    parser.add_argument("--train", type=Path, required=True, help="TSV with raw fields")
    parser.add_argument("--validation", type=Path, help="evaluated after each run, off the clock")
    parser.add_argument("--text", default=defaults.text)
    parser.add_argument("--label", default=defaults.label)
    parser.add_argument("--columns", help="a,b: column names of files that have no header line")
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated; see above")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, help="take the first N training rows only")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--max-steps", type=int)
    length.add_argument("--seconds", type=float, help="time each run for about so long")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=defaults.max_length)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; every round has the next one")
    parser.add_argument("--skip-steps", type=int, default=defaults.skip_steps, help="first steps that are not timed")
    parser.add_argument("--skip-seconds", type=float, default=defaults.skip_seconds, help="...or fewer after so long")
    parser.add_argument("--timeout", type=float, help="seconds after which a run is given up")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--legacy-python", default=defaults.legacy_python, help="made by legacy_env.sh")
    parser.add_argument("--output", type=Path, help="file for all results as JSON, written after every run")
    parser.add_argument("--name", help="write results, table and chart to docs/ under this name")
    values = parser.parse_args(arguments)
    _check(parser, values)
    return values


def _check(parser: argparse.ArgumentParser, values: argparse.Namespace) -> None:
    try:
        values.modes = dict(modes.split_mode(mode) for mode in values.modes.split(",") if mode)
    except ValueError as error:
        parser.error(str(error))
    if (values.new_model is None) != (values.vocab is None):
        parser.error("--new-model and --vocab go together")
    for name in ("train", "validation", "vocab"):
        path = getattr(values, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path} does not exist")
    if values.name and not re.fullmatch(r"[\w-]+", values.name):
        parser.error("--name may have letters, digits, - and _ only")
    if values.repeats < 1:
        parser.error("--repeats must be at least 1")


def make_recipe(values: argparse.Namespace) -> Recipe:
    """Return the recipe that all modes share."""
    return Recipe(**{f.name: getattr(values, f.name) for f in fields(Recipe) if hasattr(values, f.name)})


def steps_of(recipe: Recipe, mode: str, seed: int) -> int | None:
    """Return jaxbert's steps for `seconds`, from a run that is not counted; the peers measure the time themselves."""
    if recipe.seconds is None or not mode.startswith("jaxbert"):
        return None
    trial = run_mode(replace(recipe, validation=None), mode, seed, max_steps=_CALIBRATION_STEPS)
    rate = trial.get(_RATE)
    if not rate:
        return None
    steps = max(_CALIBRATION_STEPS, math.ceil(recipe.seconds * rate / recipe.batch_size))
    every = max(recipe.skip_steps, 1)  # steps between two lines of metrics; the first line ends the warmup
    return every * (1 + math.ceil(steps / every))


def describe(recipe: Recipe, runs: Runs, repeats: int, seed: int) -> Result:
    """Return the measurements, and the facts about the machine."""
    assert recipe.train is not None
    model = f"new {recipe.new_model} model" if recipe.new_model else Path(recipe.model or "").name
    rows = "all" if recipe.limit is None else f"first {recipe.limit}"
    length = f"{recipe.epochs} epochs" if recipe.max_steps is None else f"{recipe.max_steps} steps"
    length = length if recipe.seconds is None else f"{recipe.seconds:g} s timed in each run"
    return {
        "recipe": f"{model}, {rows} rows of {recipe.train.parent.name}/{recipe.train.name}, {length}, batch "
        f"{recipe.batch_size}, at most {recipe.max_length} tokens, learning rate {recipe.learning_rate:g}",
        "runs": f"{repeats} rounds with seeds from {seed}, in turns",
        **machine_facts(runs),
    }


def same_tokens(runs: Runs) -> str | None:
    """Return a message about the peers that saw other tokens than the rest, if any."""
    seen = {mode: {r["tokens_crc32"] for r in results if "tokens_crc32" in r} for mode, results in runs.items()}
    told = {mode: numbers for mode, numbers in seen.items() if numbers}
    return None if len(set().union(*told.values())) <= 1 else f"the peers saw different tokens: {told}"


def run_rounds(values: argparse.Namespace, recipe: Recipe) -> Any:
    """Yield all results so far after each run."""
    runs: Runs = {mode: [] for mode in dict.fromkeys([*values.modes, *MODES])}
    steps: dict[str, int | None] = {}
    order = list(values.modes.items())
    for repeat in range(values.repeats):
        for mode, most in order[repeat % len(order) :] + order[: repeat % len(order)]:
            if most is not None and repeat >= most:
                continue
            seed = values.seed + repeat
            if mode not in steps:
                steps[mode] = steps_of(recipe, mode, seed)
            result = run_mode(recipe, mode, seed, max_steps=steps[mode])
            runs[mode].append(result)
            rate = result.get(_RATE)
            said = result.get("error") or (f"{rate:.1f} examples/s" if rate else "too few steps to time")
            print(f"round {repeat + 1}/{values.repeats}  {mode}: {said}", file=sys.stderr, flush=True)
            yield runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rounds and print the table; return 1 if any run failed or saw other tokens."""
    values = parse_arguments(arguments)
    recipe = make_recipe(values)
    content: Result = {}
    for runs in run_rounds(values, recipe):
        about = describe(recipe, runs, values.repeats, values.seed)
        content = {"name": values.name or "comparison", "rate": _RATE, "about": about, "runs": runs}
        if values.output is not None:
            values.output.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(markdown(content["runs"], content["about"]), end="")
    mistake = same_tokens(content["runs"])
    if mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 1
    if values.name:
        write_docs(content)
    return int(any("error" in r for results in content["runs"].values() for r in results))


if __name__ == "__main__":
    sys.exit(main())
