"""Explanations of answers: the label and score that `predict` gives, with the weight of each word.

`attribution` computes the weights, `neighbours` finds training examples, `explain_page` shows explanations.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.table import Table
from jaxbert.errors import UserError
from jaxbert.models.heads import PromptHead
from jaxbert.options import ExplainOptions
from jaxbert.tasks.base import Outcome, Task, TaskInputs
from jaxbert.tasks.reading import TextTask, concatenate_tables
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.train.evaluate import Ensemble
from jaxbert.train.inference import TrainedModel
from jaxbert.understand.attribution import Attributions, Attributor
from jaxbert.understand.items import DIGITS, find_label, items_of
from jaxbert.understand.neighbours import TrainingExamples
from jaxbert.understand.words import Items, Text

_ITEMS = 256
"""Answers that are explained together."""
_LISTED = 100
"""The most words of a label in a summary, for it and against it."""


@dataclass(frozen=True)
class Explanation:
    """A text, or a pair of texts, with its explained answers."""

    texts: tuple[Text, ...]
    answers: list[dict[str, Any]]
    """One explained answer, or one for each word that has a tag. Each has `label` (None for a score), `score` as in
    `predict`, `value` and `baseline_value` (the explained value of the text, and without its words), `words` with their
    `weight`, `completeness_error`, and `neighbours` if asked for."""
    several: bool = False
    """Whether there may be any number of answers."""

    @property
    def answer(self) -> dict[str, Any]:
        """The only answer, or all of them as `tags`."""
        return {"tags": self.answers} if self.several else self.answers[0]


@dataclass
class Explainer:
    """A model whose answers are explained; it keeps compiled programs for later calls."""

    model: TrainedModel
    training: TrainingExamples | None = None
    """The examples among which neighbours are found."""
    _attributors: dict[tuple[int | None, bool], Attributor] = field(default_factory=dict)

    def __call__(self, spec: str, data: DataConfig, options: ExplainOptions) -> Iterator[Explanation]:
        """Explain the answer for each text of a source, in its order.

        Raises:
          UserError: if the task's answers cannot be explained, the label is unknown, or the source cannot be read.
        """
        model, task = self.model, self.model.task
        if task.explains is None:
            if task.head is PromptHead:
                raise UserError(
                    "this model answers by a prompt, and such answers cannot be explained: those of a model that "
                    "was trained with train.method plain or contrastive can"
                )
            raise UserError(
                f"this model's task is {task.name}, whose answers cannot be explained: those of classification, "
                "multi_label, regression, token_classification and question_answering can"
            )
        target = None if options.label is None else find_label(task, options.label)
        attributor = self._attributor(options)
        feed = _Remembering(model.open_inputs(spec, data), isinstance(task, TextTask))

        def explanations() -> Iterator[Explanation]:
            with closing(model.predict(feed)) as predictions:
                for chunk, values in predictions:
                    yield from self._of_outcome(Outcome(task, chunk.examples, values), attributor, options, target)

        return explanations()

    def of_outcome(self, outcome: Outcome, options: ExplainOptions) -> list[Explanation]:
        """Explain the answers of an outcome, as `items_of` takes it."""
        return list(self._of_outcome(outcome, self._attributor(options), options, None))

    def _of_outcome(
        self, outcome: Outcome, attributor: Attributor, options: ExplainOptions, target: int | None
    ) -> Iterator[Explanation]:
        items = items_of(outcome, self.model.tokenizer, self.model.max_length, target)
        answers = self._explain(items, attributor, options)
        for texts, count in zip(items.texts, items.counts, strict=True):
            yield Explanation(texts, list(islice(answers, count)), isinstance(outcome.task, TokenClassification))

    def _attributor(self, options: ExplainOptions) -> Attributor:
        """Return the attributor for these options."""
        model, baseline = self.model, None
        if isinstance(model.predictor, Ensemble):
            raise UserError(
                "answers of an ensemble are not explained: explain one of its models, such as RUN/folds/0/export"
            )
        named = {"pad": "pad_token_id", "mask": "mask_token_id"}.get(options.baseline)
        if named is not None and options.method != "gradient_x_input":
            baseline = getattr(model.tokenizer, named, None)
            if baseline is None:
                raise UserError(f"the model's tokenizer has no {options.baseline} token: choose the baseline zero")
        key = baseline, unit_of(model.task, options) == "probability"
        if key not in self._attributors:
            self._attributors[key] = Attributor(model.predictor, *key, model.max_length)
        return self._attributors[key]

    def _explain(self, items: Items, attributor: Attributor, options: ExplainOptions) -> Iterator[dict[str, Any]]:
        """Yield the explained answer of each item."""
        for first in range(0, len(items), _ITEMS):
            chosen = np.arange(first, min(first + _ITEMS, len(items)))
            part = items.examples.take(chosen)
            found = attributor(self.model.params, part, items.first[first : chosen[-1] + 2], options)
            near = self._neighbours(part, options.neighbours)
            for place, item in enumerate(chosen.tolist()):
                answer = items.heads[item] | _weighted(items, found, item, place, int(items.first[first]))
                extra = {} if near is None else {"neighbours": near[place]}
                yield answer | extra

    def _neighbours(self, examples: Examples, count: int) -> list[list[dict[str, Any]]] | None:
        """Return the nearest training examples of each text, if asked for."""
        if not count:
            return None
        assert self.training is not None
        return self.training.nearest(examples, count)


def unit_of(task: Task, options: ExplainOptions) -> str:
    """Return what the weights add up to: `log_odds`, `log_probability`, `probability` or `score`."""
    if task.explains == "score" or options.unit == "log_odds":
        return str(task.explains)
    return options.unit


def _weighted(items: Items, found: Attributions, item: int, place: int, base: int) -> dict[str, Any]:
    """Return the values, the words and the completeness error of an item, the one at `place` of `found`."""
    weights = found.weights[items.first[item] - base : items.first[item + 1] - base]
    value, baseline = float(found.values[place]), float(found.baselines[place])
    missed = abs(float(weights.sum()) - (value - baseline))
    return {
        "value": round(value, DIGITS),
        "baseline_value": round(baseline, DIGITS),
        "words": [
            word | {"weight": round(weight, DIGITS)}
            for word, weight in zip(items.words[item], weights.tolist(), strict=True)
        ],
        "completeness_error": round(missed / max(abs(value - baseline), 1e-9), DIGITS)
        if round(missed, DIGITS)
        else 0.0,
    }


@dataclass(frozen=True)
class _Remembering:
    """Inputs whose examples keep the texts that they were made of, if they are `tables`; other examples keep them anyway."""

    inputs: TaskInputs
    tables: bool

    @property
    def name(self) -> str:
        return self.inputs.name

    def parts(self) -> Iterator[Any]:
        return self.inputs.parts()

    @property
    def tokenize(self) -> Callable[[list[Any]], Examples]:
        if not self.tables:
            return self.inputs.tokenize

        def tokenize(parts: list[Table]) -> Examples:
            return dataclasses.replace(self.inputs.tokenize(parts), extra=concatenate_tables(parts))

        return tokenize

    def say_first(self) -> None:
        self.inputs.say_first()

    def say(self) -> None:
        self.inputs.say()


def shown_label(answer: Mapping[str, Any]) -> str:
    """Return the label of an explained answer for a reader: a score has none, and a question may have no answer."""
    return "score" if answer["label"] is None else answer["label"] or "no answer"


class WordEffects:
    """Adds up the weights of words over many explanations, by the label that was explained."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0, 0.0]))
        self._texts: dict[str, int] = defaultdict(int)

    def add(self, explanation: Explanation) -> None:
        """Add the words of all answers for a text; words that differ only in case are one."""
        for answer in explanation.answers:
            self._add(answer)

    def _add(self, answer: Mapping[str, Any]) -> None:
        label = shown_label(answer)
        self._texts[label] += 1
        for word in answer["words"]:
            entry = self._sums[label][word["text"].casefold()]
            entry[0] += 1
            entry[1] += word["weight"]

    def to_dict(self) -> dict[str, Any]:
        """Return, for each label, how many texts it was explained for, and the words `for` and `against` it.

        Words are ordered by the sum of their weights; each has its `count` and `mean_weight`.
        """
        return {
            label: {"texts": texts, "for": _first(self._sums[label], 1), "against": _first(self._sums[label], -1)}
            for label, texts in sorted(self._texts.items())
        }


def _first(sums: Mapping[str, Sequence[float]], sign: int) -> list[dict[str, Any]]:
    """Return the words whose weights add up to the largest sums of this sign."""
    chosen = sorted((-sign * total, word) for word, (_, total) in sums.items() if sign * total > 0)
    return [
        {"word": word, "count": int(sums[word][0]), "mean_weight": round(sums[word][1] / sums[word][0], DIGITS)}
        for _, word in chosen[:_LISTED]
    ]
