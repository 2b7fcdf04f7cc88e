"""Fine-tune FlaxBertForQuestionAnswering on questions with answers in a text, as the legacy run_qa.py did, in packed rows.

  python examples/flax/answering.py --model bert-base-uncased --train train-v1.1.json --validation dev-v1.1.json \\
      --max_length 384 --row_length 512 --output answerer

Files are SQuAD's. A long text becomes several windows; an answer that a window does not hold is its first token. A packed
row holds several windows, so the softmax over starts and ends runs over each window's own tokens: `own_scores`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Example, inputs, make_parser, pack, run, save, train
from transformers import AutoTokenizer

from jaxbert import FlaxBertForQuestionAnswering, UserError

LONGEST = 30
"""Tokens of an answer."""


def read(path: Path) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return questions, contexts and answers."""
    try:
        articles = json.loads(path.read_text("utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        rows = [
            (qa["question"], paragraph["context"], qa["answers"]) for paragraph in paragraphs for qa in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has not the layout of SQuAD ({type(error).__name__}: {error})") from error
    if not rows:
        raise UserError(f"{path} holds no questions")
    return rows


def encode(rows: list[tuple], tokenizer: Any, max_length: int) -> Iterator[Example]:
    """Yield the windows of each question; `row` says whose they are, `start` and `end` are tokens of the window."""
    questions, contexts, _ = map(list, zip(*rows, strict=True))
    options = {"stride": max_length // 4, "return_overflowing_tokens": True, "return_offsets_mapping": True}
    encoded = tokenizer(
        questions, contexts, truncation="only_second", max_length=max_length, return_token_type_ids=True, **options
    )
    for i, row in enumerate(encoded["overflow_to_sample_mapping"]):
        spans = [
            span if side == 1 else (-1, -1)
            for span, side in zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True)
        ]
        start = end = 0
        for answer in rows[row][2][:1]:
            first, last = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            starts = [t for t, (a, b) in enumerate(spans) if a <= first < b]
            ends = [t for t, (a, b) in enumerate(spans) if a < last <= b]
            if starts and ends:
                start, end = starts[0], ends[-1]
        ids, types = encoded["input_ids"][i], encoded["token_type_ids"][i]
        yield {"input_ids": ids, "token_type_ids": types, "start": start, "end": end, "row": row, "spans": tuple(spans)}


def own_scores(logits: jax.Array, batch: Any) -> jax.Array:
    """Return log probabilities [rows, slots, row_length] of each window's tokens; all others have next to none."""
    slots = jnp.arange(1, batch["cls_positions"].shape[1] + 1)
    own = batch["segment_ids"][:, None, :] == slots[None, :, None]
    return jax.nn.log_softmax(jnp.where(own, logits[:, None, :], -1e9), axis=-1)


def exact_match(predict: Any, params: Any, rows: list[tuple], windows: list[Example], values: Any) -> float:
    """Return the share of questions whose best span over all windows is one of their answers."""
    best: dict[int, tuple[float, str]] = {}
    for batch in pack(windows, values):
        starts, ends = map(np.asarray, predict(params, batch))
        for r, slot in zip(*np.nonzero(batch["index"] >= 0), strict=True):
            window, place = windows[batch["index"][r, slot]], batch["cls_positions"][r, slot]
            count = len(window["input_ids"])
            scores = starts[r, slot, place : place + count, None] + ends[r, slot, None, place : place + count]
            inside = np.array([a >= 0 for a, _ in window["spans"]])
            allowed = np.triu(np.ones((count, count), bool)) & ~np.triu(np.ones((count, count), bool), LONGEST)
            scores = np.where(allowed & inside[:, None] & inside[None, :], scores, -np.inf)
            first, last = np.unravel_index(scores.argmax(), scores.shape)
            text = rows[window["row"]][1][window["spans"][first][0] : window["spans"][last][1]]
            best[window["row"]] = max(best.get(window["row"], (-np.inf, "")), (float(scores.max()), text))
    return float(np.mean([best[i][1] in {a["text"] for a in row[2]} for i, row in enumerate(rows)]))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, evaluate and save; return the losses."""
    values = make_parser(__doc__, slots=8).parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    model = FlaxBertForQuestionAnswering.from_pretrained(
        values.model, num_labels=2, seed=values.seed, ignore_mismatched_sizes=True
    )
    examples = list(encode(read(values.train), tokenizer, values.max_length))

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        out = model(**inputs(batch), params=params, dropout_rng=key, train=True)
        used, losses = batch["index"] >= 0, 0.0
        for logits, place in ((out.start_logits, batch["start"]), (out.end_logits, batch["end"])):
            places = (batch["cls_positions"] + place)[:, :, None]
            losses -= jnp.take_along_axis(own_scores(logits, batch), places, axis=-1)[:, :, 0] / 2
        return jnp.where(used, losses, 0).sum() / used.sum()

    @jax.jit
    def predict(params: Any, batch: Any) -> Any:
        out = model(**inputs(batch), params=params)
        return own_scores(out.start_logits, batch), own_scores(out.end_logits, batch)

    rows = read(values.validation) if values.validation else []
    windows = list(encode(rows, tokenizer, values.max_length)) if rows else []

    def evaluate(params: Any) -> str:
        return f"exact match {exact_match(predict, params, rows, windows, values):.4f}"

    params, losses = train(model, loss_fn, examples, values, evaluate if rows else None)
    save(model, params, tokenizer, values.output)
    return losses


if __name__ == "__main__":
    run(main)
