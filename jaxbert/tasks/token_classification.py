"""Token classification: softmax cross-entropy over tagged tokens, metrics over entities, entities as answers.

An entity is right if its label, its beginning and its end are; so CoNLL and seqeval count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxbert.data.examples import Examples
from jaxbert.data.long_texts import AS_IT_IS, Reading
from jaxbert.data.tagging.align import By
from jaxbert.data.tagging.marks import Marks
from jaxbert.data.tagging.scheme import OUTSIDE, Span, label_of
from jaxbert.models import heads
from jaxbert.tasks.base import Batch, Sums, count_documents


@dataclass(frozen=True)
class TokenClassification:
    """Give each word, or each token, one of C tags."""

    tag_names: tuple[str, ...]
    by: By = "word"
    """What has a tag in a plain text."""
    label_smoothing: float = 0.0
    reading: Reading = AS_IT_IS
    """How long its windows are, and what they share."""
    head: type[nnx.Module] = heads.TokenClassification
    architecture: str = "BertForTokenClassification"
    per_token: bool = True
    default_metric: str = "f1"

    @property
    def labels(self) -> list[str]:
        """The labels of entities, sorted."""
        return sorted({label_of(tag) for tag in self.tag_names if tag != OUTSIDE})

    def describe(self) -> str:
        """Name the labels."""
        return f"{len(self.tag_names)} tags, labels: {', '.join(self.labels)}"

    def totals(self, batch: Batch) -> Sums:
        """Count the examples and the tagged tokens."""
        return {"examples": count_documents(batch), "tagged": (batch["token_labels"] >= 0).sum()}

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum the loss over tagged tokens, in float32, so that a step's is their mean; smoothing counts in training only."""
        logits_BTC = outputs["logits"].astype(jnp.float32)
        labels_BT = batch["token_labels"]
        tagged_BT = labels_BT >= 0
        targets_BTC = jax.nn.one_hot(labels_BT, len(self.tag_names))
        if train and self.label_smoothing:
            targets_BTC = optax.smooth_labels(targets_BTC, self.label_smoothing)
        losses_BT = optax.softmax_cross_entropy(logits_BTC, targets_BTC)
        loss = jnp.where(tagged_BT, losses_BT, 0.0).sum()
        return {
            "loss": loss * totals["examples"] / jnp.maximum(totals["tagged"], 1),
            "examples": count_documents(batch),
        }

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return log-probabilities [B, T, C], float32."""
        return jax.nn.log_softmax(outputs["logits"].astype(jnp.float32))

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        return ["f1", "precision", "recall", "f1_macro", "accuracy", "loss"]

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute precision, recall and F1 of entities, over all and by label; accuracy and loss of the tagged tokens."""
        marks: Marks = examples.extra
        labels = examples.token_labels
        assert marks.spans is not None
        assert labels is not None
        right, found, expected = Counter[str](), Counter[str](), Counter[str]()
        predicted = self._tags(predictions, marks, 0, len(marks.documents))
        for document, (gold, tags) in enumerate(zip(marks.spans, predicted, strict=True)):
            spans = {span for span, _ in marks.spans_of(tags, document)}
            right.update(span.label for span in spans & set(gold))
            found.update(span.label for span in spans)
            expected.update(span.label for span in gold)
        by_label = {name: _scores(right[name], found[name], expected[name]) for name in sorted(found | expected)}
        tagged = labels >= 0
        log_probabilities, targets = predictions[tagged], labels[tagged]
        return {
            **_scores(right.total(), found.total(), expected.total()),
            "f1_macro": float(np.mean([scores["f1"] for scores in by_label.values()])) if by_label else 0.0,
            "accuracy": float((log_probabilities.argmax(-1) == targets).mean()),
            "loss": float(-log_probabilities[np.arange(len(targets)), targets].mean(dtype=np.float64)),
            "entities": expected.total(),
            "examples": len(examples),
            "per_class": {name: {**scores, "support": expected[name]} for name, scores in by_label.items()},
        }

    def learned(self, evaluation: dict[str, Any]) -> TokenClassification:
        """Return the same: nothing is chosen on evaluations."""
        return self

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return `entities`: of each its text, label, start, end and score, the mean probability of its tags.

        Start and end count characters of a text, and words where words were given.
        """
        marks: Marks = examples.extra
        units = marks.units
        own = predictions[units.tokens(first, last)]
        sure = units.gather(np.exp(own.max(-1).astype(np.float64)), 1.0, first, last)
        low = int(units.first[first])
        answers = []
        for document, tags in enumerate(self._tags(own, marks, first, last), first):
            found = [(span, slice(a - low, b - low)) for span, (a, b) in marks.spans_of(tags, document)]
            answers.append({"entities": [_entity(marks, document, span, sure[at]) for span, at in found]})
        return answers

    def _tags(self, predictions: np.ndarray, marks: Marks, first: int, last: int) -> list[list[str]]:
        """Return the most probable tag of each unit, text by text, from the predictions of the texts' own tokens.

        A unit without a token is outside.
        """
        chosen = marks.units.gather(predictions.argmax(-1), self.tag_names.index(OUTSIDE), first, last)
        edges = marks.units.first[first : last + 1] - marks.units.first[first]
        return [[self.tag_names[i] for i in chosen[low:high]] for low, high in pairwise(edges)]


def _entity(marks: Marks, document: int, span: Span, sure: np.ndarray) -> dict[str, Any]:
    return {
        "text": marks.text_of(document, span),
        "label": span.label,
        "start": span.start,
        "end": span.end,
        "score": round(float(sure.mean()), 6),
    }


def _scores(right: int, found: int, expected: int) -> dict[str, float]:
    """Return F1, precision and recall; 0 where nothing is divided."""
    return {
        "f1": 2 * right / (found + expected) if right else 0.0,
        "precision": right / found if found else 0.0,
        "recall": right / expected if expected else 0.0,
    }
