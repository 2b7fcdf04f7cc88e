"""Multiple choice: a softmax over the choices of a question, each of which is a packed segment.

The choices of a question may lie in different rows of a step: they are the examples of one document, as windows of a long
text are. In the batch the label of a choice's first token, `token_labels`, says whether it is the right one.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_softmax
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import NO_LABEL
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.label_fit import Head
from jaxbert.data.long_texts import LongTexts
from jaxbert.data.overview import Labelling, View, view_items
from jaxbert.data.prepare import encode_part
from jaxbert.data.seen import hash_texts
from jaxbert.data.table import Place, Table
from jaxbert.data.tokens import Tokens, joined
from jaxbert.models import heads
from jaxbert.tasks.base import Batch, Inputs, Sums, Task
from jaxbert.tasks.exported import settings_of, with_settings
from jaxbert.tasks.multiple_choice.read import (
    MEANINGS,
    Meaning,
    Questions,
    fit_meaning,
    read_questions,
    right_choices,
    stream_questions,
)
from jaxbert.tasks.reading import ItemFeed, read_items, refuse

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class MultipleChoice(Task):
    """Choose one of some texts for each question."""

    name = "multiple_choice"
    assumes = "a label is the number of the right choice from 0"
    head = heads.MultipleChoice
    architecture = "ForMultipleChoice"
    answer_keys = ("choice", "text", "score", "probabilities")
    default_metric = "accuracy"
    meaning: Meaning = "number from 0"
    """What a label is."""
    max_length: int | None = None
    """The longest choice in tokens, with its question and context, that training read."""

    @property
    def reading_length(self) -> int | None:
        """The longest choice in tokens."""
        return self.max_length

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets; the training questions say what a label is."""
        refuse(config, "train.label_smoothing", "model.num_labels", "data.label_names", "data.window_stride")
        sets = read_items(config.data, read_questions)
        task = cls(fit_meaning(sets.train), max_length)

        def encode(name: str, questions: Questions) -> tuple[Examples, View]:
            right = right_choices(questions, task.meaning)
            found, lengths = _encode(questions, tokenizer, max_length, right)
            return found, _view(name, questions, lengths, right, max_length)

        return sets.split(_contexts, config).inputs(encode, task, tokenizer)

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source."""
        questions = read_questions(spec, data, role="test")
        return _encode(questions, tokenizer, max_length, right_choices(questions, self.meaning))[0]

    def feed(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]) -> ItemFeed:
        """Open one source."""

        def tokenize(parts: Sequence[Questions]) -> Examples:
            return _encode(Questions.joined(parts), tokenizer, max_length)[0]

        return ItemFeed(spec, stream_questions(spec, data, kept), tokenize)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Note what a label is, and the longest choice."""
        return with_settings(bert_config, self.name, meaning=self.meaning, max_length=self.max_length)

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> MultipleChoice:
        """Take these notes; labels for a model of another program are numbers from 0, as transformers has them."""
        settings = settings_of(bert_config)
        longest = settings.get("max_length")
        return cls(
            MEANINGS.get(str(settings.get("meaning")), "number from 0"),
            longest if type(longest) is int and longest > 2 else None,
        )

    def describe(self) -> str:
        """Say what is learned."""
        return f"the right one of some choices (labels: {self.meaning})"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the losses of the questions of a step, in float32."""
        real_BS, logits_BS = batch["example_mask"], outputs["logits"][..., 0].astype(jnp.float32)
        right_BS = jnp.take_along_axis(batch["token_labels"], batch["cls_positions"], axis=1) == 1
        real_W, logits_W, right_W = (x.reshape(-1) for x in (real_BS, logits_BS, right_BS & real_BS))
        choices = real_W.shape[0]
        question_W = jnp.where(real_W, batch["document"].reshape(-1), choices)  # unused slots belong to none
        largest_Q = jax.lax.stop_gradient(jax.ops.segment_max(logits_W, question_W, choices))
        largest_W = jnp.where(real_W, largest_Q[jnp.minimum(question_W, choices - 1)], 0.0)
        above_W = jnp.where(real_W, logits_W - largest_W, 0.0)
        sums_Q = jax.ops.segment_sum(jnp.where(real_W, jnp.exp(above_W), 0.0), question_W, choices)
        there_Q = sums_Q > 0
        log_sums_Q = jnp.log(jnp.where(there_Q, sums_Q, 1.0))
        right_Q = jax.ops.segment_sum(jnp.where(right_W, above_W, 0.0), question_W, choices)
        return {"loss": (log_sums_Q - right_Q).sum(), "examples": there_Q.sum()}

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the score of each choice, [B, S], float32."""
        return outputs["logits"][..., 0].astype(jnp.float32)

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        return ["accuracy", "loss"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute accuracy, and the mean loss of questions."""
        assert examples.labels is not None
        scores, labels = _by_question(predictions, examples), examples.labels.tolist()
        return {
            "accuracy": float(np.mean([found.argmax() == label for found, label in zip(scores, labels, strict=True)])),
            "loss": -float(np.mean([found[label] for found, label in zip(scores, labels, strict=True)])),
            "examples": len(examples),
        }

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `choice` (its place, from 0), its `text`, `score` (its probability), and the `probabilities` of all."""
        questions: Questions = examples.extra
        answers = []
        for number, scores in enumerate(_by_question(predictions, examples, first, last), first):
            shares, best = np.exp(scores), int(scores.argmax())
            answers.append(
                {
                    "choice": best,
                    "text": questions.items[number].choices[best],
                    "score": round(float(shares[best]), 6),
                    "probabilities": [round(float(share), 6) for share in shares],
                }
            )
        return answers


def _by_question(
    predictions: np.ndarray, examples: Examples, first: int = 0, last: int | None = None
) -> list[np.ndarray]:
    """Return the log-probabilities of each question's choices."""
    assert examples.windows is not None
    begins = examples.windows.first[first : (len(examples) if last is None else last) + 1]
    parts = np.split(predictions[begins[0] : begins[-1]].astype(np.float64), begins[1:-1] - begins[0])
    return [log_softmax(part) for part in parts]


def _contexts(questions: Questions) -> np.ndarray:
    """Return what each question is about as a number: a context must not be in training and validation."""
    texts = [item.question if item.context is None else item.context for item in questions.items]
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return np.array([numbers[text] for text in texts])


def _encode(
    questions: Questions, tokenizer: Any, max_length: int, right: Sequence[int] | None = None
) -> tuple[Examples, np.ndarray]:
    """Tokenize the choices of some questions; return the examples, and the tokens of each question's longest choice.

    What is longer than `max_length` is cut, from the end of the longer text, and that is said.
    """
    items = questions.items
    windows = Windows.of_counts(np.array([len(item.choices) for item in items], np.int64))
    texts = [pair for item in items for pair in item.texts()]
    rows = [item.row.row if isinstance(item.row, Place) else int(item.row) for item in items for _ in item.choices]
    firsts, seconds = [first for first, _ in texts], [second for _, second in texts]
    table = Table(firsts, seconds, None, None, questions.source, rows)
    encoded = joined(list(encode_part(table, tokenizer, max_length, LongTexts())))
    lengths = np.maximum.reduceat(encoded.whole, windows.first[:-1])
    if encoded.cut:
        logger.warning(
            "%s: %d of %d questions have a choice that is longer than %d tokens with its question, and was cut",
            *(questions.source, np.count_nonzero(lengths > max_length), len(items), max_length),
        )
    tokens = Tokens.behind_one_another(encoded.ids, encoded.lengths, encoded.first_lengths)
    examples = Examples(tokens, windows=windows, extra=questions)
    if right is None:
        return examples, lengths
    marks = np.full(len(tokens.ids), NO_LABEL, np.int32)
    marks[tokens.begins] = 0
    marks[tokens.begins[windows.first[:-1] + np.array(right)]] = 1
    return dataclasses.replace(examples, labels=np.array(right, np.int32), token_labels=marks), lengths


def _view(name: str, questions: Questions, lengths: np.ndarray, right: Sequence[int], max_length: int) -> View:
    """Return what an overview says of a set of questions; equal ones have the same choices."""
    items = questions.items
    texts = ["\0".join([item.context or "", item.question, *item.choices]) for item in items]
    chosen = [item.choices[index] for item, index in zip(items, right, strict=True)]
    counts = {f"choice {place}": int(count) for place, count in enumerate(np.bincount(right))}
    labels = Labelling("choice", counts, keys=hash_texts(chosen), named=lambda i: chosen[i])
    return view_items(
        name,
        questions.source,
        texts,
        lengths,
        [item.row for item in items],
        labels,
        max_length,
        unit="questions",
        facts=questions.facts,
        windows=False,
    )
