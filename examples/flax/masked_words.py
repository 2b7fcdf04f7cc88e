"""Train FlaxBertForMaskedLM on plain text, as the legacy run_mlm_flax.py did, in packed rows.

  python examples/flax/masked_words.py --model bert-base-uncased --train train.txt --validation valid.txt --output adapted

A line of a file is a text. With --from_nothing the weights are drawn anew, by the configuration of --model. Masks are drawn
for every batch: of the words, 15% are to be found, of which 80% are hidden, 10% replaced and 10% left. The legacy recipe
cuts all texts into blocks; here texts stay whole and are packed, and no text reads another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import NO_LABEL, Batch, Example, inputs, make_parser, pack, run, save, train
from transformers import AutoTokenizer, BertConfig

from jaxbert import FlaxBertForMaskedLM, UserError

SHARE, HIDDEN, REPLACED = 0.15, 0.8, 0.1


def read(path: Path, tokenizer: Any, max_length: int) -> list[Example]:
    """Tokenize the lines that are not blank."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no text")
    encoded = tokenizer(lines, truncation=True, max_length=max_length, return_token_type_ids=True)
    return [
        {"input_ids": ids, "token_type_ids": types}
        for ids, types in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)
    ]


def mask(batch: Batch, tokenizer: Any, rng: np.random.Generator) -> Batch:
    """Return the batch with words hidden, and `labels` that hold what was there."""
    ids = batch["input_ids"]
    words = (batch["segment_ids"] > 0) & ~np.isin(ids, tokenizer.all_special_ids)
    chosen, way = words & (rng.random(ids.shape) < SHARE), rng.random(ids.shape)
    hidden = np.where(way < HIDDEN, tokenizer.mask_token_id, ids)
    replaced = (way >= HIDDEN) & (way < HIDDEN + REPLACED)
    hidden = np.where(replaced, rng.integers(0, len(tokenizer), ids.shape), hidden)
    labels = np.where(chosen, ids, NO_LABEL)
    return batch | {"input_ids": np.where(chosen, hidden, ids).astype(np.int32), "labels": labels.astype(np.int32)}


def make_loss(model: Any, train: bool) -> Any:
    """Return the mean cross-entropy of the words to be found."""

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        logits = model(**inputs(batch), params=params, dropout_rng=key, train=train).logits
        chosen = batch["labels"] != NO_LABEL
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(batch["labels"], 0))
        return jnp.where(chosen, losses, 0).sum() / jnp.maximum(chosen.sum(), 1)

    return loss_fn


def held_out_loss(loss_fn: Any, params: Any, examples: list[Example], tokenizer: Any, values: Any) -> float:
    """Return the loss of texts that were not trained on; their masks are the same every time."""
    rng = np.random.default_rng(0)
    total = count = 0.0
    for batch in (mask(batch, tokenizer, rng) for batch in pack(examples, values)):
        chosen = int((batch["labels"] != NO_LABEL).sum())
        total += chosen * float(loss_fn(params, batch, jax.random.PRNGKey(0)))
        count += chosen
    return total / max(count, 1)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, evaluate and save; return the losses."""
    parser = make_parser(__doc__)
    parser.add_argument("--from_nothing", action="store_true", help="draw new weights")
    values = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    if values.from_nothing:
        model = FlaxBertForMaskedLM(BertConfig.from_pretrained(values.model), seed=values.seed)
    else:
        model = FlaxBertForMaskedLM.from_pretrained(values.model, seed=values.seed)
    examples = read(values.train, tokenizer, values.max_length)

    measure = jax.jit(make_loss(model, train=False))
    held_out = values.validation and read(values.validation, tokenizer, values.max_length)

    def evaluate(params: Any) -> str:
        loss = held_out_loss(measure, params, held_out, tokenizer, values)
        return f"loss {loss:.4f}, perplexity {math.exp(min(loss, 50)):.2f}"

    def hide(batch: Batch, rng: np.random.Generator) -> Batch:
        return mask(batch, tokenizer, rng)

    loss_fn = make_loss(model, train=True)
    params, losses = train(model, loss_fn, examples, values, evaluate if held_out else None, prepare=hide)
    save(model, params, tokenizer, values.output)
    return losses


if __name__ == "__main__":
    run(main)
