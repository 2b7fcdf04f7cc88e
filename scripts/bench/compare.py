"""Fine-tune the same model on the same data with jaxbert and with the Hugging Face Trainer, in turns, and print a table.

  python scripts/bench/compare.py --model FOLDER --train SST-2/train.tsv --validation SST-2/dev.tsv \
      --limit 4000 --repeats 3 --output compare.json

A mode is `jaxbert-PRECISION`, with `-padded` for unpacked rows, or `peer-PADDING-PRECISION`, with `-tf32` and `-compile` as
peer.py has them; PRECISION is float32 or bfloat16, PADDING is max, dynamic or grouped. One run of every mode makes a round,
so that a change of the machine's load meets all of them. Rates are in steady state: compilation, the first steps,
evaluation and saving are left out. What was not run, or failed, says UNMEASURED.

Both sides run on the GPU where their library sees one; with `--peer-python` the peer may live in another environment.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODES = (
    "jaxbert-float32",
    "jaxbert-bfloat16",
    "jaxbert-float32-padded",
    "peer-max-float32",
    "peer-dynamic-float32",
    "peer-grouped-float32",
    "peer-dynamic-bfloat16",
    "peer-grouped-bfloat16",
)
_MODE = re.compile(
    r"jaxbert-(float32|bfloat16)(-padded)?|peer-(max|dynamic|grouped)-(float32|bfloat16)(-tf32)?(-compile)?"
)
_PEER = Path(__file__).resolve().with_name("peer.py")
_ROOT = _PEER.parents[2]
Result = dict[str, Any]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model", default="sentence-transformers/all-MiniLM-L6-v2", help="a folder, or a cached Hub name"
    )
    parser.add_argument("--train", type=Path, default=Path("SST-2/train.tsv"), help="TSV with raw fields")
    parser.add_argument("--validation", type=Path, default=Path("SST-2/dev.tsv"))
    parser.add_argument("--text", default="sentence")
    parser.add_argument("--label", default="label")
    parser.add_argument("--columns", help="a,b: column names of files that have no header line")
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated; see above")
    parser.add_argument("--baseline", default="peer-dynamic-float32", help="the mode that ratios refer to")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, help="take the first N training rows only")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; every round has the next one")
    parser.add_argument("--skip-steps", type=int, default=5, help="first steps of the peer that are not timed")
    parser.add_argument("--timeout", type=float, help="seconds after which a run is given up")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--output", type=Path, help="file for all results as JSON")
    values = parser.parse_args(arguments)
    values.modes = [mode for mode in values.modes.split(",") if mode]
    for mode in values.modes:
        if not _MODE.fullmatch(mode):
            parser.error(f"unknown mode {mode!r}: choose from {', '.join(MODES)}, or see --help")
    for path in (values.train, values.validation):
        if not path.is_file():
            parser.error(f"{path} does not exist: give the files with --train and --validation")
    if values.repeats < 1:
        parser.error("--repeats must be at least 1")
    return values


def jaxbert_command(values: argparse.Namespace, mode: str, seed: int, folder: Path) -> list[str]:
    """Return the command of a jaxbert run with the peer's recipe."""
    settings = {
        "model.name_or_path": values.model,
        "data.train": values.train,
        "data.validation": values.validation,
        "data.text": values.text,
        "data.label": values.label,
        "data.quoting": "none",
        "data.max_length": values.max_length,
        "data.packing": "false" if mode.endswith("-padded") else "true",
        "train.output_dir": folder / "run",
        "train.batch_size": values.batch_size,
        "train.epochs": values.epochs,
        "train.seed": seed,
        "train.keep_best": "false",
        "optimizer.learning_rate": values.learning_rate,
        "optimizer.schedule": "linear",
        "optimizer.warmup_ratio": 0,
        "optimizer.weight_decay": 0,
        "optimizer.clip_norm": 1.0,
        "precision.compute": mode.split("-")[1],
    }
    if values.limit is not None:
        settings["data.limit"] = values.limit
    if values.max_steps is not None:
        settings["train.max_steps"] = values.max_steps
    if values.columns:
        settings["data.columns"] = f"[{values.columns}]"
    return [sys.executable, "-m", "jaxbert", "train", *(f"--{key}={value}" for key, value in settings.items())]


def peer_command(values: argparse.Namespace, mode: str, seed: int, folder: Path) -> list[str]:
    """Return the command of a run of peer.py."""
    _, padding, precision, *switches = mode.split("-")
    names = ("model", "train", "validation", "text", "label", "columns", "limit", "max_steps", "epochs", "max_length")
    names += ("batch_size", "learning_rate", "skip_steps")
    settings = {name: getattr(values, name) for name in names}
    settings |= {"seed": seed, "padding": padding, "precision": precision, "output": folder / "peer.json"}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if value is not None]
    return [values.peer_python, str(_PEER), *flags, *(f"--{switch}" for switch in switches)]


def run_mode(values: argparse.Namespace, mode: str, seed: int) -> Result:
    """Run a mode once in a folder of its own; a failure is a result with `error`."""
    make_command = jaxbert_command if mode.startswith("jaxbert") else peer_command
    load, begin = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            done = subprocess.run(
                make_command(values, mode, seed, folder),
                capture_output=True,
                text=True,
                timeout=values.timeout,
                env=_environment(),
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {values.timeout:g} s"}
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return {"error": (lines or ["no message"])[-1][:300], "exit_code": done.returncode}
        result = read_jaxbert(folder) if mode.startswith("jaxbert") else json.loads((folder / "peer.json").read_text())
    return {"seed": seed, "load_before": round(load, 2), "wall_seconds": round(time.perf_counter() - begin, 1)} | result


def _environment() -> dict[str, str]:
    """Let jaxbert be found without being installed, and keep both sides off the network."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def read_jaxbert(folder: Path) -> Result:
    """Read a run's summary; its accuracy goes where peer.py has it."""
    summary = json.loads((folder / "run" / "summary.json").read_text())
    summary["accuracy"] = {"validation": summary["eval"].get("accuracy"), "test": None}
    return summary


def summarize(results: dict[str, list[Result]], baseline: str) -> dict[str, Result]:
    """Return for each mode the median, range and ratio of its rates, or why there are none."""
    good = {mode: [r for r in runs if r.get("examples_per_second")] for mode, runs in results.items()}
    medians = {mode: statistics.median(r["examples_per_second"] for r in runs) for mode, runs in good.items() if runs}
    table: dict[str, Result] = {}
    for mode, runs in results.items():
        if mode not in medians:
            reasons = [r.get("error", "too few steps to time") for r in runs]
            table[mode] = {"unmeasured": reasons[0] if reasons else "not run"}
            continue
        rates = [r["examples_per_second"] for r in good[mode]]
        scores = [r["accuracy"]["validation"] for r in good[mode]]
        table[mode] = {
            "runs": len(rates),
            "failed": len(runs) - len(rates),
            "examples_per_second": medians[mode],
            "least": min(rates),
            "most": max(rates),
            "ratio": medians[mode] / medians[baseline] if baseline in medians else None,
            "accuracy": statistics.median(scores),
            "wall_seconds": statistics.median(r["wall_seconds"] for r in good[mode]),
            "device": good[mode][0]["device"],
        }
    return table


def markdown(table: dict[str, Result], baseline: str, about: Result) -> str:
    """Return the table, with what it was measured on below."""
    head = [
        "mode",
        "examples/s (median)",
        "min-max",
        f"ratio to {baseline}",
        "accuracy",
        "whole run, s",
        "runs",
        "device",
    ]
    lines = [head, ["---"] * len(head)]
    for mode, row in table.items():
        if "unmeasured" in row:
            reason = "" if row["unmeasured"] == "not run" else f" ({row['unmeasured']})"
            lines.append([mode, f"UNMEASURED{reason}".replace("|", "/"), *[""] * 6])
            continue
        ratio = "UNMEASURED" if row["ratio"] is None else f"{row['ratio']:.2f}"
        runs = f"{row['runs']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
        rates = f"{row['least']:.1f}-{row['most']:.1f}"
        cells = [
            f"{row['examples_per_second']:.1f}",
            rates,
            ratio,
            f"{row['accuracy']:.4f}",
            f"{row['wall_seconds']:.0f}",
        ]
        lines.append([mode, *cells, runs, row["device"]])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    return f"{body}\n\n{facts}\n"


def describe(values: argparse.Namespace, results: dict[str, list[Result]]) -> Result:
    """Return what was measured, on what, with which software and when."""
    good = [r for runs in results.values() for r in runs if "error" not in r]
    versions = {name: v for r in good for name, v in r.get("versions", {}).items() if name != "python"}
    for result in good:
        if "jax_version" in result:
            versions["jax"] = result["jax_version"]
    threads = sorted({r["torch_threads"] for r in good if "torch_threads" in r})
    rows = "all" if values.limit is None else f"first {values.limit}"
    length = f"{values.epochs} epochs" if values.max_steps is None else f"{values.max_steps} steps"
    return {
        "recipe": f"{Path(values.model).name}, {rows} rows of {values.train.name}, {length}, batch {values.batch_size}, "
        f"at most {values.max_length} tokens, learning rate {values.learning_rate:g}, seeds from {values.seed}",
        "cpu": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "UNMEASURED",
        "torch threads": ", ".join(map(str, threads)) or "UNMEASURED",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rounds and print the table; 1 if any run failed."""
    values = parse_arguments(arguments)
    results: dict[str, list[Result]] = {mode: [] for mode in dict.fromkeys([*values.modes, *MODES])}
    for repeat in range(values.repeats):
        for mode in dict.fromkeys(values.modes):
            result = run_mode(values, mode, values.seed + repeat)
            results[mode].append(result)
            rate = result.get("examples_per_second")
            said = result.get("error") or (f"{rate:.1f} examples/s" if rate else "too few steps to time")
            print(f"round {repeat + 1}/{values.repeats}  {mode}: {said}", file=sys.stderr, flush=True)
    table, about = summarize(results, values.baseline), describe(values, results)
    print(markdown(table, values.baseline, about), end="")
    if values.output is not None:
        content = {"about": about, "baseline": values.baseline, "table": table, "runs": results}
        values.output.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return int(any("error" in r for runs in results.values() for r in runs))


if __name__ == "__main__":
    sys.exit(main())
