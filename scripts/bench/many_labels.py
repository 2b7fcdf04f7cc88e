"""What many labels cost: sizes of what a run writes, and the memory of `evaluate`, beside a run with two labels.

    python scripts/bench/many_labels.py VOCAB --labels 10000

Each label has two training rows; a new model of size `tiny` is trained for one step, evaluated and saved, and `jaxbert
evaluate` reads the validation rows again. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

JAXBERT = (sys.executable, "-m", "jaxbert")


def rows(task: str, labels: int, count: int) -> Iterator[str]:
    """Yield records with the labels in turn; in multi-label data every second text has the next label too."""
    for number in range(count):
        given = f"sku{number % labels:05d}"
        if task == "multi_label" and number % 2:
            given = f'"{given},sku{(number + 1) % labels:05d}"'
        yield f"buy item {number},{given}\n"


def peak_of(command: list[str]) -> float:
    """Run a command quietly; return its peak resident memory in MB."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def measure(task: str, labels: int, checked: int, vocab: str, folder: Path) -> dict[str, float]:
    """Train one step and evaluate; return sizes in bytes and the peak memory of `evaluate` in MB."""
    written = list(rows(task, labels, max(2 * labels, checked)))
    train, dev, run = folder / "train.csv", folder / "dev.csv", folder / "run"
    train.write_text("text,label\n" + "".join(written))
    dev.write_text("text,label\n" + "".join(written[-checked:]))
    data = {"data.train": train, "data.validation": dev, "data.cache_dir": "null", "train.output_dir": run}
    keys = data | {"model.name_or_path": "tiny", "model.vocab": vocab, "train.max_steps": 1, "train.batch_size": 32}
    flags = [text for key, value in keys.items() for text in (f"--{key}", str(value))]
    peak_of([*JAXBERT, "train", "--task", task, *flags])
    peak = peak_of([*JAXBERT, "evaluate", "--model", str(run), "--data", str(dev), "--output", str(folder / "m.json")])
    kept = [path for path in (run / "checkpoints" / "1").glob("progress/*") if path.is_file()]
    return {
        "longest line of `metrics.jsonl`, B": max(map(len, (run / "metrics.jsonl").read_bytes().splitlines())),
        "progress in a checkpoint, B": sum(path.stat().st_size for path in kept),
        "`summary.json`, B": (run / "summary.json").stat().st_size,
        "what `evaluate` writes, B": (folder / "m.json").stat().st_size,
        "peak of `evaluate`, MB": peak,
    }


def main() -> None:
    """Measure both tasks with two labels and with many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocab", help="a vocabulary file")
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=2000, help="to evaluate")
    values = parser.parse_args()
    found = {}
    for task in ("classification", "multi_label"):
        for labels in (2, values.labels):
            with tempfile.TemporaryDirectory() as folder:
                found[f"{task}, {labels:,}"] = measure(task, labels, values.rows, values.vocab, Path(folder))
    names = list(next(iter(found.values())))
    print("| | " + " | ".join(found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(f"{case[name]:,.0f}" for case in found.values()) + " |")


if __name__ == "__main__":
    main()
