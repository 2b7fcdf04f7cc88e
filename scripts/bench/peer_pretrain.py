"""Pretrain with PyTorch's own classes on the same batches as a jaxbert run: its text, pairs, masks, first weights, recipe.

  python scripts/bench/peer_pretrain.py --config configs/wikitext2-mlm.yaml --output peer.json [--section.key value ...]

Each packed row is split into its examples, which are padded to the longest of the step, as PyTorch users do. AdamW, its
schedule and the clipping are those of the configuration; dropout draws its own numbers. Prints the validation metrics, to
compare them with `eval` in the run's `summary.json`. Needs torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from jaxbert.cli.parsing import make_parser, parse
from jaxbert.data.batches import Batch, batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.interop.write import save_folder
from jaxbert.models.families import family_of
from jaxbert.runs.folder import RunFolder
from jaxbert.settings import add_config, to_config
from jaxbert.train.optimizer import make_schedule
from jaxbert.train.programs import with_dropout
from jaxbert.train.run import Run, open_run

IGNORED = -100


def unpack(batch: Batch) -> dict[str, torch.Tensor]:
    """Split the rows of a masked batch into examples, [examples, longest]."""
    rows, slots = np.nonzero(batch["example_mask"])
    labels = np.full(batch["input_ids"].shape, IGNORED, np.int64)
    real = batch["masked_weights"] > 0
    labels[np.nonzero(real)[0], batch["masked_positions"][real]] = batch["masked_labels"][real]
    lengths = [int((batch["segment_ids"][r] == s + 1).sum()) for r, s in zip(rows, slots, strict=True)]
    shape = len(rows), max(lengths)
    fields = {"input_ids": (batch["input_ids"], 0), "token_type_ids": (batch["token_type_ids"], 0)}
    unpacked = {name: np.full(shape, fill, np.int64) for name, (_, fill) in fields.items()}
    unpacked |= {"labels": np.full(shape, IGNORED, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    for i, (row, slot, length) in enumerate(zip(rows, slots, lengths, strict=True)):
        begin = batch["cls_positions"][row, slot]
        for name, (values, _) in fields.items():
            unpacked[name][i, :length] = values[row, begin : begin + length]
        unpacked["labels"][i, :length] = labels[row, begin : begin + length]
        unpacked["attention_mask"][i, :length] = 1
    if "labels" in batch:
        unpacked["next_sentence_label"] = batch["labels"][rows, slots].astype(np.int64)
    return {name: torch.from_numpy(values) for name, values in unpacked.items()}


def training_batches(run: Run) -> Iterator[Batch]:
    """Yield the masked batches of all steps."""
    assert run.inputs.collate is not None
    return itertools.islice(run.batches_from(0), run.program.total_steps)


def open_model(run: Run) -> Any:
    """Return PyTorch's model with the run's first weights."""
    config = with_dropout(run.bert_config, run.config.model)
    architecture = run.inputs.task.architecture
    with tempfile.TemporaryDirectory() as folder:
        save_folder(folder, run.first_params(), config, architecture=architecture)
        return getattr(transformers, family_of(config).class_of(architecture)).from_pretrained(folder)


def make_optimizer(run: Run, model: Any) -> torch.optim.Optimizer:
    """Return AdamW, without decay for biases and LayerNorm."""
    recipe = run.config.optimizer
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.b1, recipe.b2), eps=recipe.eps)


def train(run: Run, model: Any) -> dict[str, float]:
    """Take all steps; return the speed."""
    optimizer = make_optimizer(run, model)
    schedule = make_schedule(run.config.optimizer, run.program.total_steps)
    rates = [float(schedule(step)) for step in range(run.program.total_steps)]
    model.train()
    tokens, begin = 0, time.perf_counter()
    for step, (rate, batch) in enumerate(zip(rates, training_batches(run), strict=False), 1):
        inputs = unpack(batch)
        tokens += int(inputs["attention_mask"].sum())
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        if run.config.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), run.config.optimizer.clip_norm)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}/{run.program.total_steps}  loss {float(loss):.4f}", flush=True)
    seconds = time.perf_counter() - begin
    return {"steps": len(rates), "seconds": seconds, "real_tokens_per_second": tokens / seconds}


@torch.no_grad()
def evaluate(run: Run, model: Any, examples: Examples) -> dict[str, float]:
    """Return the metrics of the validation set, masked as in jaxbert."""
    assert run.inputs.collate is not None
    model.eval()
    layout = choose_layout(examples.tokens.lengths, 64, seed=None)
    sums = np.zeros(4)  # masked loss, masked tokens, correct ones, loss of pairs
    cross_entropy = torch.nn.functional.cross_entropy
    for batch in batches(examples, layout, 64, seed=None):
        inputs = unpack(run.inputs.collate(batch, None))
        labels, pairs = inputs.pop("labels"), inputs.pop("next_sentence_label", None)
        outputs = model(**inputs)
        scores = outputs.logits if pairs is None else outputs.prediction_logits
        masked = labels != IGNORED
        scores, labels = scores[masked], labels[masked]
        sums[0] += float(cross_entropy(scores, labels, reduction="sum"))
        sums[1:3] += len(labels), int((scores.argmax(-1) == labels).sum())
        if pairs is not None:
            sums[3] += float(cross_entropy(outputs.seq_relationship_logits, pairs, reduction="sum"))
    masked_loss = sums[0] / sums[1]
    return {
        "loss": masked_loss + sums[3] / len(examples),
        "masked_accuracy": sums[2] / sums[1],
        "perplexity": math.exp(masked_loss),
        "masked_tokens": int(sums[1]),
    }


def main() -> None:
    """Train, evaluate and write the results."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--output", required=True)
    values, rest = own.parse_known_args()
    parser = make_parser("pretrain", "Pretrain with PyTorch.")
    add_config(parser)
    config = dataclasses.replace(to_config(parse(parser, rest)), task="pretraining")
    torch.manual_seed(config.train.seed)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir=f"{folder}/run"))
        run = open_run(config, RunFolder(config.train.output_dir))
        model = open_model(run)
        result: dict[str, Any] = train(run, model)
        result["eval"] = {name: evaluate(run, model, part) for name, part in run.inputs.validation.items()}
    result |= {"torch": torch.__version__, "transformers": transformers.__version__}
    Path(values.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["eval"]))


if __name__ == "__main__":
    main()
