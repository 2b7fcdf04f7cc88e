"""How much a smaller model loses and gains: distilled to fewer layers, and with half of its feed-forward columns.

  python scripts/bench/smaller.py --model MODEL --data FOLDER --output OUT

FOLDER holds train.tsv and dev.tsv of GLUE's SST-2. The teacher is fine-tuned on the first rows. Its student has every second
layer of it and learns from its answers; beside it the same layers learn from the labels alone, with the same rows, steps and
rates; a third time the teacher also answers for twice as many further rows, whose labels are hidden. Then the teacher loses
half of its columns and is trained further, with and without its own answers. Every run is a folder in OUT: a run that is
there is not trained again, so the command can be stopped, and `--only` takes some of them. The last part times the answers
for dev.tsv, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jaxbert

ROUNDS = 7
"""How often each model answers for dev.tsv; the median counts."""


def plan(values: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the keys of each run by its name, in their order."""
    teacher = str(values.output / "teacher")
    runs: dict[str, dict[str, Any]] = {
        "teacher": {"model__name_or_path": values.model, "epochs": values.teacher_epochs}
    }
    layers = {"model__name_or_path": teacher, "model__layers": values.layers, "epochs": values.epochs}
    columns = {"model__name_or_path": teacher, "prune": {"intermediate": 0.5}, "epochs": 1}
    taught = {"teacher": teacher, "distill": {"weight": 0.7, "hidden": 1.0}}
    for seed in range(values.seeds):
        runs[f"layers-{seed}"] = {**layers, "seed": seed}
        runs[f"layers-distilled-{seed}"] = {**layers, **taught, "seed": seed}
    more = write_unlabelled(values)
    for seed in range(values.seeds):
        runs[f"layers-unlabelled-{seed}"] = {**layers, **taught, "unlabelled": more, "epochs": 1, "seed": seed}
    for seed in range(values.seeds):
        runs[f"columns-{seed}"] = {**columns, "seed": seed}
    runs["columns-distilled-0"] = {**columns, "teacher": teacher, "distill": {"weight": 0.7}}
    return runs


def write_unlabelled(values: argparse.Namespace) -> str:
    """Write the texts of the next rows, twice as many as those with labels, without their labels; return the path."""
    path, lines = values.output / "unlabelled.tsv", (values.data / "train.tsv").read_text("utf-8").splitlines()
    values.output.mkdir(parents=True, exist_ok=True)
    texts = [line.rpartition("\t")[0] for line in lines[1 + values.rows : 1 + 3 * values.rows]]
    path.write_text("\n".join(["sentence", *texts]) + "\n", "utf-8")
    return str(path)


def train(values: argparse.Namespace, name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Train a run unless it is complete; return its summary."""
    folder = values.output / name
    if not (folder / "summary.json").exists():
        jaxbert.finetune(
            values.data / "train.tsv",
            validation=values.data / "dev.tsv",
            data__text="sentence",
            quoting="none",
            limit=values.rows,
            max_length=128,
            batch_size=32,
            learning_rate=5e-5,
            weight_decay=0.0,
            compute="float32",
            keep_best=False,
            output_dir=str(folder),
            report__at_end=False,
            **keys,
        )
    return json.loads((folder / "summary.json").read_text())


def rates(values: argparse.Namespace, names: list[str]) -> dict[str, float]:
    """Return the answers a second of each run's model for dev.tsv, packed, the models in turns."""
    from jaxbert.config import DataConfig
    from jaxbert.train.inference import open_trained

    models, seconds = {name: open_trained(str(values.output / name)) for name in names}, {name: [] for name in names}
    data = DataConfig(text="sentence", quoting="none")
    examples = models[names[0]].task.read_for(str(values.data / "dev.tsv"), data, models[names[0]].tokenizer, 128)
    for turn in range(ROUNDS + 1):  # the first one compiles
        for name, model in models.items():
            begin = time.perf_counter()
            model.predictor(model.params, examples)
            seconds[name] += [time.perf_counter() - begin] if turn else []
    return {name: len(examples) / statistics.median(times) for name, times in seconds.items()}


def show_rates(values: argparse.Namespace) -> None:
    """Time and print."""
    timed = rates(values, ["teacher", "layers-distilled-0", "columns-0"])
    for name, rate in timed.items():
        print(f"{name:22} {rate:.0f} answers/s, {rate / timed['teacher']:.2f} times the teacher's")


def main() -> None:
    """Train what is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--teacher_epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="train only these runs, and time nothing")
    parser.add_argument("--rates", action="store_true", help="time the runs that are there, and train nothing")
    values = parser.parse_args()
    if values.rates:
        show_rates(values)
        return
    runs = plan(values)
    wanted = runs if values.only is None else {name: runs[name] for name in values.only}
    summaries = {name: train(values, name, keys) for name, keys in wanted.items()}
    for name, summary in summaries.items():
        print(f"{name:22} accuracy {summary['eval']['accuracy']:.4f}  parameters {summary['parameters']:,}")
    if values.only is None:
        show_rates(values)
        for kind in ("layers", "layers-distilled", "layers-unlabelled", "columns"):
            found = [summaries[f"{kind}-{seed}"]["eval"]["accuracy"] for seed in range(values.seeds)]
            share = statistics.mean(found) / summaries["teacher"]["eval"]["accuracy"]
            print(f"{kind:22} mean accuracy {statistics.mean(found):.4f}, {share:.2%} of the teacher's")


if __name__ == "__main__":
    main()
