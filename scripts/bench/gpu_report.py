"""What gpu_all.sh makes of its results: one short summary, and the kernels of a trace.

python scripts/bench/gpu_report.py summary OUT           OUT/summary.md, from the results that OUT holds
python scripts/bench/gpu_report.py trace FOLDER OUT      OUT/trace.json (time by kernel), and the trace itself if it is small
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MOST_KERNELS = 60
_SHOWN_KERNELS = 15
_MOST_BYTES = 12 * 2**20
_NOTHING = "UNMEASURED\n"
Result = dict[str, Any]


def kernel_times(events: Sequence[Result]) -> list[Result]:
    """Return name, calls and milliseconds of each kernel of a trace in Chrome's format, the longest first.

    On a GPU these are the events on its streams; elsewhere those that name an operation of the compiled program.
    """
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in events if event.get("name") == "thread_name"
    }
    streams = {place for place, name in threads.items() if name.startswith("Stream")}
    totals: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("ph") != "X":
            continue
        on_stream = (event["pid"], event.get("tid")) in streams
        if on_stream or (not streams and "hlo_op" in event.get("args", {})):
            totals[event["name"]].append(event["dur"] / 1e3)
    rows = [{"name": name, "calls": len(times), "ms": round(sum(times), 4)} for name, times in totals.items()]
    return sorted(rows, key=lambda row: -row["ms"])


def write_trace(folder: Path, out: Path) -> None:
    """Write the kernels of the newest trace in a folder, and copy the trace if it is small."""
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise SystemExit(f"error: {folder} holds no trace")
    with gzip.open(files[-1], "rt", encoding="utf-8") as file:
        rows = kernel_times(json.load(file)["traceEvents"])
    if files[-1].stat().st_size <= _MOST_BYTES:
        shutil.copyfile(files[-1], out / "trace.json.gz")
    content = {"total_ms": round(sum(row["ms"] for row in rows), 3), "kernels": rows[:_MOST_KERNELS]}
    (out / "trace.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def summary(out: Path) -> str:
    """Return the summary of the results of a folder; what has no result says UNMEASURED."""
    results = out / "results.md"
    parts = {
        "Parts": _parts(out / "parts.tsv"),
        "Kernels on the device": _kernels(_read(out / "kernels.json")),
        "Tuning": _tuning(_read(out / "tune.json"), _read(out / "tuning.json")),
        "Trace": _trace(_read(out / "trace.json")),
        "Prediction and pretraining": _benches(out),
        "Scenarios": results.read_text("utf-8") if results.is_file() else _NOTHING,
    }
    return "\n".join(f"## {title}\n\n{text}" for title, text in parts.items())


def _read(path: Path) -> Result:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _parts(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return "".join("- {}: {}, {} s\n".format(*line.split("\t")) for line in lines) or _NOTHING


def describe(found: Result) -> str:
    """Return the outcome of a check of gpu_kernels.py as text."""
    if "found" not in found:
        return found.get("refused") or found["error"]
    worst = ", ".join(f"{name} {value:.1e}" for name, value in found["found"].items())
    return f"{'ok' if found['ok'] else 'WRONG'} ({worst})"


def _kernels(result: Result) -> str:
    if not result:
        return _NOTHING
    rows = "".join(f"- {title}: {describe(check)}\n" for title, check in result["checks"].items())
    return f"{result['device']}, jax {result['versions']['jax']}; the largest differences\n\n{rows}"


def _tuning(tuned: Result, sweep: Result) -> str:
    lines = []
    for row in tuned.get("rows", []):
        ratio = "" if row["ratio"] is None else f", {row['ratio']:.3f} of the default's"
        times = row["error"] or f"{row['ms']:,.3f} ms{ratio}"
        lines.append(f"- {row['part']}: {row['candidate']}: {times}{', best' if row['best'] else ''}\n")
    for row in sweep.get("rows", []):
        settings = ", ".join(f"{key} {value}" for key, value in row.get("settings", {}).items())
        rate = row.get("result", {}).get("real_tokens_per_second")
        lines.append(
            f"- {settings}: {row.get('error', 'UNMEASURED') if rate is None else f'{rate:,.0f} real tokens/s'}\n"
        )
    return "".join(lines) or _NOTHING


def _trace(result: Result) -> str:
    if not result:
        return _NOTHING
    total = result["total_ms"] or 1.0
    rows = "".join(
        f"- {row['ms'] / total:.1%} ({row['ms']:.2f} ms, {row['calls']} calls) `{row['name'][:90]}`\n"
        for row in result["kernels"][:_SHOWN_KERNELS]
    )
    return f"{result['total_ms']:.1f} ms of kernels\n\n{rows}"


def _benches(out: Path) -> str:
    lines = []
    for name, key in (("predict", "predict_real_tokens_per_second"), ("pretrain", "real_tokens_per_second")):
        rate = _read(out / f"{name}.json").get(key)
        lines.append(f"- {name}: {'UNMEASURED' if rate is None else f'{rate:,.0f} real tokens/s'}\n")
    return "".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Run the verb of the command line."""
    verb, *paths = arguments
    if verb == "trace":
        write_trace(*map(Path, paths))
    else:
        out = Path(paths[0])
        (out / "summary.md").write_text(summary(out), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
