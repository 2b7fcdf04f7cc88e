"""The training loop that the scripts peer_*.py share: plain PyTorch, with jaxbert's recipe.

AdamW (decay only on matrices), linear warmup and decay, gradients clipped at norm 1, the checkpoint's dropout, batches
padded to their longest example.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import BertConfig, BertTokenizer, get_linear_schedule_with_warmup, set_seed

_SIZES = {"tiny": (2, 128), "mini": (4, 256)}
_UNDECAYED = ("bias", "LayerNorm.weight")


def make_parser(description: str, *, new: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts share; with `new`, a model can be drawn."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, help="folder of a checkpoint with its tokenizer")
    if new:
        model.add_argument("--new", choices=list(_SIZES), help="draw a new model, for --start")
        parser.add_argument("--vocab", type=Path, help="its vocabulary")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--warmup-ratio", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0, help="of order, dropout and, with --start, new weights")
    parser.add_argument(
        "--start", type=Path, help="write the weights before the first step here, for jaxbert to start from; then end"
    )
    parser.add_argument("--output", type=Path, help="file for the JSON")
    return parser


def draw(values: argparse.Namespace, model_class: Any, **settings: Any) -> None:
    """Write a new model and its tokenizer."""
    if values.vocab is None:
        raise SystemExit("error: --new needs --vocab")
    set_seed(values.seed)
    layers, width = _SIZES[values.new]
    tokenizer = BertTokenizer(vocab=str(values.vocab))
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        **settings,
    )
    model_class(config).save_pretrained(values.start)
    tokenizer.save_pretrained(values.start)


def train(values: argparse.Namespace, model: Any, count: int, collate: Callable[[Sequence[int]], dict]) -> dict:
    """Train on examples 0 to `count - 1`; return the mean loss of the last epoch, and the seconds of training."""
    torch.manual_seed(values.seed)
    order = np.random.default_rng(values.seed)
    steps = -(-count // values.batch_size) * values.epochs
    named = list(model.named_parameters())
    plain = [p for name, p in named if name.endswith(_UNDECAYED)]
    decayed = [p for name, p in named if not name.endswith(_UNDECAYED)]
    groups = [{"params": decayed, "weight_decay": values.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=values.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, round(values.warmup_ratio * steps), steps)
    model.train()
    losses, begin = [], time.perf_counter()
    for _ in range(values.epochs):
        losses = []
        for chosen in np.array_split(order.permutation(count), range(values.batch_size, count, values.batch_size)):
            loss = model(**collate(chosen.tolist())).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()) * len(chosen))
    seconds = time.perf_counter() - begin
    return {"steps": steps, "train_loss": sum(losses) / count, "train_seconds": round(seconds, 1)}


@torch.inference_mode()
def predict(model: Any, count: int, collate: Callable[[Sequence[int]], dict], batch_size: int = 64) -> list[Any]:
    """Return the outputs of all batches, in order."""
    model.eval()
    parts = (range(low, min(low + batch_size, count)) for low in range(0, count, batch_size))
    return [model(**{k: v for k, v in collate(part).items() if "label" not in k}) for part in parts]


def pad(rows: Sequence[Sequence[int]], value: int = 0) -> torch.Tensor:
    """Pad rows to the longest."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def write(values: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print the result, and write it with the settings."""
    settings = {name: getattr(values, name) for name in ("batch_size", "epochs", "learning_rate", "seed", "max_length")}
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    content = json.dumps({**result, **settings, "threads": torch.get_num_threads(), "versions": versions}, indent=2)
    print(content)
    if values.output is not None:
        values.output.write_text(content + "\n", "utf-8")
