"""Fine-tune a text classifier in PyTorch without any padding: the strongest peer that we know how to write.

  python scripts/bench/varlen.py --model FOLDER --train train.tsv --validation dev.tsv --text sentence --label label \
      --precision bfloat16 --compile static --output varlen.json

The recipe is that of peer.py. The loop is plain: fused AdamW, nothing read from the device between steps, a shuffle per
epoch; the last step of an epoch is left out if it is smaller than the others.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import recipe
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from examples import Example, label_names, open_parts, training_rows
from torch_setup import choose_device, describe_device, open_model, programs, wait
from unpadded import Packed, Unpadded, add_grid, flash_attention, pack, padded_attention

_ALIGN = 128
_COMPILE = {"dynamic": {"dynamic": True}, "static": {"dynamic": False}, "graphs": {"mode": "reduce-overhead"}}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = recipe.make_parser("Fine-tune in PyTorch without padding and time it.")
    parser.add_argument(
        "--compile",
        choices=["none", *_COMPILE],
        default="none",
        help="torch.compile with changing shapes, with one shape (filled up), or that in CUDA graphs",
    )
    parser.add_argument(
        "--no-attention-dropout", action="store_true", help="leave out the dropout of attention weights"
    )
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: the GPU where there is one")
    values = parser.parse_args(arguments)
    recipe.check(parser, values)
    return values


class Feed:
    """The batches of a run: shuffled, packed, and on the device."""

    def __init__(self, values: argparse.Namespace, examples: list[Example], device: torch.device, grid: bool) -> None:
        self._ids = [np.array(example["input_ids"]) for example in examples]
        self._labels = np.array([example["labels"] for example in examples])
        self._lengths = np.array([len(ids) for ids in self._ids])
        self._batch_size, self._device, self._grid = values.batch_size, device, grid
        per_epoch = len(examples) // values.batch_size
        if not per_epoch:
            raise SystemExit(f"error: {len(examples)} examples do not fill a batch of {values.batch_size}")
        self.steps = values.max_steps or values.epochs * per_epoch
        rng = np.random.default_rng(values.seed)
        epochs = (rng.permutation(len(examples)) for _ in range(-(-self.steps // per_epoch)))
        used = [order[: per_epoch * values.batch_size].reshape(per_epoch, -1) for order in epochs]
        self._order = np.concatenate(used)[: self.steps]
        self.longest = int(self._lengths.max())
        self._shape: dict[str, int] = {}
        if values.compile in ("static", "graphs"):
            self._shape = self._largest_shape()

    def _largest_shape(self) -> dict[str, int]:
        """Return a shape that is large enough for every step of the run."""
        totals = self._lengths[self._order].sum(1)
        capacity = -(-int(totals.max()) // _ALIGN) * _ALIGN
        return {"capacity": capacity, "fill_segments": math.ceil((capacity - int(totals.min())) / self.longest)}

    @property
    def filling(self) -> float:
        """The share of padding tokens."""
        totals = self._lengths[self._order].sum(1)
        return 1 - float(totals.mean()) / self._shape.get("capacity", float(totals.mean()))

    def __iter__(self) -> Iterator[tuple[Packed, torch.Tensor, int]]:
        """Yield packed examples, their labels, and their number of real tokens."""
        for batch in self._order:
            tokens = int(self._lengths[batch].sum())
            yield self._put(batch, **self._shape), self._to_device(torch.from_numpy(self._labels[batch])), tokens

    def in_order(self) -> Iterator[tuple[Packed, int]]:
        """Yield all examples once, in their own order."""
        for batch in np.split(np.arange(len(self._ids)), range(self._batch_size, len(self._ids), self._batch_size)):
            yield self._put(batch), len(batch)

    def _put(self, batch: np.ndarray, **shape: int) -> Packed:
        packed = pack([self._ids[i] for i in batch], longest=self.longest, **shape)
        if self._grid:
            packed = add_grid(packed)
        return {name: self._to_device(tensor) for name, tensor in packed.items()}

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def train(values: argparse.Namespace, model: Any, feed: Feed, clock: recipe.Clock, device: torch.device) -> list[float]:
    """Take the steps; return their losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=values.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / feed.steps)
    call = model if values.compile == "none" else torch.compile(model, **_COMPILE[values.compile])
    losses = []
    model.train()
    clock.start()
    for packed, labels, tokens in feed:
        with torch.autocast(device.type, torch.bfloat16, enabled=values.precision == "bfloat16"):
            logits = call(packed, len(labels))
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if clock.step(len(labels), tokens):
            break
    clock.stop()
    return [float(loss) for loss in losses]


@torch.no_grad()
def accuracy(
    values: argparse.Namespace, model: Any, examples: list[Example] | None, device: torch.device
) -> float | None:
    """Return the share of examples whose label is predicted correctly."""
    if examples is None:
        return None
    model.eval()
    changes = {
        "batch_size": min(values.eval_batch_size, len(examples)),
        "epochs": 1,
        "max_steps": None,
        "compile": "none",
    }
    options = argparse.Namespace(**vars(values) | changes)
    feed = Feed(options, examples, device, device.type == "cpu" or values.precision == "float32")
    found = []
    for packed, count in feed.in_order():
        with torch.autocast(device.type, torch.bfloat16, enabled=values.precision == "bfloat16"):
            found.append(model(packed, count).argmax(-1).cpu().numpy())
    return float((np.concatenate(found) == [example["labels"] for example in examples]).mean())


def run(values: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, and return the measurements."""
    torch.manual_seed(values.seed)
    device = choose_device(values)
    flash = device.type == "cuda" and values.precision == "bfloat16"
    rows = training_rows(values)
    bert, tokenizer = open_model(values, len(label_names(rows)) if rows else 2)
    parts = open_parts(values, rows, tokenizer)
    feed = Feed(values, parts.train, device, grid=not flash)
    dropout = 0.0 if values.no_attention_dropout else bert.config.attention_probs_dropout_prob
    attend = flash_attention if flash else padded_attention
    longest = max([feed.longest, *(len(example["input_ids"]) for example in parts.validation or [])])
    model = Unpadded(bert.to(device), attend, longest=longest, attention_dropout=dropout)
    clock = recipe.Clock(values, wait, programs=recipe.zero if values.compile == "none" else programs)
    losses = train(values, model, feed, clock, device)
    scores = {
        name: accuracy(values, model, examples, device)
        for name, examples in (("validation", parts.validation), ("test", parts.test))
    }
    return {
        **clock.result(),
        "steps": len(losses),
        "train_loss": float(np.mean(losses)),
        "accuracy": scores,
        **parts.describe(),
        **recipe.settings(values, "compile"),
        "attention": attend.__name__,
        "attention_dropout": dropout,
        "filling": round(feed.filling, 4),
        **describe_device(device),
        "versions": recipe.versions(torch, transformers),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write the JSON."""
    values = parse_arguments(arguments)
    recipe.write(values, f"varlen {values.precision}, compile {values.compile}", run(values))


if __name__ == "__main__":
    main()
