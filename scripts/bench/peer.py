"""Fine-tune a text classifier with the Hugging Face Trainer in PyTorch, to compare its accuracy and speed with jaxbert's.

  python scripts/bench/peer.py --model FOLDER --train train.tsv --validation dev.tsv --text sentence --label label \
      --padding dynamic --precision float32 --output peer.json

The recipe: AdamW without decay, a linear schedule without warm-up, gradients clipped at norm 1, the checkpoint's dropout.
The rate is taken in steady state: the first steps are left out, and evaluation comes after training. Nothing is saved and
nothing is asked of the network. Needs torch, transformers and accelerate; jaxbert is not used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import accelerate
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

Example = dict[str, Any]
Rows = list[tuple[str, str]]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune with the Hugging Face Trainer and time it.")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a model folder, or a Hub name that is cached")
    model.add_argument("--new-model", metavar="LAYERS,WIDTH,HEADS,FF", help="a new model; needs --vocab")
    parser.add_argument("--vocab", type=Path, help="vocabulary of a new model, one token a line")
    parser.add_argument("--train", type=Path, required=True, help="TSV with raw fields (no quoting)")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--text", default="text", help="column of the text")
    parser.add_argument("--label", default="label", help="column of the label: names or integers")
    parser.add_argument("--columns", help="a,b: column names of files that have no header line")
    parser.add_argument("--limit", type=int, help="take the first N training rows only")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--eval-batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int, help="stop after this many steps, whatever --epochs says")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--padding",
        choices=["max", "dynamic", "grouped"],
        default="dynamic",
        help="to --max-length, to the longest of the batch, or that with batches of similar lengths",
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in float32 products on an NVIDIA GPU")
    parser.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: the GPU where there is one")
    parser.add_argument("--skip-steps", type=int, default=5, help="first steps that are not timed")
    parser.add_argument("--output", type=Path, required=True, help="file for the JSON")
    values = parser.parse_args(arguments)
    if (values.new_model is None) != (values.vocab is None):
        parser.error("--new-model and --vocab go together")
    for name in ("train", "validation", "test", "vocab"):
        path = getattr(values, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path} does not exist")
    return values


def read_tsv(path: Path, text: str, label: str, columns: str | None, limit: int | None = None) -> Rows:
    """Read (text, label) pairs; fields are raw, and quotes are characters like any other."""
    lines = path.read_text("utf-8-sig").split("\n")
    names = columns.split(",") if columns else lines.pop(0).rstrip("\r").split("\t")
    missing = [name for name in (text, label) if name not in names]
    if missing:
        raise SystemExit(f"error: {path} has no column {missing[0]!r}: it has {', '.join(names)}")
    rows: Rows = []
    for line in lines:
        fields = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(fields) != len(names):
            raise SystemExit(f"error: {path}: {len(fields)} fields where {len(names)} were expected: {line[:80]!r}")
        rows.append((fields[names.index(text)], fields[names.index(label)].strip()))
    return rows[:limit]


def label_names(rows: Rows) -> list[str]:
    """Return the labels of the training rows in order: integers from 0 by value, names by alphabet."""
    found = {label for _, label in rows}
    if all(label.isdigit() for label in found):
        return [str(i) for i in range(max(int(label) for label in found) + 1)]
    return sorted(found)


def tokenize(rows: Rows, names: list[str], tokenizer: Any, max_length: int) -> list[Example]:
    """Turn rows into unpadded examples."""
    ids = {name: i for i, name in enumerate(names)}
    unknown = {label for _, label in rows} - set(ids)
    if unknown:
        raise SystemExit(f"error: labels {sorted(unknown)} are not among the training rows' {names}")
    encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=max_length)
    columns = list(encoded)
    return [{**{name: encoded[name][i] for name in columns}, "labels": ids[label]} for i, (_, label) in enumerate(rows)]


def open_model(values: argparse.Namespace, names: list[str]) -> tuple[BertForSequenceClassification, Any]:
    """Load the checkpoint with a fresh classifier, or draw a new model; and its tokenizer."""
    if values.model is not None:
        config = AutoConfig.from_pretrained(values.model, num_labels=len(names))
        tokenizer = AutoTokenizer.from_pretrained(values.model)
        model = BertForSequenceClassification.from_pretrained(
            values.model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        return model, tokenizer
    tokenizer = BertTokenizer(vocab=str(values.vocab), do_lower_case=True)
    layers, width, heads, feed_forward = (int(n) for n in values.new_model.split(","))
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        num_labels=len(names),
    )
    return BertForSequenceClassification(config), tokenizer


class Clock(TrainerCallback):
    """Time the steps behind the first few, waiting for the device at both ends."""

    def __init__(self, skip: int, examples: int, batch_size: int) -> None:
        self._skip = skip
        self._examples, self._batch_size = examples, batch_size
        self._begin = time.perf_counter()
        self.steps = self.counted = 0
        self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start at once where nothing is skipped."""
        self._begin = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start behind the skipped steps, stop at the last."""
        step = state.global_step
        if step > self._skip:
            self.steps += 1
            self.counted += self._batch(step)
        if step == self._skip:
            self._begin = _now()
        elif step == state.max_steps:
            self.seconds = _now() - self._begin

    def _batch(self, step: int) -> int:
        """Return the examples of a step: the last of an epoch has what remains."""
        steps_per_epoch = -(-self._examples // self._batch_size)
        last = step % steps_per_epoch == 0
        return self._examples - (steps_per_epoch - 1) * self._batch_size if last else self._batch_size


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def training_arguments(values: argparse.Namespace, scratch: str) -> TrainingArguments:
    """Return the recipe."""
    cuda = values.device == "auto" and torch.cuda.is_available()
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=values.batch_size,
        per_device_eval_batch_size=values.eval_batch_size,
        num_train_epochs=values.epochs,
        max_steps=values.max_steps or -1,
        learning_rate=values.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=values.seed,
        bf16=values.precision == "bfloat16",
        tf32=True if values.tf32 else None,
        torch_compile=values.compile,
        train_sampling_strategy="group_by_length" if values.padding == "grouped" else "random",
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the device at every step
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def accuracy(trainer: Trainer, examples: list[Example] | None) -> float | None:
    """Return the share of examples whose label is predicted."""
    if examples is None:
        return None
    output = trainer.predict(examples)
    return float((output.predictions.argmax(-1) == output.label_ids).mean())


def run(values: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, and return what was measured."""
    set_seed(values.seed)
    columns = (values.text, values.label, values.columns)
    train_rows = read_tsv(values.train, *columns, values.limit)
    names = label_names(train_rows)
    model, tokenizer = open_model(values, names)
    train, validation, test = (
        None if rows is None else tokenize(rows, names, tokenizer, values.max_length)
        for rows in (
            train_rows,
            read_tsv(values.validation, *columns),
            None if values.test is None else read_tsv(values.test, *columns),
        )
    )
    assert train is not None
    padding = "max_length" if values.padding == "max" else "longest"
    clock = Clock(values.skip_steps, len(train), values.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=training_arguments(values, scratch),
            train_dataset=train,
            data_collator=DataCollatorWithPadding(tokenizer, padding=padding, max_length=values.max_length),
            callbacks=[clock],
        )
        if trainer.args.n_gpu > 1:
            raise SystemExit("error: several GPUs are visible: choose one with CUDA_VISIBLE_DEVICES")
        result = trainer.train()
        scores = {"validation": accuracy(trainer, validation), "test": accuracy(trainer, test)}
    return {
        "examples_per_second": round(clock.counted / clock.seconds, 3) if clock.steps else None,
        "steps_timed": clock.steps,
        "seconds_timed": round(clock.seconds, 4),
        "steps": result.global_step,
        "train_loss": result.training_loss,
        "accuracy": scores,
        "train_examples": len(train),
        "mean_tokens": round(sum(len(example["input_ids"]) for example in train) / len(train), 3),
        "attention": model.config._attn_implementation,
        **describe(values, trainer.args.device),
    }


def describe(values: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the settings and the software."""
    names = ("padding", "precision", "tf32", "compile", "max_length", "batch_size", "epochs", "learning_rate", "seed")
    return {
        **{name: getattr(values, name) for name in names},
        "model": values.model or f"new {values.new_model}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch_threads": torch.get_num_threads(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write the JSON."""
    values = parse_arguments(arguments)
    result = run(values)
    values.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    rate = result["examples_per_second"]
    speed = "too few steps to time" if rate is None else f"{rate:.1f} examples/s over {result['steps_timed']} steps"
    print(f"{values.padding} {values.precision}: {speed}, accuracy {result['accuracy']['validation']:.4f}")


if __name__ == "__main__":
    main()
