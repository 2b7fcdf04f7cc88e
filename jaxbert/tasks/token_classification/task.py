"""Token classification: softmax cross-entropy over tagged tokens, and metrics and answers for entities or plain tags.

Tags of a scheme mark entities: an entity is right if its label, start and end are right, as in CoNLL and seqeval. Plain
tags, for instance parts of speech, are right or wrong word by word. `read` reads the texts, `align` cuts them into windows.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import NO_LABEL
from jaxbert.data.examples import Examples
from jaxbert.data.items import encode_in_memory
from jaxbert.data.labels import Head
from jaxbert.data.overview import TRAIN, View
from jaxbert.data.store import Stored, cache_folder
from jaxbert.data.tokens import AS_IT_IS, Reading
from jaxbert.models import heads
from jaxbert.tasks import label_names, settings_of, with_labels, with_settings
from jaxbert.tasks.base import Batch, Inputs, Sums, Tally, Task, count_examples, list_names, metrics_of
from jaxbert.tasks.distance import divergence
from jaxbert.tasks.items import ItemInputs, encode_shown, hold_shown, read_items, reading_of, refuse, shared_tokens
from jaxbert.tasks.pooling import log_odds
from jaxbert.tasks.token_classification.align import By
from jaxbert.tasks.token_classification.examples import (
    as_head,
    check_count,
    make_tag_encoder,
    make_tag_examples,
    units_of,
    unmarked_examples,
    view_marks,
)
from jaxbert.tasks.token_classification.marks import Marks, check_tags, fit_tags, spelled
from jaxbert.tasks.token_classification.read import TaggedTexts, open_tagged_texts, read_tagged_texts
from jaxbert.tasks.token_classification.scheme import BIO, OUTSIDE, Scheme, label_of
from jaxbert.tasks.token_classification.tag_sets import CANONICAL, TagSet, reopen_tag_set

logger = logging.getLogger("jaxbert")

_OVER = "the labels that occur in truth or prediction"


@dataclass(frozen=True)
class TokenClassification(Task):
    """Give each word, or each token, one of C tags that mark entities."""

    name = "token_classification"
    assumes = "the first token of a word gives its tag"
    label_names_in_head = True
    head = heads.TokenClassificationHead
    architecture = "ForTokenClassification"
    answer_keys = ("entities",)
    per_token = True
    default_metric = "f1"
    explains = "log_odds"

    tag_names: tuple[str, ...]
    by: By = "word"
    """The units of a plain text, which get the tags."""
    label_smoothing: float | None = None
    reading: Reading = AS_IT_IS
    """The length of windows, and the number of tokens they share."""
    scheme: Scheme | None = BIO
    """The scheme by which tags mark entities; None for plain tags."""

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets; the training texts decide the set of tags."""
        data = config.data
        refuse(config)
        sets = read_items(data, TaggedTexts, partial(open_tagged_texts, data=data, labelled=True))
        by = units_of(sets.train)
        train, tag_set = fit_tags(sets.train, data.label_names, data.tag_scheme)
        if head is not None:
            tag_set = as_head(tag_set, head, train.source)
        check_count(tag_set.names, config.model.num_labels, train.source)
        task = make_tagging(tag_set, by, config.train.label_smoothing or None, reading_of(config, max_length))

        def encode(name: str, documents: TaggedTexts) -> tuple[Examples, View]:
            documents, stored = task._tokens(documents, tokenizer, max_length, cache_folder(data.cache_dir))
            found = make_tag_examples(documents, stored, tag_set, in_windows=name != TRAIN)
            return found, view_marks(name, stored, tag_set, max_length)

        sets = dataclasses.replace(sets, train=train).split(config)
        return sets.inputs(encode, task, tokenizer, new_head=tag_set.new_head)

    @property
    def reading_length(self) -> int | None:
        """The longest window in training, in tokens."""
        return self.reading.max_length

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source to evaluate; numbers without names are the model's tags."""
        named = dataclasses.replace(data, label_names=data.label_names or list(self.tag_names))
        documents = read_tagged_texts(spec, named, role="test", labelled=True)
        if documents.notes["numbered"] and data.label_names is None:
            logger.warning("%s: the tags are numbers, and are read as the model's tags, in order", documents.source)
        documents, stored = self._tokens(documents, tokenizer, max_length)
        return make_tag_examples(documents, stored, self.tag_set, in_windows=True)

    def read_unlabelled(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read texts without marks; each window is an example, as in training, and its units have the label `UNKNOWN`."""
        source = open_tagged_texts(spec, data, role="unlabelled", labelled=False)
        folder, stride = cache_folder(data.cache_dir), shared_tokens(self.reading, max_length)
        documents = hold_shown(source, TaggedTexts, folder)
        encoder = make_tag_encoder(tokenizer, max_length, stride=stride, by=self.by)
        return unmarked_examples(encode_shown(documents, encoder, tokenizer, max_length, folder))

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> ItemInputs[TaggedTexts]:
        encoder = make_tag_encoder(tokenizer, max_length, stride=shared_tokens(self.reading, max_length), by=self.by)

        def examples_of(documents: TaggedTexts) -> Examples:
            return make_tag_examples(documents, encode_in_memory(documents, encoder), self.tag_set, in_windows=True)

        source = open_tagged_texts(spec, data, role="predict", labelled=False, kept=kept)
        return ItemInputs(source, TaggedTexts, examples_of)

    def _tokens(
        self, documents: TaggedTexts, tokenizer: Any, max_length: int, folder: Path | None = None
    ) -> tuple[TaggedTexts, Stored]:
        """Tokenize texts with their marks; return the texts with the tags in the task's spelling, and the tokens."""
        documents, stride = spelled(documents, self.tag_set), shared_tokens(self.reading, max_length)
        check_tags(documents, self.tag_set)
        encoder = make_tag_encoder(tokenizer, max_length, stride=stride, by=self.by, tag_set=self.tag_set)
        return documents, encode_shown(documents, encoder, tokenizer, max_length, folder)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Add the tags."""
        named = with_labels(bert_config, self.tag_names)
        scheme = "plain" if self.scheme is None else self.scheme.name
        return with_settings(named, self.name, by=self.by, reading=self.reading.to_dict(), scheme=scheme)

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> TokenClassification:
        """Return the task with the tags of an export."""
        settings = settings_of(bert_config)
        tag_set = reopen_tag_set(label_names(bert_config), settings.get("scheme"))
        by: By = "token" if settings.get("by") == "token" else "word"
        return make_tagging(tag_set, by, 0.0, Reading.of(settings.get("reading")))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The tags, in the order of the outputs."""
        return self.tag_names

    @property
    def tag_set(self) -> TagSet:
        """The tags with their scheme."""
        return TagSet(self.tag_names, self.scheme)

    @property
    def labels(self) -> list[str]:
        """The labels of entities, sorted."""
        return sorted({label_of(tag) for tag in self._marking if tag != OUTSIDE})

    @property
    def _marking(self) -> list[str]:
        """The tags, with `O` in place of those that mark nothing."""
        letters = set() if self.scheme is None else self.scheme.letters
        return [tag if CANONICAL.read(tag) and tag[0] in letters else OUTSIDE for tag in self.tag_names]

    def describe(self) -> str:
        """Return the scheme and the labels on one line."""
        scheme = "" if self.scheme is None else f" ({self.scheme.name})"
        return f"{len(self.tag_names)} tags{scheme}, labels: {list_names(self.labels)}"

    def totals(self, batch: Batch) -> Sums:
        """Count the examples and the tagged tokens."""
        labels_BT = batch["token_labels"]
        counts = {"tagged": (labels_BT >= 0).sum(), "taught": (labels_BT != NO_LABEL).sum()}
        return {"examples": count_examples(batch), **counts}

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the loss, in float32, so that a step's loss is the mean over tagged tokens; smoothing only in training."""
        logits_BTC = outputs["logits"].astype(jnp.float32)
        labels_BT = batch["token_labels"]
        tagged_BT = labels_BT >= 0
        targets_BTC = jax.nn.one_hot(labels_BT, len(self.tag_names))
        if train and self.label_smoothing is not None:
            targets_BTC = optax.smooth_labels(targets_BTC, self.label_smoothing)
        losses_BT = optax.softmax_cross_entropy(logits_BTC, targets_BTC)
        loss = jnp.where(tagged_BT, losses_BT, 0.0).sum()
        return {
            "loss": loss * totals["examples"] / jnp.maximum(totals["tagged"], 1),
            "examples": count_examples(batch),
        }

    def distance(self, outputs: dict[str, Any], batch: Batch, totals: Sums, temperature: float) -> Sums:
        """Sum the divergence from the teacher's probabilities, so that a step's is the mean over tokens that get a tag."""
        losses_BT = divergence(outputs["logits"], batch["token_targets"], temperature)
        loss = jnp.where(batch["token_labels"] != NO_LABEL, losses_BT, 0.0).sum()
        return {
            "loss": loss * totals["examples"] / jnp.maximum(totals["taught"], 1),
            "examples": count_examples(batch),
        }

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return log-probabilities [B, T, C], float32."""
        return jax.nn.log_softmax(outputs["logits"].astype(jnp.float32))

    def explained(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the log-odds of a tag of one token of each segment; `labels` [B, S, 2] are its place there, and the tag."""
        places_BS, tags_BS = batch["cls_positions"] + batch["labels"][..., 0], batch["labels"][..., 1]
        logits_BSC = jnp.take_along_axis(outputs["logits"].astype(jnp.float32), places_BS[..., None], axis=1)
        return jnp.where(batch["example_mask"], log_odds(logits_BSC, tags_BS), 0.0)

    def tally(self, examples: Examples) -> Tally:
        """Return a tally that keeps each token's most probable tag, and the log-probability of its true tag."""
        return _Tally(self, examples)

    def labels_and_answers(
        self, predictions: np.ndarray, examples: Examples
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Return the true and the predicted tags of each text, as seqeval takes them; a word without a token is outside."""
        marks: Marks = examples.extra
        assert marks.tags is not None
        names, count = [*self.tag_names, OUTSIDE], len(marks.documents)
        chosen = marks.units.gather(predictions.argmax(-1), len(self.tag_names), 0, count)
        labels, answers = [], []
        for gold, given in zip(
            marks.units.by_text(marks.tags, 0, count), marks.units.by_text(chosen, 0, count), strict=True
        ):
            known = [place for place, tag in enumerate(gold) if tag >= 0]
            labels.append([names[gold[place]] for place in known])
            answers.append([names[given[place]] for place in known])
        return labels, answers

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        return ["f1", "precision", "recall", "f1_macro", "accuracy", "loss"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute precision, recall and F1 of entities, over all and by label; accuracy and loss of the tagged tokens.

        `f1_macro` is the mean over labels that occur in the texts or the predictions.
        """
        return metrics_of(self.tally(examples), predictions)

    def tag_metrics(self, chosen: np.ndarray, loss: float, examples: Examples) -> dict[str, Any]:
        """Return the metrics of the tags `chosen` for all tokens."""
        marks: Marks = examples.extra
        labels = examples.token_labels
        assert marks.spans is not None
        assert labels is not None
        right, found, expected = Counter[str](), Counter[str](), Counter[str]()
        predicted = self._tags(chosen, marks, 0, len(marks.documents))
        for document, (gold, tags) in enumerate(zip(marks.spans, predicted, strict=True)):
            spans = {span for span, _ in marks.spans_of(tags, document)}
            right.update(span.label for span in spans & set(gold))
            found.update(span.label for span in spans)
            expected.update(span.label for span in gold)
        by_label = {name: _scores(right[name], found[name], expected[name]) for name in sorted(found | expected)}
        tagged = labels >= 0
        return {
            **_scores(right.total(), found.total(), expected.total()),
            "f1_macro": _mean([scores["f1"] for scores in by_label.values()]),
            "accuracy": _mean(chosen[tagged] == labels[tagged]),
            "loss": loss,
            "entities": expected.total(),
            "examples": len(examples),
            "macro_over": _OVER,
            "per_class": {name: {**scores, "support": expected[name]} for name, scores in by_label.items()},
        }

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `entities`: each with text, label, start, end and score, the mean probability of its tags.

        Start and end count characters of a text, or given words.
        """
        marks: Marks = examples.extra
        own = predictions[marks.units.tokens(first, last)]
        sure = marks.units.gather(np.exp(own.max(-1).astype(np.float64)), 0.0, first, last)
        low = int(marks.units.first[first])
        answers = []
        for document, tags in enumerate(self._tags(own.argmax(-1), marks, first, last), first):
            entities = [
                _answer(marks, document, span.start, span.end, span.label, float(sure[units - low].mean()))
                for span, units in marks.spans_of(tags, document)
            ]
            answers.append({"entities": entities})
        return answers

    def _tags(self, chosen: np.ndarray, marks: Marks, first: int, last: int) -> list[list[str | None]]:
        """Return the tag of each unit, text by text; `chosen` are the tags of the tokens of these texts.

        A unit without a token has no tag.
        """
        names = [*self._marking, None]
        of_units = marks.units.gather(chosen, -1, first, last)
        return [[names[i] for i in part] for part in marks.units.by_text(of_units, first, last)]


@dataclass(frozen=True)
class PlainTags(TokenClassification):
    """Give each word one of C tags that mark no entities: parts of speech, or types without a scheme."""

    default_metric = "accuracy"
    scheme: Scheme | None = None

    def describe(self) -> str:
        """Return the tags on one line."""
        return f"{len(self.tag_names)} tags, each word's counts: {list_names(self.tag_names)}"

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        return ["accuracy", "f1_macro", *(["f1"] if OUTSIDE in self.tag_names else []), "loss"]

    def tag_metrics(self, chosen: np.ndarray, loss: float, examples: Examples) -> dict[str, Any]:
        """Return the accuracy of words, precision, recall and F1 of each tag, and the loss.

        With a tag `O`, `f1` is the F1 of all words with another tag.
        """
        marks: Marks = examples.extra
        assert marks.tags is not None
        known = marks.tags >= 0
        expected, found = marks.tags[known], self._numbers(chosen, marks, 0, len(marks.documents))[known]
        numbers = range(len(self.tag_names))
        right, all_found, all_expected = (
            np.bincount(tags[tags >= 0], minlength=len(numbers)).tolist()
            for tags in (expected[found == expected], found, expected)
        )
        by_tag = {
            self.tag_names[i]: {**_scores(right[i], all_found[i], all_expected[i]), "support": all_expected[i]}
            for i in numbers
            if all_found[i] or all_expected[i]
        }
        inside = [i for i in numbers if self.tag_names[i] != OUTSIDE]
        totals = [sum(counts[i] for i in inside) for counts in (right, all_found, all_expected)]
        return {
            "accuracy": _mean(found == expected),
            "f1_macro": _mean([scores["f1"] for scores in by_tag.values()]),
            **({} if OUTSIDE not in self.tag_names else {"f1": _scores(*totals)["f1"]}),
            "loss": loss,
            "words": len(expected),
            "examples": len(examples),
            "macro_over": _OVER,
            "per_class": by_tag,
        }

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `tags`: each word with text, label, start, end and score, the label's probability.

        Start and end count characters of a text, or given words. A word without a token has the tag `O`, or no label if
        there is no such tag; its score is 0.
        """
        marks: Marks = examples.extra
        units = marks.units
        own = predictions[units.tokens(first, last)]
        sure = units.gather(np.exp(own.max(-1).astype(np.float64)), 0.0, first, last)
        names = [*self.tag_names, None]
        chosen = self._numbers(own.argmax(-1), marks, first, last)
        answers = []
        place = 0
        for document, numbers in enumerate(units.by_text(chosen, first, last), first):
            tags = []
            for unit, number in enumerate(numbers, int(units.first[document])):
                start, end = int(units.starts[unit]), int(units.ends[unit])
                tags.append(_answer(marks, document, start, end, names[number], float(sure[place])))
                place += 1
            answers.append({"tags": tags})
        return answers

    def _numbers(self, chosen: np.ndarray, marks: Marks, first: int, last: int) -> np.ndarray:
        """Return the number of each unit's tag, from the tags of tokens; for a unit without a token, that of `O`, or -1."""
        nothing = self.tag_names.index(OUTSIDE) if OUTSIDE in self.tag_names else -1
        return marks.units.gather(chosen, nothing, first, last)


class _Tally:
    """Computes the metrics from slices of the predictions."""

    def __init__(self, task: TokenClassification, examples: Examples) -> None:
        assert examples.token_labels is not None
        self._task = task
        self._examples = examples
        self._labels = np.asarray(examples.token_labels)
        self._chosen = np.zeros(len(self._labels), np.int32)
        self._own = np.zeros(len(self._labels), np.float32)
        """The log-probability of each tagged token's true tag."""

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Add the predictions of some tokens."""
        self._chosen[ids] = predictions.argmax(-1)
        (tagged,) = np.nonzero(self._labels[ids] >= 0)
        self._own[ids[tagged]] = predictions[tagged, self._labels[ids[tagged]]]

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all tokens."""
        loss = _mean(-self._own[self._labels >= 0].astype(np.float64))
        return self._task.tag_metrics(self._chosen, loss, self._examples)


def make_tagging(tag_set: TagSet, by: By, label_smoothing: float | None, reading: Reading) -> TokenClassification:
    """Return the task for these tags: with a scheme, or with plain tags."""
    if tag_set.scheme is None:
        return PlainTags(tag_set.names, by, label_smoothing, reading)
    return TokenClassification(tag_set.names, by, label_smoothing, reading, scheme=tag_set.scheme)


def _answer(marks: Marks, document: int, start: int, end: int, label: str | None, score: float) -> dict[str, Any]:
    text = marks.text_of(document, start, end)
    return {"text": text, "label": label, "start": start, "end": end, "score": round(score, 6)}


def _mean(values: Any) -> float:
    """Return a mean; 0 for no values."""
    return float(np.mean(values)) if len(values) else 0.0


def _scores(right: int, found: int, expected: int) -> dict[str, float]:
    """Return F1, precision and recall; 0 if the divisor is 0."""
    return {
        "f1": 2 * right / (found + expected) if right else 0.0,
        "precision": right / found if found else 0.0,
        "recall": right / expected if expected else 0.0,
    }
