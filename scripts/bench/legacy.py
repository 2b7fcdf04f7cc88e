"""Fine-tune with the FlaxBertForSequenceClassification of transformers 4, to compare it with jaxbert.

  bash scripts/bench/legacy_env.sh .venv-legacy
  .venv-legacy/bin/python scripts/bench/legacy.py --model FOLDER --train train.tsv --validation dev.tsv --text sentence \
      --label label --max-length 128 --output legacy.json

The recipe is that of peer.py. The class has no packing, and one shape compiles once: every example is padded to
--max-length. The loop suits it: a jitted step that donates its arguments, examples padded ahead of time, and the loss read
one step late.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import recipe
import transformers
from examples import Example, label_names, open_parts, training_rows
from transformers import AutoTokenizer, BertConfig, BertTokenizerFast, FlaxBertForSequenceClassification

Batch = dict[str, np.ndarray]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = recipe.make_parser("Fine-tune the legacy Flax class and time it.")
    values = parser.parse_args(arguments)
    recipe.check(parser, values)
    if values.lengths:
        parser.error("--lengths is not for the legacy class: give --train")
    return values


def open_model(values: argparse.Namespace, num_labels: int) -> tuple[FlaxBertForSequenceClassification, Any]:
    """Load the checkpoint with a new classifier, or draw a new model; return the model and its tokenizer."""
    dtype = jnp.dtype(values.precision)
    if values.model is not None:
        tokenizer = AutoTokenizer.from_pretrained(values.model)
        model = FlaxBertForSequenceClassification.from_pretrained(
            values.model, num_labels=num_labels, dtype=dtype, seed=values.seed, ignore_mismatched_sizes=True
        )
        return model, tokenizer
    tokenizer = BertTokenizerFast(vocab_file=str(values.vocab), do_lower_case=True)
    sizes = recipe.new_model_settings(values.new_model)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=num_labels, **sizes)
    return FlaxBertForSequenceClassification(config, seed=values.seed, dtype=dtype), tokenizer


def pad(examples: list[Example], tokenizer: Any, max_length: int) -> Batch:
    """Pad all examples to `max_length`, int32."""
    padded = tokenizer.pad(examples, padding="max_length", max_length=max_length, return_tensors="np")
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return {name: padded[name].astype(np.int32) for name in names}


def batches(data: Batch, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
    """Yield shuffled batches, epoch after epoch; a smaller last batch is left out."""
    count = len(data["labels"])
    rng = np.random.default_rng(seed)
    per_epoch = count // batch_size
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(count)
        start = step % per_epoch * batch_size
        yield {name: array[order[start : start + batch_size]] for name, array in data.items()}


def make_step(model: FlaxBertForSequenceClassification, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Return the jitted training step."""

    def loss_fn(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        inputs = {name: array for name, array in batch.items() if name != "labels"}
        logits = model(**inputs, params=params, dropout_rng=key, train=True).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), batch["labels"])
        return losses.mean()

    def step(params: Any, opt_state: Any, batch: dict[str, jax.Array], base_key: jax.Array, number: jax.Array) -> Any:
        key = jax.random.fold_in(base_key, number)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return jax.jit(step, donate_argnums=(0, 1))


def train(values: argparse.Namespace, model: Any, data: Batch) -> tuple[Any, list[float], recipe.Clock]:
    """Take the steps; return the parameters, the losses and the clock."""
    per_epoch = len(data["labels"]) // values.batch_size
    if not per_epoch:
        raise SystemExit(f"error: {len(data['labels'])} examples do not fill a batch of {values.batch_size}")
    steps = values.max_steps or values.epochs * per_epoch
    schedule = optax.linear_schedule(values.learning_rate, 0.0, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0))
    step_fn = make_step(model, optimizer)
    params, key = model.params, jax.random.key(values.seed)
    opt_state = optimizer.init(params)
    losses: list[float] = []
    pending: Any = None
    clock = recipe.Clock(values, lambda: jax.block_until_ready((params, pending)), programs=step_fn._cache_size)
    clock.start()
    for number, batch in enumerate(batches(data, values.batch_size, steps, values.seed)):
        params, opt_state, loss = step_fn(params, opt_state, jax.device_put(batch), key, np.int32(number))
        if pending is not None:
            losses.append(float(pending))
        pending = loss
        if clock.step(len(batch["labels"]), int(batch["attention_mask"].sum())):
            break
    clock.stop()
    losses.append(float(pending))
    return params, losses, clock


def accuracy(values: argparse.Namespace, model: Any, params: Any, data: Batch | None) -> float | None:
    """Return the share of examples whose label is predicted correctly."""
    if data is None:
        return None
    labels = data["labels"]
    inputs = {name: array for name, array in data.items() if name != "labels"}
    predict = jax.jit(lambda params, batch: model(**batch, params=params).logits.argmax(-1))
    size, found = min(values.eval_batch_size, len(labels)), []
    for start in range(0, len(labels), size):
        rows = np.arange(start, start + size) % len(labels)  # the last batch is filled with the first rows
        found.append(np.asarray(predict(params, {name: array[rows] for name, array in inputs.items()})))
    return float((np.concatenate(found)[: len(labels)] == labels).mean())


def run(values: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, and return the measurements."""
    rows = training_rows(values)
    model, tokenizer = open_model(values, len(label_names(rows)))
    parts = open_parts(values, rows, tokenizer)
    params, losses, clock = train(values, model, pad(parts.train, tokenizer, values.max_length))
    scores = {}
    for name, examples in (("validation", parts.validation), ("test", parts.test)):
        data = None if examples is None else pad(examples, tokenizer, values.max_length)
        scores[name] = accuracy(values, model, params, data)
    return {
        **clock.result(),
        "steps": len(losses),
        "train_loss": float(np.mean(losses)),
        "accuracy": scores,
        **parts.describe(),
        **recipe.settings(values),
        "device": jax.devices()[0].device_kind,
        "versions": recipe.versions(transformers, jax, flax, optax),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write the JSON."""
    values = parse_arguments(arguments)
    recipe.write(values, f"legacy {values.precision}", run(values))


if __name__ == "__main__":
    main()
