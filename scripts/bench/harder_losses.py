"""What FGM (`train.adversarial`) costs and gives on SST-2 and THUCNews: accuracy, robustness, the time of a step.

  python scripts/bench/harder_losses.py --data DATA --sst2 MODEL --thucnews MODEL --output OUT

DATA has the folders `glue_SST-2` and `thucnews`; each MODEL is a folder or a name on the Hub; without one a set is left out.
The first rows of the training files are trained on, plain and with FGM, from the same seeds; there is one evaluation, at the
end. Robustness is the mean accuracy over all kinds of disturbances, at each strength, on `--disturbed` of the rows.
OUT/results.jsonl has a line for each run; a line that is there is not made again, so the command can be stopped. At the end
short runs take turns, and the medians of their steps' times are compared. The last thing printed is a JSON object of all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from few_draws import Rows, read_set, spread_rows

import jaxbert

FOLDERS = {"sst2": "glue_SST-2", "thucnews": "thucnews"}
"""The folder of each data set below that of all."""
METHODS: dict[str, dict[str, Any]] = {"plain": {}, "fgm": {"adversarial": "fgm"}}
TURNS, STEPS = 3, 40
"""How often each method is timed, and for how many steps."""


def recipe(values: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return the keys that all runs of a data set share."""
    rates = {"sst2": values.sst2_rate, "thucnews": values.thucnews_rate}
    return {
        "model": getattr(values, name),
        "max_length": 128 if name == "sst2" else 64,
        "batch_size": 32,
        "epochs": values.epochs,
        "learning_rate": rates[name],
        "eval_every": 10**9,
        "compute": "float32",
        "report__at_end": False,
    }


def measure(rows: Rows, test: Rows, disturbed: int, keys: dict[str, Any]) -> dict[str, Any]:
    """Train once; return accuracy, robustness by strength, and what they are the means of."""
    with tempfile.TemporaryDirectory() as folder:
        result = jaxbert.finetune(rows, validation=test, output_dir=f"{folder}/run", **keys)
        found = result.model.robustness(spread_rows(test, disturbed))["disturbed"]
    strengths = sorted({each["strength"] for each in found})
    means = {
        str(strength): statistics.mean(each["value"] for each in found if each["strength"] == strength)
        for strength in strengths
    }
    kinds = {f"{each['kind']} {each['strength']}": each["value"] for each in found}
    rates = {"examples_per_second": result.summary["examples_per_second"], "steps": result.summary["steps"]}
    return {"accuracy": result.metrics["accuracy"], "robustness": means, **rates, "kinds": kinds}


def step_time(rows: Rows, keys: dict[str, Any]) -> float:
    """Return the median seconds between two steps of a short run, without those that compile."""
    times: list[float] = []

    def note(event: str, step: int, told: dict[str, Any]) -> None:
        if event == "step":
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        jaxbert.finetune(rows, output_dir=f"{folder}/run", callbacks=note, **keys, max_steps=STEPS)
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the results that are there."""
    yield from map(json.loads, path.read_text("utf-8").splitlines() if path.exists() else ())


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a result, and print it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps({key: value for key, value in line.items() if key != "kinds"}), flush=True)


def mean_and_spread(values: list[float]) -> dict[str, float]:
    """Return the mean and the sample standard deviation."""
    return {"mean": statistics.mean(values), "spread": statistics.stdev(values) if len(values) > 1 else 0.0}


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means and spreads of each data set and method, and of FGM minus plain, seed by seed."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(line["set"] for line in results):
        mine = {(line["method"], line["seed"]): line for line in results if line["set"] == name}
        numbers = {
            key: {"accuracy": line["accuracy"]} | {f"robustness {s}": v for s, v in line["robustness"].items()}
            for key, line in mine.items()
        }
        found[name] = {
            method: {
                metric: mean_and_spread([values[metric] for (other, _), values in numbers.items() if other == method])
                for metric in next(iter(numbers.values()))
            }
            for method in dict.fromkeys(method for method, _ in mine)
        }
        seeds = [seed for method, seed in mine if method == "fgm" and ("plain", seed) in mine]
        if seeds:
            found[name]["fgm - plain"] = {
                metric: mean_and_spread([numbers["fgm", s][metric] - numbers["plain", s][metric] for s in seeds])
                for metric in numbers["fgm", seeds[0]]
            }
    return found


def main() -> None:
    """Train, measure, time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sst2", help="the model for SST-2")
    parser.add_argument("--thucnews", help="the model for THUCNews")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--disturbed", type=int, default=2000, help="the most rows whose texts are disturbed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sst2_rate", type=float, default=5e-5)
    parser.add_argument("--thucnews_rate", type=float, default=2e-4)
    parser.add_argument("--no_times", action="store_true", help="leave out the times of a step")
    values = parser.parse_args()
    values.output.mkdir(parents=True, exist_ok=True)
    path, times = values.output / "results.jsonl", {}
    for name in (name for name in FOLDERS if getattr(values, name)):
        train, test = read_set(name, values.data / FOLDERS[name])
        rows, keys = train[: values.rows], recipe(values, name)
        for seed in range(values.seeds):
            for method, own in METHODS.items():
                which = {"set": name, "method": method, "seed": seed, "rows": len(rows), "epochs": values.epochs}
                if not any(which.items() <= line.items() for line in lines_of(path)):
                    append(path, which | measure(rows, test, values.disturbed, {**keys, **own, "seed": seed}))
        if not values.no_times:
            turns = [{m: step_time(rows, {**keys, **own}) for m, own in METHODS.items()} for _ in range(TURNS)]
            times[name] = {m: statistics.median(turn[m] for turn in turns) for m in METHODS}
            times[name]["ratio"] = statistics.median(turn["fgm"] / turn["plain"] for turn in turns)
    print(json.dumps({**summarize([*lines_of(path)]), "step_seconds": times}, indent=1))


if __name__ == "__main__":
    main()
