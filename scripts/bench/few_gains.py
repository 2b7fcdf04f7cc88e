"""What each option gives with 64 labels a class on SST-2 and THUCNews: ten draws, each option against plain training.

  python scripts/bench/few_gains.py --data DATA --sst2 MODEL --thucnews MODEL --output OUT [--methods plain,r_drop]

DATA has the folders `glue_SST-2` and `thucnews`; each MODEL is a folder or a name on the Hub; without one a set is left out.
All methods share the rows of a draw (`few_draws.py`), the model, the seed and the recipe, chosen for plain training on draws
from 100 on; there is one evaluation, at the end. `refill` needs a model that fills in words, by --sst2_refill and
--thucnews_refill. Self-training gets rows that were not drawn, without their labels, and is calibrated on a fifth of the
drawn rows, which it does not learn from. OUT/results.jsonl has a line for each run; a line that is there is not made again,
so the command can be stopped. The last thing printed is a JSON object: of each method the mean and the sample standard
deviation over the draws, of its accuracy and of its difference from plain on the same draw.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from few_draws import SOURCES, Rows, draw_rows, read_set
from harder_losses import FOLDERS, append, lines_of, mean_and_spread

import jaxbert

METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "focal": {"focal_gamma": 2.0},
    "r_drop": {"r_drop": 1.0},
    "fgm": {"adversarial": "fgm"},
    "ema": {"ema": 0.95},
    "word_dropout": {"augment": {"word_dropout": 0.1}},
    "swap": {"augment": {"swap": 0.1}},
    "punctuation": {"augment": {"punctuation": 0.3}},
    "refill": {"augment": {"refill": 0.1}},
    "all_three": {"augment": {"word_dropout": 0.1, "swap": 0.1, "punctuation": 0.3, "share": 0.5}},
    "self_training": {"self_training": {"rounds": 1, "threshold": 0.9}},
}
UNLABELLED = 5000
"""The most rows without labels for self-training: the first ones that were not drawn."""


def recipe(values: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return the keys that all runs of a data set share."""
    sst2 = name == "sst2"
    return {
        "model": getattr(values, name),
        "max_length": 64,
        "row_length": 64,
        "batch_size": 16,
        "epochs": values.sst2_epochs if sst2 else values.thucnews_epochs,
        "learning_rate": values.sst2_rate if sst2 else values.thucnews_rate,
        "eval_every": 10**9,
        "checkpoint_every": 10**9,
        "compute": "float32",
        "report__at_end": False,
    }


def held_out(rows: Rows, per_class: int) -> tuple[Rows, Rows]:
    """Return four fifths of the drawn rows, and the last fifth of each class."""
    last = per_class - per_class // 5
    return (
        [row for place, row in enumerate(rows) if place % per_class < last],
        [row for place, row in enumerate(rows) if place % per_class >= last],
    )


def measure(name: str, number: int, values: argparse.Namespace, method: str, data: tuple[Rows, Rows]) -> dict[str, Any]:
    """Train once on a draw; return the accuracy on the rows to evaluate on, and the seconds."""
    rows = draw_rows(data[0], SOURCES[name].names, values.per_class, number)
    keys: dict[str, Any] = {**recipe(values, name), **METHODS[method], "validation": data[1]}
    if method == "refill":
        keys["augment"] = {**keys["augment"], "refill_model": getattr(values, f"{name}_refill")}
    if method == "self_training":
        rows, validation = held_out(rows, values.per_class)
        drawn = {row["text"] for row in [*rows, *validation]}
        texts = [{"text": row["text"]} for row in data[0] if row["text"] not in drawn][:UNLABELLED]
        keys |= {"validation": validation, "test": data[1], "unlabelled": texts}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = jaxbert.finetune(rows, output_dir=f"{folder}/run", seed=number, **keys)
    metrics = result.summary["test" if method == "self_training" else "eval"]
    found = {"accuracy": metrics["accuracy"], "seconds": round(time.perf_counter() - begin, 1)}
    rounds = result.summary.get("self_training")
    return found if rounds is None else found | {"self_training": rounds}


def summarize(results: list[dict[str, Any]], per_class: int) -> dict[str, Any]:
    """Return means and spreads of each data set and method, and of the differences from plain on the same draw."""
    found: dict[str, Any] = {}
    for name in FOLDERS:
        mine = {
            (line["method"], line["draw"]): line
            for line in results
            if line["set"] == name and line["per_class"] == per_class
        }
        for method in METHODS:
            values = {number: line["accuracy"] for (other, number), line in mine.items() if other == method}
            both = [value - mine["plain", d]["accuracy"] for d, value in values.items() if ("plain", d) in mine]
            if values:
                seconds = statistics.mean(mine[method, number]["seconds"] for number in values)
                found.setdefault(name, {})[method] = {
                    "draws": len(values),
                    "accuracy": mean_and_spread([*values.values()]),
                    "seconds": round(seconds, 1),
                } | ({"against plain": mean_and_spread(both)} if both and method != "plain" else {})
    return found


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sst2", help="the model for SST-2")
    parser.add_argument("--thucnews", help="the model for THUCNews")
    parser.add_argument("--sst2_refill", help="the model that fills in English words")
    parser.add_argument("--thucnews_refill", help="the model that fills in Chinese words")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--per_class", type=int, default=64)
    parser.add_argument("--draws", default="0-9", help="first-last")
    parser.add_argument("--sst2_epochs", type=int, default=10)
    parser.add_argument("--sst2_rate", type=float, default=5e-5)
    parser.add_argument("--thucnews_epochs", type=int, default=10)
    parser.add_argument("--thucnews_rate", type=float, default=5e-4)
    values = parser.parse_args()
    values.output.mkdir(parents=True, exist_ok=True)
    path = values.output / "results.jsonl"
    first, _, last = values.draws.partition("-")
    data = {name: read_set(name, values.data / FOLDERS[name]) for name in FOLDERS if getattr(values, name)}
    for number in range(int(first), int(last or first) + 1):
        for name in data:
            for method in values.methods.split(","):
                if method == "refill" and not getattr(values, f"{name}_refill"):
                    continue
                which = {"set": name, "method": method, "draw": number, "per_class": values.per_class}
                shared = recipe(values, name)
                which |= {"epochs": shared["epochs"], "learning_rate": shared["learning_rate"]}
                if not any(which.items() <= line.items() for line in lines_of(path)):
                    append(path, which | measure(name, number, values, method, data[name]))
    print(json.dumps(summarize([*lines_of(path)], values.per_class), indent=1))


if __name__ == "__main__":
    main()
