"""Train and predict by jaxbert's Flax classes beside those of transformers 4.57.6, in turns, by processor time.

  bash scripts/bench/legacy_env.sh .venv-legacy
  python scripts/bench/flax_speed.py --model FOLDER --train SST-2/train.tsv --text sentence --label label --rounds 3

Both sides run the program below: TrainState, AdamW and jit, float32, dropout on, 32 examples a batch padded to 128 tokens;
jaxbert also runs it on the same examples in packed rows of 128, as `jaxbert train` packs them. Each side is a process that
compiles once and then waits for its turn, so that a change of the machine's load meets both. Numbers are examples per second
of processor time, of all threads together: use them on a CPU, and read ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from examples import label_names, read_tsv

Batch = dict[str, np.ndarray]
MODES = {"legacy": ("padded",), "jaxbert": ("padded", "packed")}
LENGTH, SIZE = 128, 32


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with a BERT and its tokenizer")
    parser.add_argument("--train", type=Path, required=True, help="TSV with raw fields")
    parser.add_argument("--text", default="sentence")
    parser.add_argument("--label", default="label")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="batches of each turn")
    parser.add_argument("--legacy_python", default=".venv-legacy/bin/python")
    parser.add_argument("--side", choices=list(MODES), help=argparse.SUPPRESS)
    return parser.parse_args()


def padded_batches(values: argparse.Namespace) -> list[Batch]:
    """Return the first batches of the file."""
    from transformers import AutoTokenizer

    rows = read_tsv(values.train, values.text, values.label, None, values.steps * SIZE)
    names = label_names(rows)
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    texts = [text for text, _ in rows]
    encoded = tokenizer(texts, truncation=True, padding="max_length", max_length=LENGTH, return_tensors="np")
    columns = {name: encoded[name].astype(np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}
    columns["labels"] = np.array([names.index(label) for _, label in rows], np.int32)
    columns["weights"] = np.ones(len(rows), np.float32)
    return [{name: x[i : i + SIZE] for name, x in columns.items()} for i in range(0, len(rows), SIZE)]


def packed_batches(padded: list[Batch]) -> list[Batch]:
    """Return the same examples in packed rows, as `jaxbert train` packs them."""
    from jaxbert.data.batches import batches
    from jaxbert.data.examples import Examples
    from jaxbert.data.packing import choose_layout
    from jaxbert.data.tokens import Tokens

    sets = []
    for batch in padded:
        shown = batch["attention_mask"] > 0
        lengths = shown.sum(1)
        tokens = Tokens.from_lengths(batch["input_ids"][shown], lengths, lengths)
        sets.append(Examples(tokens, batch["labels"]))
    layout = choose_layout(np.concatenate([s.tokens.lengths for s in sets]), SIZE, row_length=LENGTH, seed=None)
    read = ("input_ids", "token_type_ids", "segment_ids", "cls_positions", "labels")
    return [
        {name: batch[name] for name in read} | {"weights": batch["example_mask"].astype(np.float32)}
        for examples in sets
        for batch in batches(examples, layout, SIZE, seed=None)
    ]


def make_programs(kind: Any, values: argparse.Namespace) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """Return the training step, the prediction and the first state."""
    import jax
    import optax
    from flax.training.train_state import TrainState

    model = kind.from_pretrained(values.model)
    state = TrainState.create(apply_fn=model.__call__, params=model.params, tx=optax.adamw(2e-5, weight_decay=0.01))

    def logits_of(params: Any, batch: Any, **options: Any) -> Any:
        inputs = {name: x for name, x in batch.items() if name not in ("labels", "weights")}
        return model(**inputs, params=params, **options).logits

    @jax.jit
    def train(state: TrainState, batch: Any, key: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            logits = logits_of(params, batch, dropout_rng=key, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
            return (losses * batch["weights"]).sum() / batch["weights"].sum()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return train, jax.jit(logits_of), state


def serve(values: argparse.Namespace) -> None:
    """Compile, then answer each line of the input, a mode and a verb, with the processor seconds of one turn."""
    import jax

    if values.side == "legacy":
        from transformers import FlaxBertForSequenceClassification as Kind
    else:
        from jaxbert import FlaxBertForSequenceClassification as Kind
    padded = padded_batches(values)
    batches = {"padded": padded} | ({"packed": packed_batches(padded)} if values.side == "jaxbert" else {})
    train, predict, state = make_programs(Kind, values)
    key = jax.random.PRNGKey(0)

    def take_turn(mode: str, verb: str) -> float:
        nonlocal state
        start, out = time.process_time(), None
        for batch in batches[mode]:
            if verb == "train":
                state, out = train(state, batch, key)
            else:
                out = predict(state.params, batch)
        jax.block_until_ready((state, out))
        return time.process_time() - start

    for mode in batches:
        for verb in ("train", "predict"):
            take_turn(mode, verb)  # compile each shape
    print(json.dumps({mode: [x["input_ids"].shape for x in parts] for mode, parts in batches.items()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(take_turn(*line.split())), flush=True)


def start_side(side: str, values: argparse.Namespace, model: str) -> subprocess.Popen[str]:
    """Start one side's process and wait until it has compiled."""
    python = values.legacy_python if side == "legacy" else sys.executable
    options = [f"--model={model}", f"--train={values.train}", f"--text={values.text}", f"--label={values.label}"]
    command = [python, "-W", "ignore", __file__, *options, f"--steps={values.steps}", f"--side={side}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    shapes = process.stdout.readline()
    if not shapes:
        raise SystemExit(f"error: {side} did not start ({python}): make its environment by scripts/bench/legacy_env.sh")
    print(f"{side}: batches of {shapes.strip()}", file=sys.stderr, flush=True)
    return process


def write_start(values: argparse.Namespace, folder: Path) -> None:
    """Write a model with one head in the legacy format, from which both sides start."""
    from transformers import AutoTokenizer

    from jaxbert import FlaxBertForSequenceClassification

    rows = read_tsv(values.train, values.text, values.label, None, values.steps * SIZE)
    model = FlaxBertForSequenceClassification.from_pretrained(
        values.model, num_labels=len(label_names(rows)), ignore_mismatched_sizes=True
    )
    model.save_pretrained(folder, safe_serialization=False)
    AutoTokenizer.from_pretrained(values.model).save_pretrained(folder)


def main() -> None:
    """Let both sides take turns, and print a table."""
    values = parse_arguments()
    if values.side:
        return serve(values)
    rates: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_start(values, Path(folder))
        sides = {side: start_side(side, values, folder) for side in MODES}
        for _ in range(values.rounds):
            for verb in ("train", "predict"):
                for side, process in sides.items():
                    assert process.stdin is not None
                    assert process.stdout is not None
                    for mode in MODES[side]:
                        print(mode, verb, file=process.stdin, flush=True)
                        seconds = float(process.stdout.readline())
                        rates.setdefault((verb, side, mode), []).append(values.steps * SIZE / seconds)
        for process in sides.values():
            process.communicate()
    print("| | median | of | beside legacy |\n|---|---|---|---|")
    for (verb, side, mode), found in rates.items():
        ratio = median(found) / median(rates[verb, "legacy", "padded"])
        each = ", ".join(f"{rate:.1f}" for rate in found)
        print(f"| {verb}, {side} {mode} | {median(found):.1f} | {each} | {ratio:.2f} |")
    print(f"\nload of the machine at the end: {', '.join(f'{x:.1f}' for x in os.getloadavg())}, cores {os.cpu_count()}")
    return None


if __name__ == "__main__":
    main()
