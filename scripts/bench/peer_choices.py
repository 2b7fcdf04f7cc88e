"""Train multiple choice with transformers in PyTorch, to compare its accuracy with jaxbert's.

  python scripts/bench/peer_choices.py --model ENCODER --train train.csv --validation dev.csv --seed 0 --start START
  python scripts/bench/peer_choices.py --model START --train train.csv --validation dev.csv --seed 0 --output peer.json
  jaxbert train --task multiple_choice --model.name_or_path START --data.train train.csv --data.validation dev.csv \
      --data.choices '[ending0, ending1, ending2, ending3]' --train.seed 0 ...

The first command draws a head that both sides start from. The files are those of make_choices.py.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peer_loop
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer, set_seed


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    return peer_loop.make_parser("Train multiple choice and count right answers.").parse_args()


class Encoded:
    """Questions as token ids, one row per choice."""

    def __init__(self, path: Path, tokenizer: Any, max_length: int) -> None:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name.startswith("ending")]
        self.labels = [int(row["label"]) for row in rows]
        self.choices = len(names)
        firsts = [row["question"] for row in rows for _ in names]
        seconds = [row[name] for row in rows for name in names]
        found = tokenizer(firsts, seconds, truncation=True, max_length=max_length)
        self.columns = {name: found[name] for name in ("input_ids", "token_type_ids", "attention_mask")}

    def collate(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a padded batch, [questions, choices, tokens]."""
        rows = [i * self.choices + choice for i in chosen for choice in range(self.choices)]
        batch = {name: peer_loop.pad([value[i] for i in rows]) for name, value in self.columns.items()}
        batch = {name: x.reshape(len(chosen), self.choices, -1) for name, x in batch.items()}
        return batch | {"labels": torch.tensor([self.labels[i] for i in chosen])}


def main() -> None:
    """Draw a head, or train and evaluate."""
    values = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    set_seed(values.seed)
    model = AutoModelForMultipleChoice.from_pretrained(values.model, dtype=torch.float32)
    if values.start is not None:
        model.save_pretrained(values.start)
        tokenizer.save_pretrained(values.start)
        return
    training = Encoded(values.train, tokenizer, values.max_length)
    result = peer_loop.train(values, model, len(training.labels), training.collate)
    held_out = Encoded(values.validation, tokenizer, values.max_length)
    outputs = peer_loop.predict(model, len(held_out.labels), held_out.collate)
    best = torch.cat([out.logits for out in outputs]).argmax(-1).tolist()
    right = sum(a == b for a, b in zip(best, held_out.labels, strict=True))
    peer_loop.write(values, {**result, "accuracy": right / len(best)})


if __name__ == "__main__":
    main()
