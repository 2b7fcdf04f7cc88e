"""Fine-tune FlaxBertForTokenClassification on tagged words, as the legacy run_flax_ner.py did, in packed rows.

  python examples/flax/tagging.py --model bert-base-cased --train train.conll --validation dev.conll --output tagger

A line of a file is a word and, last, its tag; a blank line ends a sentence. The first piece of a word carries its tag, all
other tokens have none. Packed rows need `segment_ids` alone: logits are those of the tokens, [rows, row_length, tags].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import NO_LABEL, Example, inputs, make_parser, pack, run, save, train
from transformers import AutoTokenizer

from jaxbert import FlaxBertForTokenClassification, UserError

Sentence = list[list[str]]


def read(path: Path) -> list[Sentence]:
    """Return sentences of [word, ..., tag]."""
    sentences: list[Sentence] = [[]]
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            sentences.append([])
        elif len(fields) == 1:
            raise UserError(f"{path}, line {number}: a word without a tag")
        else:
            sentences[-1].append(fields)
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise UserError(f"{path} holds no sentence")
    return sentences


def encode(sentences: list[Sentence], names: list[str], tokenizer: Any, max_length: int) -> list[Example]:
    """Tokenize; the first piece of each word gets the number of its tag."""
    unknown = {fields[-1] for sentence in sentences for fields in sentence} - set(names)
    if unknown:
        raise UserError(f"the tag {sorted(unknown)[0]!r} is not among those of --train: {', '.join(names)}")
    words = [[fields[0] for fields in sentence] for sentence in sentences]
    encoded = tokenizer(
        words, is_split_into_words=True, truncation=True, max_length=max_length, return_token_type_ids=True
    )
    examples = []
    for i, sentence in enumerate(sentences):
        labels, last = [], None
        for word in encoded.word_ids(i):
            first = word is not None and word != last
            labels.append(names.index(sentence[word][-1]) if first else NO_LABEL)
            last = word
        ids, types = encoded["input_ids"][i], encoded["token_type_ids"][i]
        examples.append({"input_ids": ids, "token_type_ids": types, "labels": labels})
    return examples


def accuracy(predict: Any, params: Any, examples: list[Example], values: Any) -> float:
    """Return the share of words whose tag is predicted."""
    found = words = 0
    for batch in pack(examples, values):
        tagged = batch["labels"] != NO_LABEL
        found += int(((np.asarray(predict(params, batch)) == batch["labels"]) & tagged).sum())
        words += int(tagged.sum())
    return found / words


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, evaluate and save; return the losses."""
    values = make_parser(__doc__).parse_args(arguments)
    sentences = read(values.train)
    names = sorted({fields[-1] for sentence in sentences for fields in sentence})
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = FlaxBertForTokenClassification.from_pretrained(
        values.model, **labels, seed=values.seed, ignore_mismatched_sizes=True
    )
    examples = encode(sentences, names, tokenizer, values.max_length)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        logits = model(**inputs(batch), params=params, dropout_rng=key, train=True).logits
        tagged = batch["labels"] != NO_LABEL
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(batch["labels"], 0))
        return jnp.where(tagged, losses, 0).sum() / jnp.maximum(tagged.sum(), 1)

    predict = jax.jit(lambda params, batch: model(**inputs(batch), params=params).logits.argmax(-1))
    held_out = values.validation and encode(read(values.validation), names, tokenizer, values.max_length)

    def evaluate(params: Any) -> str:
        return f"accuracy {accuracy(predict, params, held_out, values):.4f}"

    params, losses = train(model, loss_fn, examples, values, evaluate if held_out else None)
    save(model, params, tokenizer, values.output)
    return losses


if __name__ == "__main__":
    run(main)
