"""Extractive question answering: predict where the answer to a question starts and ends in a context.

The distributions of starts and of ends cover the tokens of one window. For a window without a complete answer, both targets
are its first token. An answer is chosen from all windows of a question. `read` reads the questions, `windows` cuts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.items import encode_in_memory
from jaxbert.data.labels import Head
from jaxbert.data.overview import TRAIN, Labelling, View, view_items
from jaxbert.data.store import Stored, cache_folder
from jaxbert.data.tokens import AS_IT_IS, Reading, hash_texts
from jaxbert.models import heads
from jaxbert.tasks import settings_of, with_settings
from jaxbert.tasks.base import Batch, Inputs, Sums, Task
from jaxbert.tasks.items import ItemInputs, encode_shown, read_items, reading_of, refuse, shared_tokens
from jaxbert.tasks.question_answering.answers import Candidate, Scored, exact_and_f1, has_chinese, n_best, no_answer
from jaxbert.tasks.question_answering.read import Questions, open_questions, read_questions
from jaxbert.tasks.question_answering.windows import Asked, make_question_encoder, question_windows

MOST_ANSWERS = 5
"""The most answers that are listed for a question."""


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Find the answer to a question in its context."""

    name = "question_answering"
    assumes = "each question has an answer"
    head = heads.QuestionAnsweringHead
    architecture = "ForQuestionAnswering"
    answer_keys = ("id", "text", "start", "end", "score", "n_best")
    per_token = True
    default_metric = "f1"
    explains = "log_probability"

    unanswered: bool = False
    """Whether a question may have no answer."""
    threshold: float = 0.0
    """No answer is given if its log-score exceeds that of the best answer by more than this."""
    reading: Reading = AS_IT_IS
    """The length of windows, and the number of tokens they share."""

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets; the training questions decide whether a question may have no answer."""
        data = config.data
        refuse(config, "train.label_smoothing", "model.num_labels", "data.label_names")
        sets = read_items(data, Questions, partial(open_questions, data=data, labelled=True)).split(config)
        task = cls(sets.train.notes["unanswered"], data.no_answer_threshold, reading_of(config, max_length))

        def encode(name: str, questions: Questions) -> tuple[Examples, View]:
            stored = task._tokens(questions, tokenizer, max_length, cache_folder(data.cache_dir))
            return _examples(questions, stored, in_windows=name != TRAIN), _view(name, stored, max_length)

        return sets.inputs(encode, task, tokenizer)

    @property
    def reading_length(self) -> int | None:
        """The longest window in training, in tokens."""
        return self.reading.max_length

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        questions = read_questions(spec, data, role="test", labelled=True)
        return _examples(questions, self._tokens(questions, tokenizer, max_length), in_windows=True)

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> ItemInputs[Questions]:
        encoder = make_question_encoder(tokenizer, max_length, shared_tokens(self.reading, max_length))

        def examples_of(questions: Questions) -> Examples:
            return _examples(questions, encode_in_memory(questions, encoder), in_windows=True)

        return ItemInputs(open_questions(spec, data, role="predict", labelled=False, kept=kept), Questions, examples_of)

    def _tokens(self, questions: Questions, tokenizer: Any, max_length: int, folder: Path | None = None) -> Stored:
        """Tokenize questions."""
        encoder = make_question_encoder(tokenizer, max_length, shared_tokens(self.reading, max_length))
        return encode_shown(questions, encoder, tokenizer, max_length, folder)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Return a copy that says whether a question may have no answer, with the threshold for no answer."""
        changed = with_settings(
            bert_config,
            self.name,
            unanswered=self.unanswered,
            no_answer_threshold=self.threshold,
            reading=self.reading.to_dict(),
        )
        changed.num_labels = 2  # start and end
        return changed

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> QuestionAnswering:
        """Return the task of an export; a model of another program answers every question."""
        settings = settings_of(bert_config)
        threshold = settings.get("no_answer_threshold")
        return cls(
            settings.get("unanswered") is True,
            float(threshold) if isinstance(threshold, int | float) else 0.0,
            Reading.of(settings.get("reading")),
        )

    def describe(self) -> str:
        """Return in a few words whether every question has an answer."""
        return "questions with and without an answer" if self.unanswered else "questions with an answer"

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the losses of windows, each the mean of the losses of start and end, in float32."""
        return {"loss": -self.explained(outputs, batch).sum() / 2, "examples": batch["example_mask"].sum()}

    def explained(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the log-probability of the start plus that of the end, the tokens `labels` of each window, [B, S]."""
        found_BS = jnp.zeros(batch["example_mask"].shape, jnp.float32)
        for place, scores_BT in enumerate(_scores_of(outputs)):
            targets_BS = batch["cls_positions"] + batch["labels"][..., place]
            found_BS += jnp.take_along_axis(scores_BT, targets_BS, axis=1) - _log_totals(scores_BT, batch)
        return jnp.where(batch["example_mask"], found_BS, 0.0)

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return each token's log-probability as the first and as the last of its window's answer, [B, T, 2], float32."""
        slots_BT = jnp.maximum(batch["segment_ids"] - 1, 0)
        return jnp.stack(
            [
                scores_BT - jnp.take_along_axis(_log_totals(scores_BT, batch), slots_BT, axis=1)
                for scores_BT in _scores_of(outputs)
            ],
            axis=-1,
        )

    def labels_and_answers(self, predictions: np.ndarray, examples: Examples) -> tuple[list[list[str]], list[str]]:
        """Return the true answers to each question, none for a question without an answer, and the text that is given."""
        asked: Asked = examples.extra
        gold = [[answer.text for answer in question.answers] for question in asked.questions.items]
        given = (self._choose(predictions, asked, number)[0] for number in range(len(examples)))
        return gold, [asked.text_of(number, found.start, found.end) for number, found in enumerate(given)]

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that are single numbers."""
        return ["f1", "exact_match", "loss", *(["answered_f1", "unanswered_accuracy"] if self.unanswered else [])]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute exact match and F1 as in SQuAD, from 0 to 1, and the mean loss of windows."""
        asked: Asked = examples.extra
        exact, f1, answered = [], [], []
        all_gold, texts = self.labels_and_answers(predictions, examples)
        for question, gold, text in zip(asked.questions.items, all_gold, texts, strict=True):
            scores = exact_and_f1(text, gold, has_chinese(question.context))
            exact.append(scores[0])
            f1.append(scores[1])
            answered.append(bool(gold))
        windows = asked.windows
        targets = windows.tokens.begins[:, None] + windows.answers
        loss = -predictions[targets, [[0, 1]]].mean(dtype=np.float64)
        result = {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact)), "loss": float(loss)}
        if self.unanswered:
            has = np.array(answered)
            result["answered_f1"] = float(np.mean(np.array(f1)[has])) if has.any() else 0.0
            result["unanswered_accuracy"] = float(np.mean(np.array(exact)[~has])) if not has.all() else 0.0
        return result | {"examples": len(examples)}

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return the best answer to each question and, as `n_best`, the next best ones.

        Each has its text, start and end in characters of the context, and a score, the product of the probabilities of its
        start and end in their window. No answer is an empty text.
        """
        asked: Asked = examples.extra
        answers = []
        for number in range(first, last):
            listed = [_answer(asked, number, found) for found in self._choose(predictions, asked, number, MOST_ANSWERS)]
            answers.append({"id": asked.questions.items[number].id, **listed[0], "n_best": listed})
        return answers

    def _choose(self, predictions: np.ndarray, asked: Asked, number: int, count: int = 1) -> list[Candidate]:
        """Return the chosen answer first, and the next best ones."""
        windows = [Scored(predictions[at], context, offsets) for at, context, offsets in asked.windows_of(number)]
        best = n_best(windows, count)
        nothing = Candidate(0, 0, no_answer(windows))
        if not best:
            return [nothing]
        if not self.unanswered:
            return best
        if nothing.score - best[0].score > self.threshold:
            return [nothing, *best][:count]
        return [best[0], *sorted([*best[1:], nothing], key=lambda found: -found.score)][:count]


def _view(name: str, stored: Stored, max_length: int) -> View:
    """Return the view of a set of questions; two are equal if their contexts are equal, too."""
    assert stored.seen is not None
    answered = int(np.count_nonzero(stored.columns["answer_hashes"] != hash_texts([repr([])])))
    labels = Labelling("answer", {"answered": answered, "unanswered": len(stored.seen) - answered})
    return view_items(name, stored, labels, max_length, unit="questions")


def _examples(questions: Questions, stored: Stored, *, in_windows: bool) -> Examples:
    """Return questions as examples; without `in_windows`, as in training, each window is an example of its own."""
    windows = question_windows(stored)
    if in_windows:
        asked = Asked(questions, windows, stored.columns["answer_hashes"])
        return Examples(windows.tokens, windows=stored.windows, extra=asked)
    assert stored.windows is not None
    return Examples(windows.tokens, windows.answers, stored.windows.rows())


def _answer(asked: Asked, number: int, found: Candidate) -> dict[str, Any]:
    text = asked.text_of(number, found.start, found.end)
    return {"text": text, "start": found.start, "end": found.end, "score": round(float(np.exp(found.score)), 6)}


def _scores_of(outputs: dict[str, Any]) -> tuple[Array, Array]:
    return outputs["start_logits"].astype(jnp.float32), outputs["end_logits"].astype(jnp.float32)


def _log_totals(scores_BT: Array, batch: Batch) -> Array:
    """Return the log-sum-exp of the scores over each segment's own tokens, [B, S]; 0 for an unused slot."""
    numbers_S = 1 + jnp.arange(batch["example_mask"].shape[1])
    own_BST = batch["segment_ids"][:, None, :] == numbers_S[None, :, None]
    lowest = jnp.finfo(scores_BT.dtype).min  # not infinite: an unused slot must not make gradients of NaN
    totals_BS = jax.nn.logsumexp(jnp.where(own_BST, scores_BT[:, None, :], lowest), axis=-1)
    return jnp.where(batch["example_mask"], totals_BS, 0.0)
