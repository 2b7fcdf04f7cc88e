"""Accuracy and seconds of plain fine-tuning, pairs of texts and prompts, with a few labels a class.

  python scripts/bench/few_labels.py --data sst2 --folder SST-2 --model MODEL --output OUT --methods plain contrastive

Draws of `--counts` rows a class are files in OUT/draws, the same for every method and for peer_setfit.py. Each method trains
on each draw through `jaxbert.finetune` in one process and is judged on the evaluation rows. One JSON line for each draw and
method in OUT/results.jsonl; what stands there is skipped. `seconds` are those of the call: reading, compiling or finding the
compiled program, training, export; `compile_seconds` of them are the compiler's. `--table` prints the means of OUT.

The settings of `RECIPES` were chosen on draws from number 100 on.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from few_draws import SOURCES, keep, key_of, make_parser, results, write_draws

import jaxbert

RATES = {"sst2": 5e-5, "thucnews": 5e-4}
"""The learning rate for each data set: that of MiniLM-L6, and that of a small model that was pretrained on the headlines."""
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"learning_rate": RATES, "batch_size": 16, "epochs": {8: 30, 64: 15}},
    "contrastive": {"learning_rate": RATES, "batch_size": 32, "epochs": {8: 10, 64: 10}},
    "prompt": {"learning_rate": RATES, "batch_size": 16, "epochs": {8: 20, 64: 10}},
}
"""The settings of each method; `epochs` by the labels a class, of which the nearest counts."""

PROMPTS: dict[str, dict[str, Any]] = {
    "sst2": {
        "template": "{text} It was [MASK].",
        "verbalizers": {"negative": ["terrible", "bad"], "positive": ["great", "good"]},
    },
    "thucnews": {
        "template": "{text}。这是[MASK][MASK]新闻。",
        "verbalizers": {
            "finance": ["财经"],
            "realty": ["房产"],
            "stocks": ["股票"],
            "education": ["教育"],
            "science": ["科技"],
            "society": ["社会"],
            "politics": ["时政"],
            "sports": ["体育"],
            "game": ["游戏"],
            "entertainment": ["娱乐"],
        },
    },
}


def settings_of(method: str, data: str, count: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a run."""
    keys = RECIPES[method] | changes
    epochs, rate = keys["epochs"], keys["learning_rate"]
    if isinstance(rate, dict):
        keys = keys | {"learning_rate": rate[data]}
    if isinstance(epochs, dict):
        keys = keys | {"epochs": epochs[min(epochs, key=lambda known: abs(known - count))]}
    if method == "plain":
        return keys
    return keys | {"method": method} | ({"prompt": PROMPTS[data]} if method == "prompt" else {})


def measure(values: argparse.Namespace, method: str, count: int, draw: int, train: Path, rows: Path) -> dict[str, Any]:
    """Train on one draw and judge it."""
    folder, source = values.output / "run", SOURCES[values.data]
    shutil.rmtree(folder, ignore_errors=True)
    changes = {name: value for name in ("learning_rate", "batch_size", "epochs") if (value := getattr(values, name))}
    keys = settings_of(method, values.data, count, changes)
    begin = time.perf_counter()
    result = jaxbert.finetune(
        train,
        model=values.model,
        data__text="text",
        data__label="label",
        label_names=list(source.names),
        max_length=source.max_length,
        row_length=source.max_length,  # one shape for all draws
        compute="float32",
        weight_decay=0.0,
        seed=draw,
        output_dir=str(folder),
        report__at_end=False,
        checkpoint_every=100_000,
        cache_dir=None,
        **keys,
    )
    seconds = time.perf_counter() - begin
    model, begin = result.model, time.perf_counter()
    metrics = model.evaluate(rows)
    return {
        "accuracy": metrics["accuracy"],
        "seconds": round(seconds, 2),
        "compile_seconds": result.summary["compile_seconds"],
        "predict_seconds": round(time.perf_counter() - begin, 2),
        "steps": result.summary["steps"],
        "settings": {name: keys[name] for name in ("learning_rate", "batch_size", "epochs")},
        "version": jaxbert.__version__,
    }


def table(folder: Path) -> None:
    """Print mean, spread and seconds of each method."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for line in results(folder):
        groups.setdefault((line["data"], line["count"], line["method"]), []).append(line)
    for (data, count, method), lines in sorted(groups.items()):
        found = [100 * line["accuracy"] for line in lines]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        seconds = statistics.mean(line["seconds"] for line in lines)
        print(
            f"{data:9} {count:3} labels  {method:12} {statistics.mean(found):5.2f} ± {spread:4.2f}  {seconds:6.1f} s  "
            f"{len(lines)} draws"
        )


def main() -> None:
    """Train on every draw that has no result yet, or print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=sorted(RECIPES), default=sorted(RECIPES))
    parser.add_argument("--name", help="the method's name in the results, if its settings are changed")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--table", action="store_true", help="print the means of what is there, and train nothing")
    values = parser.parse_args()
    if values.table:
        table(values.output)
        return
    logging.getLogger("jaxbert").setLevel(logging.ERROR)
    rows, paths = write_draws(values)
    done = set(map(key_of, results(values.output)))
    for (count, draw), path in paths.items():
        for method in values.methods:
            line = {"data": values.data, "count": count, "draw": draw, "method": values.name or method}
            if key_of(line) not in done:
                keep(values.output, line | measure(values, method, count, draw, path, rows))


if __name__ == "__main__":
    main()
