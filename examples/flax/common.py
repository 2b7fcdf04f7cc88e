"""What the four programs share: options, packing, the optimizer of the legacy recipes, and the loop."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from flax.training.train_state import TrainState

from jaxbert import UserError

Example = dict[str, Any]
Batch = dict[str, np.ndarray]
NO_LABEL = -100


def make_parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return the options that every program has; `defaults` replace some of their values."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with a BERT and its tokenizer, or a Hub name")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--output", type=Path, help="folder for the trained model")
    parser.add_argument("--max_length", type=int, default=128, help="tokens of an example")
    parser.add_argument("--row_length", type=int, default=256, help="tokens of a packed row")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch")
    parser.add_argument("--slots", type=int, default=16, help="most examples of a row")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_every", type=int, default=20, help="steps")
    parser.set_defaults(**defaults)
    return parser


def pack(
    examples: Sequence[Example], values: argparse.Namespace, rng: np.random.Generator | None = None
) -> Iterator[Batch]:
    """Yield batches of packed rows, in the order of the examples or a random one.

    Lists of an example lie at its tokens, [rows, row_length], and numbers in its slot, [rows, slots]; `index` says which
    example it is.
    """
    return (lay_out(examples, rows, values) for rows in plan(examples, values, rng))


def plan(
    examples: Sequence[Example], values: argparse.Namespace, rng: np.random.Generator | None = None
) -> Iterator[list[list[int]]]:
    """Yield the examples of each row of a batch: the first row with room takes one; without any, the next batch begins."""
    order = range(len(examples)) if rng is None else rng.permutation(len(examples))
    rows: list[list[int]] = [[] for _ in range(values.rows)]
    room = [values.row_length] * values.rows
    for i in order:
        size = len(examples[i]["input_ids"])
        if size > values.row_length:
            raise UserError(
                f"--row_length is {values.row_length}, but an example has {size} tokens: lower --max_length"
            )
        free = [r for r in range(values.rows) if room[r] >= size and len(rows[r]) < values.slots]
        if not free:
            yield rows
            rows, room, free = [[] for _ in rows], [values.row_length] * values.rows, [0]
        rows[free[0]].append(int(i))
        room[free[0]] -= size
    if any(rows):
        yield rows


def lay_out(examples: Sequence[Example], rows: list[list[int]], values: argparse.Namespace) -> Batch:
    """Put the examples of each row one behind the other."""
    tokens, slots = (len(rows), values.row_length), (len(rows), values.slots)
    lists = [name for name, value in examples[0].items() if isinstance(value, list)]
    numbers = [name for name, value in examples[0].items() if isinstance(value, int)]
    batch = {name: np.full(tokens, NO_LABEL if name == "labels" else 0, np.int32) for name in (*lists, "segment_ids")}
    batch |= {name: np.zeros(slots, np.int32) for name in (*numbers, "cls_positions")}
    batch["index"] = np.full(slots, -1, np.int32)
    for r, row in enumerate(rows):
        start = 0
        for slot, i in enumerate(row):
            end = start + len(examples[i]["input_ids"])
            for name in lists:
                batch[name][r, start:end] = examples[i][name]
            for name in numbers:
                batch[name][r, slot] = examples[i][name]
            batch["segment_ids"][r, start:end] = slot + 1
            batch["cls_positions"][r, slot], batch["index"][r, slot] = start, i
            start = end
    return batch


def make_state(model: Any, steps: int, learning_rate: float) -> TrainState:
    """Return the parameters with AdamW: a tenth of the steps up, then down to zero, no decay of biases and LayerNorms."""
    warmup = max(1, steps // 10)
    up = optax.linear_schedule(0.0, learning_rate, warmup)
    schedule = optax.join_schedules([up, optax.linear_schedule(learning_rate, 0.0, max(1, steps - warmup))], [warmup])
    flat = traverse_util.flatten_dict(model.params)
    decayed = traverse_util.unflatten_dict({path: path[-1] in ("kernel", "embedding") for path in flat})
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01, mask=decayed))
    return TrainState.create(apply_fn=model.__call__, params=model.params, tx=optimizer)


def inputs(batch: Any) -> dict[str, Any]:
    """Return what the model reads."""
    return {name: batch[name] for name in ("input_ids", "token_type_ids", "segment_ids", "cls_positions")}


def make_step(loss_fn: Callable[[Any, Any, jax.Array], jax.Array]) -> Callable[..., Any]:
    """Return the jitted step of a loss of parameters, batch and dropout key."""

    @jax.jit
    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, jax.Array, jax.Array]:
        key, dropout_key = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_fn)(state.params, batch, dropout_key)
        return state.apply_gradients(grads=grads), loss, key

    return step


def train(
    model: Any,
    loss_fn: Callable[[Any, Any, jax.Array], jax.Array],
    examples: Sequence[Example],
    values: argparse.Namespace,
    evaluate: Callable[[Any], str] | None,
    prepare: Callable[[Batch, np.random.Generator], Batch] = lambda batch, rng: batch,
) -> tuple[Any, list[float]]:
    """Train for all epochs; return the parameters and the loss of each step.

    Args:
      model: with the first parameters.
      loss_fn: of parameters, batch and dropout key.
      examples: to pack, in another order each epoch.
      values: the options.
      evaluate: says after each epoch how good parameters are.
      prepare: what is done to each batch before its step.
    """
    step, rng, key = make_step(loss_fn), np.random.default_rng(values.seed), jax.random.PRNGKey(values.seed)
    state = make_state(model, values.epochs * sum(1 for _ in plan(examples, values)), values.learning_rate)
    losses: list[jax.Array] = []
    for epoch in range(values.epochs):
        for batch in pack(examples, values, rng):
            state, loss, key = step(state, prepare(batch, rng), key)
            losses.append(loss)
            if len(losses) % values.log_every == 0:
                print(
                    f"step {len(losses)}: loss {np.mean(jax.device_get(losses[-values.log_every :])):.4f}", flush=True
                )
        if evaluate is not None:
            print(f"epoch {epoch + 1}: {evaluate(state.params)}", flush=True)
    return state.params, list(map(float, jax.device_get(losses)))


def save(model: Any, params: Any, tokenizer: Any, folder: Path | None) -> None:
    """Write the model and its tokenizer where a folder is given."""
    if folder is not None:
        model.save_pretrained(folder, params=params)
        tokenizer.save_pretrained(folder)


def run(main: Callable[[], Any]) -> None:
    """Run a program; a mistake of the user's is one line."""
    try:
        main()
    except (UserError, OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"error: {error}") from error
