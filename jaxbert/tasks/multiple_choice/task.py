"""Multiple choice: a softmax over the choices of a question; each choice is a packed segment.

A question is one example, and its choices are its segments, like the windows of a long text; they may be in different rows
of a step. In a batch, the label of a choice's first token, `token_labels`, says whether the choice is right. `read` reads
the questions.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_softmax
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import NO_LABEL
from jaxbert.data.examples import Examples
from jaxbert.data.items import Encoder, encode_in_memory
from jaxbert.data.labels import Head
from jaxbert.data.overview import Labelling, View, view_items
from jaxbert.data.store import Stored, StoredColumn, cache_folder
from jaxbert.data.table import Place, Table
from jaxbert.data.tokens import Encoded, LongTexts, encode_part, hash_texts, joined
from jaxbert.models import heads
from jaxbert.tasks import settings_of, with_settings
from jaxbert.tasks.base import Batch, Inputs, Outcome, Sums, Task
from jaxbert.tasks.decision import MOST_PROBABLE, Conformity, Decision, Tuning, selective_accuracy
from jaxbert.tasks.items import ItemInputs, encode_shown, read_items, refuse
from jaxbert.tasks.metrics import brier_scores, calibration_error
from jaxbert.tasks.multiple_choice.read import (
    MEANINGS,
    ChoiceQuestions,
    Meaning,
    fit_meaning,
    open_choice_questions,
    read_choice_questions,
    right_choices,
)
from jaxbert.tasks.pooling import mean_of_logs

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class MultipleChoice(Task):
    """Choose one of some texts for each question."""

    name = "multiple_choice"
    assumes = "a label is the number of the right choice from 0"
    head = heads.MultipleChoiceHead
    architecture = "ForMultipleChoice"
    last_layer = "classifier"
    default_metric = "accuracy"
    meaning: Meaning = "number from 0"
    """The meaning of a label."""
    max_length: int | None = None
    """The longest choice in training, in tokens, with its question and context."""
    decision: Decision = MOST_PROBABLE
    """How a choice follows from the probabilities."""

    @property
    def answer_keys(self) -> tuple[str, ...]:
        """The keys of an answer; `choice_set` only if a coverage is asked for."""
        own = ("choice_set",) if self.decision.coverage is not None else ()
        return ("choice", "text", "score", *own, "probabilities")

    @property
    def reading_length(self) -> int | None:
        """The longest choice in training, in tokens."""
        return self.max_length

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets; the training questions decide the meaning of a label."""
        refuse(config, "train.label_smoothing", "model.num_labels", "data.label_names", "data.window_stride")
        sets = read_items(config.data, ChoiceQuestions, partial(open_choice_questions, data=config.data))
        task = cls(fit_meaning(sets.train), max_length)

        def encode(name: str, questions: ChoiceQuestions) -> tuple[Examples, View]:
            stored = task._tokens(questions, tokenizer, max_length, cache_folder(config.data.cache_dir))
            return _examples(questions, stored), _view(name, questions, stored, max_length)

        return sets.split(config).inputs(encode, task, tokenizer)

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        questions = read_choice_questions(spec, data, role="test")
        return _examples(questions, self._tokens(questions, tokenizer, max_length))

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> ItemInputs[ChoiceQuestions]:
        encoder = _make_encoder(tokenizer, max_length)

        def examples_of(questions: ChoiceQuestions) -> Examples:
            return _examples(questions, encode_in_memory(questions, encoder))

        return ItemInputs(open_choice_questions(spec, data, role="predict", kept=kept), ChoiceQuestions, examples_of)

    def _tokens(
        self, questions: ChoiceQuestions, tokenizer: Any, max_length: int, folder: Path | None = None
    ) -> Stored:
        """Tokenize questions with their right choices."""
        if questions.notes["fits"][self.meaning] != len(questions):
            right_choices(questions, self.meaning)  # raises an error
        encoder = _make_encoder(tokenizer, max_length, self.meaning)
        return encode_shown(questions, encoder, tokenizer, max_length, folder)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Return a copy with the meaning of a label, the longest choice, and how choices are decided."""
        decided = self.decision.settings()
        return with_settings(bert_config, self.name, meaning=self.meaning, max_length=self.max_length, **decided)

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> MultipleChoice:
        """Return the task of an export; for a model of another program, labels are numbers from 0, as in transformers."""
        settings = settings_of(bert_config)
        longest = settings.get("max_length")
        return cls(
            MEANINGS.get(str(settings.get("meaning")), "number from 0"),
            longest if type(longest) is int and longest > 2 else None,
            Decision.read(settings),
        )

    def describe(self) -> str:
        """Return the task in a few words."""
        return f"the right one of some choices (labels: {self.meaning})"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the losses of the questions of a step, in float32."""
        real_BS, logits_BS = batch["example_mask"], outputs["logits"][..., 0].astype(jnp.float32)
        right_BS = jnp.take_along_axis(batch["token_labels"], batch["cls_positions"], axis=1) == 1
        real_W, logits_W, right_W = (x.reshape(-1) for x in (real_BS, logits_BS, right_BS & real_BS))
        choices = real_W.shape[0]
        question_W = jnp.where(real_W, batch["example_index"].reshape(-1), choices)  # unused slots belong to none
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

    def labels_and_answers(self, predictions: np.ndarray, examples: Examples) -> tuple[list[int], list[int]]:
        """Return the places of the right and of the chosen choices, from 0."""
        assert examples.labels is not None
        return examples.labels.tolist(), [int(scores.argmax()) for scores in _by_question(predictions, examples)]

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that are single numbers."""
        return ["accuracy", "loss", "calibration_error", "brier"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute accuracy, the mean loss of questions, and the calibration of the probabilities of choices."""
        assert examples.labels is not None
        probabilities, labels = self.probabilities(predictions, examples), examples.labels
        right = probabilities.argmax(-1) == labels
        return {
            "accuracy": float(right.mean()),
            "loss": self.loss_at(1.0, predictions, examples),
            "calibration_error": calibration_error(probabilities.max(-1), right),
            "brier": float(brier_scores(probabilities, labels).mean()),
            "examples": len(examples),
        }

    def check_tuning(self, tuning: Tuning) -> None:
        """Check that there are no thresholds."""
        tuning.refuse("task multiple_choice", temperature=True)

    def at_temperature(self, temperature: float) -> MultipleChoice:
        """Return the task for scores that are divided by `temperature`."""
        return dataclasses.replace(self, decision=self.decision.at_temperature(temperature))

    def loss_at(self, temperature: float, predictions: np.ndarray, examples: Examples) -> float:
        """Return the mean loss of questions."""
        assert examples.labels is not None
        parts = _by_question(predictions.astype(np.float64) / temperature, examples)
        return -float(np.mean([found[label] for found, label in zip(parts, examples.labels.tolist(), strict=True)]))

    def tuned(self, outcomes: Sequence[Outcome], tuning: Tuning) -> tuple[MultipleChoice, dict[str, Any]]:
        """Keep conformity scores; tell what abstaining buys."""
        parts = [self.probabilities(o.predictions, o.examples) for o in outcomes]
        labels = [np.asarray(o.examples.labels) for o in outcomes]
        own = [part[np.arange(len(part)), right] for part, right in zip(parts, labels, strict=True)]
        right = np.concatenate([part.argmax(-1) == labels for part, labels in zip(parts, labels, strict=True)])
        decision = dataclasses.replace(self.decision, conformity=Conformity.of(np.concatenate(own)))
        told = {"abstaining": selective_accuracy(np.concatenate([part.max(-1) for part in parts]), right)}
        return dataclasses.replace(self, decision=decision), told

    def probabilities(self, predictions: np.ndarray, examples: Examples) -> np.ndarray:
        """Return the probability of each choice, float64 [N, C]; columns after a question's last choice are 0."""
        parts = _by_question(predictions, examples)
        found = np.zeros((len(parts), max(map(len, parts))))
        for number, scores in enumerate(parts):
            found[number, : len(scores)] = np.exp(scores)
        return found

    def average(self, parts: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return scores of choices whose probabilities are the mean of those of several models."""
        return mean_of_logs([np.concatenate(_by_question(part, examples)) for part in parts]).astype(np.float32)

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `choice` (its index, from 0), its `text`, `score` (its probability), and the `probabilities` of all.

        With a least score, `choice` and `text` are None below it. With a coverage there is `choice_set` too, most probable
        first.
        """
        questions: ChoiceQuestions = examples.extra
        answers = []
        for number, scores in enumerate(_by_question(predictions, examples, first, last), first):
            shares, best = np.exp(scores), int(scores.argmax())
            score, none = float(shares[best]), self.decision.abstains(float(shares[best]))
            answer: dict[str, Any] = {
                "choice": None if none else best,
                "text": None if none else questions.items[number].choices[best],
                "score": round(score, 6),
            }
            if self.decision.coverage is not None:
                answer["choice_set"] = self.decision.label_set(shares)
            answers.append(answer | {"probabilities": [round(float(share), 6) for share in shares]})
        return answers


def _by_question(
    predictions: np.ndarray, examples: Examples, first: int = 0, last: int | None = None
) -> list[np.ndarray]:
    """Return the log-probabilities of each question's choices."""
    assert examples.windows is not None
    begins = examples.windows.first[first : (len(examples) if last is None else last) + 1]
    parts = np.split(predictions[begins[0] : begins[-1]].astype(np.float64), begins[1:-1] - begins[0])
    return [log_softmax(part) for part in parts]


LABELLED = {"right": StoredColumn("<i4"), "token_labels": StoredColumn("<i4"), "chosen": StoredColumn("<u8")}
"""The right choice of each question; whether each choice is right, at its first token; a hash of the right choice's text."""


def _make_encoder(tokenizer: Any, max_length: int, meaning: Meaning | None = None) -> Encoder[ChoiceQuestions]:
    """Return the encoder of questions and their choices; with a `meaning`, labels are encoded too.

    A choice longer than `max_length` tokens is cut, at the end of the longer text, with a warning.
    """

    def encode(questions: ChoiceQuestions) -> Encoded:
        items = questions.items
        counts = np.array([len(item.choices) for item in items], np.int32)
        texts = [pair for item in items for pair in item.texts()]
        rows = [item.row.row if isinstance(item.row, Place) else int(item.row) for item in items for _ in item.choices]
        firsts, seconds = [first for first, _ in texts], [second for _, second in texts]
        table = Table(firsts, seconds, None, None, questions.source, rows)
        encoded = joined(list(encode_part(table, tokenizer, max_length, LongTexts())))
        first_choices = np.cumsum(counts) - counts
        longest = np.maximum.reduceat(encoded.whole, first_choices)
        columns = {}
        if meaning is not None:
            right = right_choices(questions, meaning)
            columns = _labels(encoded, first_choices, right)
            columns["chosen"] = hash_texts([item.choices[i] for item, i in zip(items, right, strict=True)])
        return dataclasses.replace(encoded, windows=counts, whole=longest, columns={"longest": longest} | columns)

    def say(questions: ChoiceQuestions, stored: Stored) -> None:
        cut = np.count_nonzero(stored.columns["longest"] > max_length)
        if cut:
            logger.warning(
                "%s: %d of %d questions have a choice that is longer than %d tokens with its question, and was cut",
                *(questions.source, cut, len(questions), max_length),
            )

    return Encoder({"longest": StoredColumn("<i4")} | (LABELLED if meaning else {}), ["choices", meaning], encode, say)


def _labels(encoded: Encoded, first_choices: np.ndarray, right: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the columns of labels."""
    begins = np.cumsum(encoded.lengths) - encoded.lengths
    marks = np.full(len(encoded.ids), NO_LABEL, np.int32)
    marks[begins] = 0
    marks[begins[first_choices + np.array(right)]] = 1
    return {"right": np.array(right, np.int32), "token_labels": marks}


def _examples(questions: ChoiceQuestions, stored: Stored) -> Examples:
    columns = stored.columns
    return Examples(
        stored.tokens,
        columns.get("right"),
        token_labels=columns.get("token_labels"),
        windows=stored.windows,
        extra=questions,
    )


def _view(name: str, questions: ChoiceQuestions, stored: Stored, max_length: int) -> View:
    """Return the view of a set of questions; two are equal if their choices are equal, too."""
    right = stored.columns["right"]
    counts = {f"choice {place}": int(count) for place, count in enumerate(np.bincount(right))}

    def chosen(index: int) -> str:
        return questions.items[index].choices[right[index]]

    labels = Labelling("choice", counts, keys=stored.columns["chosen"], named=chosen)
    return view_items(name, stored, labels, max_length, unit="questions", windows=False)
