"""Say what pretraining on a task's own text gives: fine-tune the same small model from there and from random weights.

  python scripts/bench/pretrain_gain.py --data SST-2 --work DIR --labelled 500 --output gain.json

`--data` holds train.tsv and dev.tsv with columns `sentence` and `label`. The texts of all training rows of `--words` words
and more (most of SST-2's rows are phrases of others) are pretrained on, without labels; the first `--labelled` rows are
fine-tuned on, once for each seed and start, by one recipe. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def jaxbert(verb: str, **keys: Any) -> dict[str, Any]:
    """Run a verb to its end; return its summary, with the seconds of the run."""
    flags = [f"--{name.replace('__', '.')}={_flag(value)}" for name, value in keys.items()]
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jaxbert", verb, *flags], check=True)
    summary = json.loads((Path(keys["train__output_dir"]) / "summary.json").read_text())
    return summary | {"seconds": time.perf_counter() - begin}


def _flag(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--labelled", type=int, default=500)
    parser.add_argument("--pretrain-steps", type=int, default=8000)
    parser.add_argument("--pretrain-rate", type=float, default=2e-3)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def write_long(source: Path, words: int, target: Path) -> Path:
    """Write the header and the rows whose sentence has at least `words` words."""
    header, *rows = source.read_text("utf-8").splitlines()
    kept = [row for row in rows if len(row.split("\t")[0].split()) >= words]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join([header, *kept]) + "\n", "utf-8")
    return target


def main() -> None:
    """Pretrain, fine-tune from both starts, and write the accuracies."""
    values = parse()
    shared = {"data__text": "sentence", "data__quoting": "none", "data__train": values.data / "train.tsv"}
    pretrained = values.work / "pretrained"
    summary = jaxbert(
        "pretrain",
        **(shared | {"data__train": write_long(values.data / "train.tsv", values.words, values.work / "texts.tsv")}),
        data__validation=values.data / "dev.tsv",
        model__name_or_path=values.size,
        data__max_length=64,
        data__row_length=128,
        pretrain__vocab_size=6000,
        pretrain__next_sentence=False,
        pretrain__sentences="line",
        pretrain__masking_probability=0.25,
        train__batch_size=128,
        train__eval_every=500,
        train__max_steps=values.pretrain_steps,
        train__output_dir=pretrained,
        optimizer__learning_rate=values.pretrain_rate,
    )
    result: dict[str, Any] = {"pretraining": {name: summary[name] for name in ("steps", "train_loss", "seconds")}}
    fine = {
        **shared,
        "data__validation": values.data / "dev.tsv",
        "data__limit": values.labelled,
        "train__epochs": values.epochs,
        "train__keep_best": False,
        "optimizer__learning_rate": values.rate,
    }
    starts = {
        "random": {"model__name_or_path": values.size, "model__vocab": pretrained / "vocab.txt"},
        "pretrained": {"model__name_or_path": pretrained},
    }
    for name, start in starts.items():
        folders = {seed: values.work / f"{name}{seed}" for seed in range(values.seeds)}
        runs = [jaxbert("train", **fine, **start, train__seed=s, train__output_dir=f) for s, f in folders.items()]
        found = [run["eval"]["accuracy"] for run in runs]
        result[name] = {"accuracy": found, "mean": float(np.mean(found)), "seconds": sum(r["seconds"] for r in runs)}
    result["gain"] = result["pretrained"]["mean"] - result["random"]["mean"]
    values.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
