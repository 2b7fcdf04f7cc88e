"""How many of the labels that `jaxbert audit` suspects are wrong: flip labels at random, train in folds, and count.

    python scripts/bench/label_errors.py --config configs/sst2-minilm.yaml --rows 10000 --output out
    python scripts/bench/label_errors.py --config configs/thucnews-scratch.yaml --rows 10000 --output out --train.epochs 5

Takes rows of `data.train` at random, replaces the labels of a tenth of them by another label, each as likely, and trains
five folds on them as the configuration says; other keys may follow. Prints a JSON object: `precision`, the share of flipped
rows among the first k suspects, where k is the number of flipped rows; `precision_first`, the same for some smaller k;
`listed`, the number of all suspects with the reason `label`; `recall`, the share of the flipped rows among those;
`accuracy`, that of the out-of-fold predictions against the labels without flips. Mistakes that the data had before count as
none. The seed decides rows and flips.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from examples import read_changes

import jaxbert
from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.out_of_fold import read_out_of_fold
from jaxbert.settings import make_config

FIRST = (50, 100, 200, 500)


def read_rows(data: DataConfig) -> tuple[list[str], list[str]]:
    """Return the texts and labels of the training data; integers get their names from `data.label_names`."""
    assert data.train is not None
    texts, labels = [], []
    for part in open_source(data.train, data, role="train", labelled=True).parts():
        texts += part.texts
        labels += [str(label).strip() for label in part.labels or ()]
    names = data.label_names
    return texts, labels if names is None else [names[int(label)] for label in labels]


def flip(labels: list[str], share: float, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Return labels of which a share was replaced by others, and the rows of these, rising."""
    names = sorted(set(labels))
    flipped = np.sort(rng.choice(len(labels), round(share * len(labels)), replace=False))
    changed = list(labels)
    for row in flipped:
        others = [name for name in names if name != labels[row]]
        changed[row] = others[int(rng.integers(len(others)))]
    return changed, flipped


def main() -> None:
    """Make the data, train, audit and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--flipped", type=float, default=0.1)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank_by", default="self_confidence")
    parser.add_argument("--output", type=Path, required=True)
    values, others = parser.parse_known_args()
    config = make_config(values.config, read_changes(others))
    rng = np.random.default_rng(values.seed)
    texts, labels = read_rows(config.data)
    chosen = rng.permutation(len(texts))[: values.rows]
    texts, labels = [texts[i] for i in chosen], [labels[i] for i in chosen]
    changed, flipped = flip(labels, values.flipped, rng)
    values.output.mkdir(parents=True, exist_ok=True)
    file, run = values.output / "train.jsonl", values.output / "run"
    rows = [{"text": text, "label": label} for text, label in zip(texts, changed, strict=True)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    own = {"train": str(file), "validation": None, "test": None, "text": "text", "label": "label"}
    own |= {"columns": None, "label_names": None, "limit": None, "quoting": "csv"}
    training = {"folds": values.folds, "folds_final": False, "output_dir": str(run)}
    begin = time.time()
    jaxbert.finetune(config=config, data=own, **{f"train__{key}": value for key, value in training.items()})
    trained = time.time()
    suspects = [s for s in jaxbert.audit(run, rank_by=values.rank_by).suspects if "label" in s["reasons"]]
    wrong, listed = set(flipped.tolist()), [s["record"] for s in suspects]
    folds = read_out_of_fold(RunFolder(run).path)
    place = dict(zip((changed[row] for row in folds.rows), folds.labels.tolist(), strict=True))
    right = [best == place[labels[row]] for row, best in zip(folds.rows, folds.probabilities.argmax(1), strict=True)]
    result = {
        "rows": len(texts),
        "flipped": len(wrong),
        "precision": len(wrong & set(listed[: len(wrong)])) / len(wrong),
        "precision_first": {k: len(wrong & set(listed[:k])) / k for k in FIRST if k < len(wrong)},
        "listed": len(listed),
        "recall": len(wrong & set(listed)) / len(wrong),
        "accuracy": float(np.mean(right)),
        "train_seconds": round(trained - begin, 1),
        "audit_seconds": round(time.time() - trained, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
