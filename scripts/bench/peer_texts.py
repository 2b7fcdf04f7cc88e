"""Train BertForSequenceClassification of transformers in PyTorch on tasks that score or label whole texts, beside jaxbert.

  python scripts/bench/peer_texts.py --task regression --model MODEL --train stsb-train.csv --validation stsb-dev.csv \
      --columns text,text_pair,label --max-length 128 --seed 0 --start START
  (the same with --output peer.json instead of --start)
  jaxbert train --config configs/stsb.yaml --model.name_or_path START --data.train stsb-train.csv ... --train.seed 0

The first command writes the encoder with the new head that the second command trains, so that jaxbert starts from it too.
Fields are read as csv, or raw (`--raw`, tabs between); `--columns` names them in order, "-" for an unused one. The threshold
of a multi-label model is tuned on the validation set, as in jaxbert.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peer_loop
import torch
from scipy import stats
from sklearn import metrics
from transformers import AutoTokenizer, BertForSequenceClassification, set_seed

Rows = list[dict[str, str]]
_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = peer_loop.make_parser("Train on whole texts and measure.")
    parser.add_argument("--task", choices=list(_PROBLEMS), required=True)
    parser.add_argument("--columns", required=True, help="names in order: text, text_pair, label, or -")
    parser.add_argument("--raw", action="store_true", help="fields between tabs, without quotes")
    parser.add_argument("--header", action="store_true", help="leave out the first line")
    parser.add_argument("--limit", type=int, help="take the first rows of the training file")
    return parser.parse_args(arguments)


def read_rows(path: Path, values: argparse.Namespace) -> Rows:
    """Read the named columns."""
    names = values.columns.split(",")
    with path.open(encoding="utf-8-sig", newline="") as file:
        fields: Any = (line.rstrip("\r\n").split("\t") for line in file) if values.raw else csv.reader(file)
        rows = [dict(zip(names, row, strict=True)) for row in fields if row]
    return rows[1:] if values.header else rows


class Encoded:
    """Texts as token ids, with their labels as a matrix, numbers or indices."""

    def __init__(self, rows: Rows, tokenizer: Any, names: list[str], values: argparse.Namespace) -> None:
        pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
        texts = [row["text"] for row in rows]
        self.inputs = tokenizer(texts, pairs, truncation=True, max_length=values.max_length)
        self.labels = encode_labels([row["label"] for row in rows], names, values.task)

    def collate(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a padded batch."""
        batch = {name: peer_loop.pad([rows[i] for i in chosen]) for name, rows in self.inputs.items()}
        return batch | {"labels": torch.as_tensor(self.labels[list(chosen)])}


def encode_labels(labels: list[str], names: list[str], task: str) -> np.ndarray:
    """Return float32 scores [N], a float32 matrix [N, C], or indices [N]."""
    if task == "regression":
        return np.array(labels, np.float32)
    if task == "classification":
        return np.array([names.index(label) for label in labels])
    matrix = np.zeros((len(labels), len(names)), np.float32)
    for row, label in zip(matrix, labels, strict=True):
        row[[names.index(part) for part in label.split(",")]] = 1
    return matrix


def label_names(rows: Rows, task: str) -> list[str]:
    """Return the sorted labels of the training rows; a single output for scores."""
    if task == "regression":
        return ["score"]
    parts = {part for row in rows for part in (row["label"].split(",") if task == "multi_label" else [row["label"]])}
    return sorted(parts, key=lambda part: (len(part), part) if part.isdigit() else (0, part))


def evaluate(model: Any, encoded: Encoded, task: str) -> dict[str, float]:
    """Return the metrics of a task over the validation set."""
    outputs = peer_loop.predict(model, len(encoded.labels), encoded.collate)
    logits, labels = np.concatenate([out.logits.float().numpy() for out in outputs]), encoded.labels
    if task == "regression":
        pearson, spearman = stats.pearsonr(logits[:, 0], labels)[0], stats.spearmanr(logits[:, 0], labels)[0]
        return {"pearson": float(pearson), "spearman": float(spearman)}
    if task == "classification":
        found = logits.argmax(-1)
        f1 = metrics.f1_score(labels, found, average="macro")
        last = metrics.f1_score(labels == labels.max(), found == labels.max())
        return {"accuracy": float((found == labels).mean()), "f1_macro": float(f1), "f1_of_the_last_label": float(last)}
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    precision, recall, thresholds = metrics.precision_recall_curve(labels.ravel(), probabilities.ravel())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1[:-1].argmax())
    return {"f1_micro": float(f1[best]), "threshold": float(thresholds[best])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate."""
    values = parse_arguments(arguments)
    rows = read_rows(values.train, values)[: values.limit]
    names = label_names(rows, values.task)
    set_seed(values.seed)
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    model = BertForSequenceClassification.from_pretrained(
        values.model, num_labels=len(names), problem_type=_PROBLEMS[values.task]
    )
    if values.start is not None:
        model.save_pretrained(values.start)
        tokenizer.save_pretrained(values.start)
        return
    training = Encoded(rows, tokenizer, names, values)
    result = peer_loop.train(values, model, len(rows), training.collate)
    result["validation"] = evaluate(
        model, Encoded(read_rows(values.validation, values), tokenizer, names, values), values.task
    )
    peer_loop.write(values, result)


if __name__ == "__main__":
    main()
