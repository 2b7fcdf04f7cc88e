"""Fine-tune FlaxBertForSequenceClassification on labelled texts, as the legacy run_flax_glue.py did, in packed rows.

  python examples/flax/classification.py --model bert-base-uncased --train train.tsv --validation dev.tsv \\
      --text sentence --label label --output classifier

Files have a header; .tsv fields are raw, others are read as csv. A legacy program that pads becomes this one by three
changes: `pack` in place of padding, `segment_ids` and `cls_positions` in place of `attention_mask`, and logits of each slot
of a row, [rows, slots, labels], of which unused ones weigh nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import Example, inputs, make_parser, pack, run, save, train
from transformers import AutoTokenizer

from jaxbert import FlaxBertForSequenceClassification, UserError


def read(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Read the columns that are named."""
    raw = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, **raw)  # type: ignore[arg-type]
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise UserError(f"{path} has no column {sorted(missing)[0]!r}: it has {', '.join(reader.fieldnames or ())}")
        rows = [[row[name] for name in columns] for row in reader]
    short = next((i for i, row in enumerate(rows, 1) if None in row), None)
    if short is not None or not rows:
        raise UserError(f"{path}: row {short} lacks fields" if rows else f"{path} holds no rows")
    return rows


def encode(rows: list[list[str]], names: list[str], tokenizer: Any, max_length: int) -> list[Example]:
    """Tokenize; the last column is the label."""
    unknown = {row[-1] for row in rows} - set(names)
    if unknown:
        raise UserError(f"the label {sorted(unknown)[0]!r} is not among those of --train: {', '.join(names)}")
    texts = zip(*(row[:-1] for row in rows), strict=True)
    encoded = tokenizer(*map(list, texts), truncation=True, max_length=max_length, return_token_type_ids=True)
    return [
        {"input_ids": ids, "token_type_ids": types, "label": names.index(row[-1])}
        for ids, types, row in zip(encoded["input_ids"], encoded["token_type_ids"], rows, strict=True)
    ]


def accuracy(predict: Any, params: Any, examples: list[Example], values: Any) -> float:
    """Return the share of examples whose label is predicted."""
    found = 0
    for batch in pack(examples, values):
        found += int(((np.asarray(predict(params, batch)) == batch["label"]) & (batch["index"] >= 0)).sum())
    return found / len(examples)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, evaluate and save; return the losses."""
    parser = make_parser(__doc__)
    parser.add_argument("--text", default="text")
    parser.add_argument("--text_pair")
    parser.add_argument("--label", default="label")
    values = parser.parse_args(arguments)
    columns = [name for name in (values.text, values.text_pair, values.label) if name]
    rows = read(values.train, columns)
    names = sorted({row[-1] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = FlaxBertForSequenceClassification.from_pretrained(
        values.model, **labels, seed=values.seed, ignore_mismatched_sizes=True
    )
    examples = encode(rows, names, tokenizer, values.max_length)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        logits = model(**inputs(batch), params=params, dropout_rng=key, train=True).logits
        used = batch["index"] >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.where(used, losses, 0).sum() / used.sum()

    predict = jax.jit(lambda params, batch: model(**inputs(batch), params=params).logits.argmax(-1))
    held_out = values.validation and encode(read(values.validation, columns), names, tokenizer, values.max_length)

    def evaluate(params: Any) -> str:
        return f"accuracy {accuracy(predict, params, held_out, values):.4f}"

    params, losses = train(model, loss_fn, examples, values, evaluate if held_out else None)
    save(model, params, tokenizer, values.output)
    return losses


if __name__ == "__main__":
    run(main)
