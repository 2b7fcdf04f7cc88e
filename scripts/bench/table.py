"""Results to a Markdown table, and into a document between its marks.

  python scripts/bench/table.py docs/results/sst2-batch32.json     writes block and chart of a comparison again

A block stands between `<!-- compare:NAME:begin -->` and `<!-- compare:NAME:end -->`; what stands there is replaced.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modes import label_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
_RATES = {"examples_per_second": "examples/s", "real_tokens_per_second": "real tokens/s"}


@dataclass(frozen=True)
class _Column:
    """A column that is shown if runs have its number and `rate` is the rate of the table."""

    name: str
    head: str
    form: str
    unit: float = 1
    rate: str | None = None

    def cell(self, value: float | None) -> str:
        return "" if value is None else self.form.format(value / self.unit)


_COLUMNS = (
    _Column("accuracy", "accuracy", "{:.4f}"),
    _Column("step_ms", "ms a step", "{:.2f}", rate="real_tokens_per_second"),
    _Column("peak_memory_bytes", "peak GiB", "{:.1f}", 2**30, rate="real_tokens_per_second"),
)
Result = dict[str, Any]
Runs = dict[str, list[Result]]


def references(modes: Sequence[str]) -> tuple[str, ...]:
    """Return the jaxbert modes with which the others are compared: the first of each precision."""
    ours = [mode for mode in modes if mode.startswith("jaxbert-") and "-padded" not in mode]
    first = {mode.split("-")[1]: mode for mode in reversed(ours)}
    return tuple(mode for mode in ours if mode in first.values())


def summarize(runs: Runs, rate: str = "examples_per_second") -> dict[str, Result]:
    """Return the median and range of each mode's rates and jaxbert's factor over it, or the reason if there are none."""
    good = {mode: [r for r in results if r.get(rate)] for mode, results in runs.items()}
    medians = {mode: statistics.median(r[rate] for r in results) for mode, results in good.items() if results}
    table: dict[str, Result] = {}
    for mode, results in runs.items():
        if mode not in medians:
            reasons = [r.get("error", "too few steps to time") for r in results]
            table[mode] = {"unmeasured": reasons[-1] if reasons else "not run"}
            continue
        table[mode] = {
            "runs": len(good[mode]),
            "failed": len(results) - len(good[mode]),
            "median": medians[mode],
            "least": min(r[rate] for r in good[mode]),
            "most": max(r[rate] for r in good[mode]),
            "ratios": {ref: medians[ref] / medians[mode] for ref in references(tuple(runs)) if ref in medians},
            **{name: _median(good[mode], name) for name in (*_RATES, "step_ms", "peak_memory_bytes")},
            "accuracy": _median([r.get("accuracy") or {} for r in good[mode]], "validation"),
        }
    return table


def _median(results: list[Result], name: str) -> float | None:
    values = [r[name] for r in results if r.get(name) is not None]
    return statistics.median(values) if values else None


def markdown(runs: Runs, about: Result, rate: str = "examples_per_second") -> str:
    """Return the table, with the machine and software below it."""
    table = summarize(runs, rate)
    other = next(name for name in _RATES if name != rate)
    ours = references(tuple(runs))
    heads = ["mode", _RATES[rate], "min-max", _RATES[other], *(f"{label_of(ref)} / this" for ref in ours)]
    shown = [
        c for c in _COLUMNS if c.rate in (None, rate) and any(row.get(c.name) is not None for row in table.values())
    ]
    heads += [*(column.head for column in shown), "runs"]
    lines = [heads, ["---"] * len(heads)]
    for mode, row in table.items():
        if "unmeasured" in row:
            reason = "" if row["unmeasured"] == "not run" else f" ({row['unmeasured']})"
            lines.append([label_of(mode), _cell(f"UNMEASURED{reason}"), *[""] * (len(heads) - 2)])
            continue
        ratios = [f"{row['ratios'][ref]:.2f}" if ref in row["ratios"] else "UNMEASURED" for ref in ours]
        extra = [column.cell(row[column.name]) for column in shown]
        spread = f"{_rate(row['least'])}-{_rate(row['most'])}"
        count = f"{row['runs']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
        lines.append([label_of(mode), _rate(row["median"]), spread, _rate(row[other]), *ratios, *extra, count])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    return f"{body}\n\n{facts}\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").replace("<", "(").replace(">", ")").split())


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"


def versions_of(runs: Runs) -> str:
    """Return the software of each tool that ran."""
    found: dict[str, dict[str, str]] = {}
    for mode, results in runs.items():
        for result in results:
            said = {name: v for name, v in result.get("versions", {}).items() if name != "python"}
            if "jax_version" in result:
                said |= {"jax": result["jax_version"]}
            found.setdefault(mode.split("-")[0], {}).update(said)
    words = {"peer": "Trainer", "varlen": "PyTorch, unpadded", "legacy": "legacy Flax class"}
    told = {tool: ", ".join(f"{name} {v}" for name, v in sorted(said.items())) for tool, said in found.items() if said}
    return "; ".join(f"{words.get(tool, tool)}: {text}" for tool, text in told.items()) or "UNMEASURED"


def machine_facts(runs: Runs) -> Result:
    """Return the machine, software and date of the runs."""
    good = [r for results in runs.values() for r in results if "error" not in r]
    loads = [r["load_before"] for r in good]
    threads = sorted({r["torch_threads"] for r in good if "torch_threads" in r})
    devices = sorted({r["device"] for r in good})
    return {
        "hardware": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores; devices: {', '.join(devices) or 'UNMEASURED'}",
        "torch threads": ", ".join(map(str, threads)) or "UNMEASURED",
        "load average before a run": f"{min(loads)} to {max(loads)}" if loads else "UNMEASURED",
        "versions": f"Python {platform.python_version()}; {versions_of(runs)}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu_name() -> str:
    """Return the processor's name as given by the system."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def replace_block(text: str, name: str, block: str) -> str:
    """Return a document with its block replaced, or with the block added at its end."""
    begin, end = f"<!-- compare:{name}:begin -->", f"<!-- compare:{name}:end -->"
    new = f"{begin}\n{block.strip()}\n{end}"
    if (begin in text) != (end in text) or text.count(begin) > 1:
        raise SystemExit(f"error: the marks of {name} do not come in one pair: write {begin} and {end} once each")
    if begin not in text:
        return f"{text.rstrip()}\n\n{new}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: new, text, flags=re.DOTALL)


def block_of(content: Result) -> str:
    """Return the block of a comparison: chart and table."""
    title = f"![{content['about'].get('recipe', content['name'])}](images/compare-{content['name']}.png)"
    return f"{title}\n\n{markdown(content['runs'], content['about'], content['rate'])}"


def write_block(name: str, content: Result, block: str, panels: dict[str, Result], docs: Path = DOCS) -> None:
    """Write results, the block of docs/benchmarks.md and the chart of its panels."""
    from chart import draw

    for folder in ("results", "images"):
        (docs / folder).mkdir(exist_ok=True)
    (docs / "results" / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    page = docs / "benchmarks.md"
    page.write_text(replace_block(page.read_text("utf-8"), name, block), "utf-8")
    draw(panels, docs / "images" / f"compare-{name}.png")


def write_docs(content: Result, docs: Path = DOCS) -> None:
    """Write the results of a comparison into the documents."""
    write_block(content["name"], content, block_of(content), {content["name"]: content}, docs)


def main(arguments: Sequence[str]) -> None:
    """Write the blocks and charts of the named results again."""
    for path in arguments:
        write_docs(json.loads(Path(path).read_text("utf-8")))


if __name__ == "__main__":
    main(sys.argv[1:])
