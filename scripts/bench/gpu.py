"""Time jaxbert and its peers on one GPU, at the sizes and lengths of our targets, in one command.

  python scripts/bench/gpu.py --output FOLDER            everything, in less than 25 minutes
  python scripts/bench/gpu.py --output FOLDER --minutes 9     part of it; the same command again goes on
  python scripts/bench/gpu.py --output FOLDER --tiers 1       the most important parts only
  python scripts/bench/gpu.py --output FOLDER --toy      a tiny model, on any machine, to see that it works
  python scripts/bench/gpu.py --output FOLDER --docs     no run: put what FOLDER holds into docs/

New random weights, random tokens, nothing from the network; dropout 0.1, AdamW. jaxbert and peers draw the same lengths. A
part is one mode of one scenario in a process of its own; what matters most comes first. A part that fails or for which no
time is left is a row that says UNMEASURED. After each part FOLDER holds results.json, results.md and results.png. The exit
code is 0 if no part is missing, 3 if the time was over before, and 1 if nothing of jaxbert was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chart import draw
from modes import NOT_DONE, Recipe, Result, label_of, run_mode
from table import machine_facts, markdown, references, summarize, write_block

_RATE = "real_tokens_per_second"
_AHEAD = 1.3
"""The factor by which jaxbert should be faster than the strongest peer."""
_LEAST_SECONDS = 45.0
"""Seconds that must be left for a part to begin."""
_SECOND_ROUND = 9
_UNFINISHED = 3
"""The exit code if parts are missing."""

JAXBERT = "jaxbert-bfloat16"
OURS = (JAXBERT, f"{JAXBERT}-scanned")
BACKENDS = (f"{JAXBERT}-xla", f"{JAXBERT}-cudnn-nodrop")
"""Those that are not chosen for rows of 512; cuDNN has no dropout that jaxbert could use."""
STRONGEST = ("varlen-bfloat16-static", "peer-flat-bfloat16-compile")
COMPILED = "varlen-bfloat16-compile"
OTHERS = ("peer-grouped-bfloat16-compile", "peer-grouped-bfloat16", "varlen-bfloat16", "varlen-bfloat16-compile-nodrop")


@dataclass(frozen=True)
class Scenario:
    """A model, the lengths of its examples, and the modes with their order."""

    title: str
    size: str
    lengths: str
    batch_size: int
    tokens: int
    """Mean real tokens per step."""
    tiers: dict[str, int]
    """The modes; those with the lowest number come first in the whole run."""
    row_length: int | None = None
    max_length: int = 512
    target: float | None = None
    floor: float | None = None


def _tiers(first: int, ahead: Sequence[str], then: Sequence[str] = (), last: Sequence[str] = ()) -> dict[str, int]:
    parts = ((first, ahead), (first + 1, then), (first + 3, last))
    return {mode: tier for tier, modes in parts for mode in modes}


def _headline(size: str, batch_size: int, target: float, floor: float) -> Scenario:
    return Scenario(
        f"BERT-{size}, 64 to 192 tokens, rows of 512, batch {batch_size}",
        size,
        "uniform:64:192",
        batch_size,
        128 * batch_size,
        _tiers(0, (*OURS, *STRONGEST), (*BACKENDS, COMPILED), OTHERS if size == "base" else OTHERS[1:2]),
        row_length=512,
        target=target,
        floor=floor,
    )


def _more(size: str, tier: int) -> dict[str, Scenario]:
    """Return the further scenarios of a size."""
    batch, name = (1, "BERT-base") if size == "base" else (2, "BERT-large")
    full, small, many = 128 // batch, 32, 5120 // batch
    peers = (STRONGEST[1], "peer-grouped-bfloat16") if size == "base" else STRONGEST[1:]
    backends = BACKENDS[1:] if size == "base" else ()
    graphs = (JAXBERT, "varlen-bfloat16-graphs", *peers)
    usual = _tiers(tier, (JAXBERT, *peers))
    return {
        f"{size}-sst2": Scenario(
            f"{name}, SST-2's lengths, batch {many}", size, "sst2", many, 13 * many, usual, max_length=128
        ),
        f"{size}-512": Scenario(
            f"{name}, 512 tokens, batch {full}",
            size,
            "fixed:512",
            full,
            512 * full,
            usual | dict.fromkeys(backends, tier),
        ),
        f"{size}-batch32": Scenario(
            f"{name}, 64 to 192 tokens, batch 32", size, "uniform:64:192", small, 128 * small, _tiers(tier, graphs)
        ),
    }


SCENARIOS = {
    "base-128": _headline("base", 512, 750_000, 560_000),
    "large-128": _headline("large", 256, 225_000, 170_000),
    **_more("base", 2),
    **_more("large", 5),
}
TOY = {
    "toy": Scenario(
        "tiny, 4 to 12 tokens, batch 8",
        "tiny",
        "uniform:4:12",
        8,
        64,
        _tiers(1, (JAXBERT, "varlen-bfloat16", "peer-flat-bfloat16"), (f"{JAXBERT}-cudnn-nodrop",)),
        max_length=16,
        target=750_000,
        floor=560_000,
    )
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the results; what it holds is not run again"
    )
    parser.add_argument("--minutes", type=float, default=24.0, help="no part runs longer")
    parser.add_argument("--seconds", type=float, default=6.0, help="what is timed of each part")
    parser.add_argument("--part-seconds", type=float, default=300.0, help="the most seconds of one part")
    parser.add_argument("--tiers", type=int, help="run only the first N tiers of parts")
    parser.add_argument("--only", help=f"comma-separated scenarios: {', '.join(SCENARIOS)}")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--toy", action="store_true", help="a tiny model and a few steps")
    parser.add_argument("--docs", action="store_true", help="run nothing; write FOLDER's results into docs/")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has torch")
    values = parser.parse_args(arguments)
    values.scenarios = TOY if values.toy else SCENARIOS
    if values.only:
        unknown = set(values.only.split(",")) - set(values.scenarios)
        if unknown:
            parser.error(f"--only: no scenario {', '.join(sorted(unknown))}")
        values.scenarios = {name: values.scenarios[name] for name in values.only.split(",")}
    return values


def make_recipe(values: argparse.Namespace, scenario: Scenario) -> Recipe:
    """Return the recipe that all modes of a scenario share."""
    return Recipe(
        new_model=scenario.size,
        lengths=scenario.lengths,
        max_length=scenario.max_length,
        row_length=scenario.row_length,
        batch_size=scenario.batch_size,
        epochs=20,
        seconds=None if values.toy else values.seconds,
        max_steps=4 if values.toy else None,
        skip_steps=1 if values.toy else 8,
        workers=0 if values.toy else 4,
        peer_python=values.peer_python,
    )


def steps_of(values: argparse.Namespace, scenario: Scenario, mode: str) -> int | None:
    """Return jaxbert's steps for about `seconds` at the floor of its targets; the peers measure the time themselves."""
    if values.toy or not mode.startswith("jaxbert"):
        return None
    floor = {"base": 560_000, "large": 170_000}[scenario.size]
    return max(20, round(values.seconds * floor / scenario.tokens))


def parts(scenarios: dict[str, Scenario], tiers: int | None = None) -> Iterator[tuple[str, str, int]]:
    """Yield scenario, mode and round of each part, the most important first; the very first ones repeat at the end.

    With `tiers`, only parts of so many tiers.
    """
    listed = [(tier, name, mode, 0) for name, scenario in scenarios.items() for mode, tier in scenario.tiers.items()]
    again = [(_SECOND_ROUND, name, mode, 1) for tier, name, mode, _ in listed if tier == 0]
    numbers = sorted({tier for tier, *_ in listed} | {tier for tier, *_ in again})[:tiers]
    for tier, name, mode, repeat in sorted([*listed, *again], key=lambda part: part[0]):
        if tier in numbers:
            yield name, mode, repeat


def load(values: argparse.Namespace) -> dict[str, Result]:
    """Return the results of every scenario so far."""
    path = values.output / "results.json"
    earlier = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    contents = dict(earlier)
    for name, scenario in values.scenarios.items():
        runs = {mode: [] for mode in scenario.tiers} | earlier.get(name, {}).get("runs", {})
        if values.retry:
            runs = {mode: [r for r in results if "error" not in r] for mode, results in runs.items()}
        contents[name] = {
            **{key: getattr(scenario, key) for key in ("title", "target", "floor")},
            "rate": _RATE,
            "about": earlier.get(name, {}).get("about", {}),
            "runs": runs,
        }
    return contents


def verdict(content: Result) -> list[str]:
    """Return sentences that compare the numbers with the targets."""
    table = summarize(content["runs"], _RATE)
    rates = {mode: row["median"] for mode, row in table.items() if "median" in row}
    ours = _best(rates, jaxbert=True, nodrop=False)
    lines = []
    if content["target"]:
        said = (
            "UNMEASURED" if ours is None else f"{rates[ours]:,.0f}, {rates[ours] / content['target']:.0%} of the target"
        )
        lines.append(
            f"target: {content['target']:,} real tokens/s (floor {content['floor']:,}); jaxbert's best: {said}"
        )
    for word, nodrop in (("strongest peer", False), ("strongest peer without attention dropout", True)):
        peer = _best(rates, jaxbert=False, nodrop=nodrop)
        mine = _best(rates, jaxbert=True, nodrop=nodrop) or ours
        if peer is None and nodrop:
            continue
        if mine is None or peer is None:
            lines.append(f"{word}: UNMEASURED (target: jaxbert {_AHEAD} times as fast)")
            continue
        ratio = rates[mine] / rates[peer]
        lines.append(f"{word}: {label_of(peer)}; jaxbert's best is {ratio:.2f} times as fast (target {_AHEAD})")
    return lines


def _best(rates: dict[str, float], *, jaxbert: bool, nodrop: bool) -> str | None:
    """Return the fastest mode of jaxbert or of its peers, with or without dropout of attention weights."""
    chosen = [m for m in rates if m.startswith("jaxbert") == jaxbert and m.endswith("-nodrop") == nodrop]
    return max(chosen, key=lambda mode: rates[mode], default=None)


def write(folder: Path, contents: dict[str, Result]) -> None:
    """Write JSON, Markdown and chart."""
    (folder / "results.json").write_text(json.dumps(contents, indent=1) + "\n", "utf-8")
    (folder / "results.md").write_text(sections(contents), "utf-8")
    try:
        draw(contents, folder / "results.png")
    except Exception as error:  # a failed chart must not stop the run
        print(f"no chart: {type(error).__name__}: {error}", file=sys.stderr)


def sections(contents: dict[str, Result]) -> str:
    """Return one section with a table per scenario."""
    parts = []
    for content in contents.values():
        text = markdown(content["runs"], content["about"], _RATE)
        lines = "".join(f"- {line}\n" for line in verdict(content))
        parts.append(f"### {content['title']}\n\n{text}{lines}")
    return "\n".join(parts)


def block_of(contents: dict[str, Result]) -> str:
    """Return the block of docs/benchmarks.md."""
    return f"![Real tokens a second on one GPU](images/compare-gpu.png)\n\n{sections(contents)}"


def run_part(values: argparse.Namespace, name: str, mode: str, repeat: int, seconds_left: float) -> Result:
    """Run a part; any failure is a result."""
    scenario = values.scenarios[name]
    recipe = replace(make_recipe(values, scenario), timeout=min(values.part_seconds, seconds_left))
    try:
        return run_mode(recipe, mode, repeat, max_steps=steps_of(values, scenario, mode))
    except Exception as error:  # a failed part must not stop the others
        return {"error": f"{type(error).__name__}: {error}"}


def run_missing(values: argparse.Namespace, contents: dict[str, Result], end: float) -> bool:
    """Run the parts that have no result until the time is over; return whether none is missing."""
    for name, mode, repeat in parts(values.scenarios, values.tiers):
        done = contents[name]["runs"][mode]
        if len(done) > repeat or (done and "error" in done[-1]):
            continue
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            print(f"no time left for {name} {mode} and what follows: the same command goes on", file=sys.stderr)
            return False
        result = run_part(values, name, mode, repeat, left)
        if left < values.part_seconds and result.get("error", "").startswith(NOT_DONE):
            print(f"the time was over before {name} {mode} was done", file=sys.stderr)
            return False
        done.append(result)
        contents[name]["about"] = machine_facts(contents[name]["runs"])
        said = result.get("error") or f"{result[_RATE] or 0:,.0f} real tokens/s, {result['wall_seconds']:.0f} s in all"
        print(f"{name}  {label_of(mode)}: {said}", file=sys.stderr, flush=True)
        write(values.output, contents)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the missing parts; return the exit code."""
    values = parse_arguments(arguments)
    end = time.monotonic() + 60 * values.minutes
    values.output.mkdir(parents=True, exist_ok=True)
    contents = load(values)
    if values.docs:
        write_block("gpu", contents, block_of(contents), contents)
        return 0
    complete = run_missing(values, contents, end)
    write(values.output, contents)
    print((values.output / "results.md").read_text("utf-8"))
    measured = [
        r for content in contents.values() for ref in references(tuple(content["runs"])) for r in content["runs"][ref]
    ]
    if not complete:
        return _UNFINISHED
    return int(not any(r.get(_RATE) for r in measured))


if __name__ == "__main__":
    sys.exit(main())
