"""What `train.augment` gives with few labels: the same draws of labelled texts, trained with and without it.

  python scripts/bench/augmentation.py --model MODEL --train train.tsv --held dev.tsv --text sentence --label label \
    --per_label 64 --draws 10 [--fill MLM]

A draw takes `--per_label` texts of each label from --train. All variants of a draw have the same texts, the same seed and
the same number of steps. Printed are, for each variant, the mean accuracy on --held over the draws, its standard deviation,
the mean difference from `plain` with its standard error, and the seconds of a run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np

import jaxbert
from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source

VARIANTS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "word_dropout": {"word_dropout": 0.1},
    "swap": {"swap": 0.1},
    "punctuation": {"punctuation": 0.3},
    "all three": {"word_dropout": 0.1, "swap": 0.1, "punctuation": 0.3},
    "all three, half": {"word_dropout": 0.1, "swap": 0.1, "punctuation": 0.3, "share": 0.5},
}


def read_rows(file: str, data: DataConfig) -> list[dict[str, Any]]:
    """Return the texts and labels of a file."""
    return [
        {"text": text, "label": str(label)}
        for part in open_source(file, data, role="train", labelled=True).parts()
        for text, label in zip(part.texts, part.labels, strict=True)
    ]


def draw_rows(rows: list[dict[str, Any]], per_label: int, seed: int) -> list[dict[str, Any]]:
    """Return so many rows of each label, in random order."""
    rng = np.random.default_rng(seed)
    labels = sorted({row["label"] for row in rows})
    chosen: list[int] = []
    for label in labels:
        places = [i for i, row in enumerate(rows) if row["label"] == label]
        chosen += rng.choice(places, per_label, replace=False).tolist()
    return [rows[i] for i in rng.permutation(chosen)]


def main() -> None:
    """Train all variants on all draws, and print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--held", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--quoting")
    parser.add_argument("--columns", nargs="*", help="the names of the columns of files that have no header")
    parser.add_argument("--per_label", type=int, default=64)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--held_rows", type=int, help="the first rows of --held; all if not set")
    parser.add_argument("--fill", help="a model of masked words with the same vocabulary: adds the variant refill")
    parser.add_argument("--variants", nargs="*", help="only these and plain")
    values = parser.parse_args()
    data = DataConfig(text=values.text, label=values.label, quoting=values.quoting, columns=values.columns)
    train, held = read_rows(values.train, data), read_rows(values.held, data)[: values.held_rows]
    variants = VARIANTS | ({"refill": {"refill": 0.15, "refill_model": values.fill}} if values.fill else {})
    names = [name for name in variants if name == "plain" or not values.variants or name in values.variants]
    found: dict[str, list[float]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for draw in range(values.draws):
        rows = draw_rows(train, values.per_label, draw)
        for name in names:
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as run:
                done = jaxbert.finetune(
                    *(rows, values.model, held),
                    output_dir=run,
                    seed=draw,
                    epochs=values.epochs,
                    batch_size=values.batch_size,
                    learning_rate=values.learning_rate,
                    eval_every=10**6,
                    keep_best=False,
                    augment=variants[name],
                    report__at_end=False,
                )
            seconds[name] += time.perf_counter() - begin
            found[name].append(float(done.metrics["accuracy"]))
            print(f"draw {draw}, {name}: {found[name][-1]:.4f}", flush=True)
    plain = np.array(found["plain"])
    for name, values_of in found.items():
        gain = np.array(values_of) - plain
        spread = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
        print(
            f"{name:>16}: accuracy {np.mean(values_of):.4f} (standard deviation {np.std(values_of, ddof=1):.4f}), "
            f"{gain.mean():+.4f} ({spread:.4f}) beside plain, {seconds[name] / values.draws:.0f} s a run"
        )


if __name__ == "__main__":
    main()
