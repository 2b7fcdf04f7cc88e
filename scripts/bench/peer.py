"""Fine-tune a text classifier with the Hugging Face Trainer in PyTorch, to compare its accuracy and speed with jaxbert's.

  python scripts/bench/peer.py --model FOLDER --train train.tsv --validation dev.tsv --text sentence --label label \
      --padding dynamic --precision float32 --output peer.json

The recipe: AdamW without decay, a linear schedule without warmup, gradients clipped at norm 1, the checkpoint's dropout.
The rate is that of the steady state: the first steps are left out, and evaluation comes after training. Nothing is saved and
the network is not used. Needs torch, transformers and accelerate; jaxbert only if `--lengths` draws examples.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import accelerate
import recipe
import torch
import transformers
from examples import Example, label_names, open_parts, training_rows
from flattened import ATTENTION, FlatClassifier, FlatCollator
from torch_setup import choose_device, describe_device, open_model, programs, wait
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = recipe.make_parser("Fine-tune with the Hugging Face Trainer and time it.")
    parser.add_argument(
        "--padding",
        choices=["max", "dynamic", "grouped", "flat"],
        default="dynamic",
        help="to --max-length, to the longest of the batch, that with batches of similar lengths, or none: flattened",
    )
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in float32 products on an NVIDIA GPU")
    parser.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: the GPU where there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that pad batches")
    values = parser.parse_args(arguments)
    recipe.check(parser, values)
    return values


class TimedTrainer(Trainer):
    """The Trainer, which also records the size of each batch without waiting for the device."""

    last_size: tuple[int, Any] = (0, 0)

    def training_step(self, model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
        """Record examples and real tokens, then take the step."""
        mask = inputs.get("attention_mask")
        self.last_size = (len(inputs["labels"]), inputs["input_ids"].numel() if mask is None else mask.sum())
        return super().training_step(model, inputs, *more, **options)


class StepTimer(TrainerCallback):
    """Reports each step to the clock, and ends the training when enough is timed."""

    trainer: TimedTrainer

    def __init__(self, clock: recipe.Clock) -> None:
        self._clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the warmup."""
        self._clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step; end the training after the last one."""
        enough = self._clock.step(*self.trainer.last_size)
        if enough or state.global_step == state.max_steps:
            self._clock.stop()
            control.should_training_stop = True


def training_arguments(values: argparse.Namespace, scratch: str) -> TrainingArguments:
    """Return the recipe as arguments of the Trainer."""
    cuda = choose_device(values).type == "cuda"
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
        dataloader_num_workers=values.workers,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the device at every step
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def steps_in_cycle(values: argparse.Namespace, examples: int) -> int:
    """Return the number of steps after which batch lengths repeat: the grouping sampler sorts this many, longest first."""
    return max(1, min(examples // (4 * values.batch_size), 50)) if values.padding == "grouped" else 1


def make_collator(values: argparse.Namespace, tokenizer: Any) -> FlatCollator | DataCollatorWithPadding:
    """Return the collator that flattens a batch or pads it; on a GPU to multiples of 8, which suit its matrix units."""
    if values.padding == "flat":
        return FlatCollator()
    padding = "max_length" if values.padding == "max" else "longest"
    multiple = 8 if choose_device(values).type == "cuda" else None
    return DataCollatorWithPadding(
        tokenizer, padding=padding, max_length=values.max_length, pad_to_multiple_of=multiple
    )


def accuracy(trainer: Trainer, examples: list[Example] | None) -> float | None:
    """Return the share of examples whose label is predicted correctly."""
    if examples is None:
        return None
    output = trainer.predict(examples)
    return float((output.predictions.argmax(-1) == output.label_ids).mean())


def run(values: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, and return the measurements."""
    set_seed(values.seed)
    rows = training_rows(values)
    flat = values.padding == "flat"
    kind = FlatClassifier if flat else BertForSequenceClassification
    model, tokenizer = open_model(values, len(label_names(rows)) if rows else 2, kind)
    if flat:
        model.set_attn_implementation(ATTENTION)
    parts = open_parts(values, rows, tokenizer)
    compiled = programs if values.compile else recipe.zero
    clock = recipe.Clock(values, wait, programs=compiled, cycle=steps_in_cycle(values, len(parts.train)))
    timer = StepTimer(clock)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = timer.trainer = TimedTrainer(
            model=model,
            args=training_arguments(values, scratch),
            train_dataset=parts.train,
            data_collator=make_collator(values, tokenizer),
            callbacks=[timer],
        )
        if trainer.args.n_gpu > 1:
            raise SystemExit("error: several GPUs are visible: choose one with CUDA_VISIBLE_DEVICES")
        result = trainer.train()
        scores = {"validation": accuracy(trainer, parts.validation), "test": accuracy(trainer, parts.test)}
    return {
        **clock.result(),
        "steps": result.global_step,
        "train_loss": result.training_loss,
        "accuracy": scores,
        **parts.describe(),
        **recipe.settings(values, "padding", "tf32", "compile"),
        "attention": model.config._attn_implementation,
        **describe_device(trainer.args.device),
        "versions": recipe.versions(torch, transformers, accelerate),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write the JSON."""
    values = parse_arguments(arguments)
    recipe.write(values, f"{values.padding} {values.precision}", run(values))


if __name__ == "__main__":
    main()
