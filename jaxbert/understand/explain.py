"""Explanations of answers: the label and score that `predict` gives, with the weight of each word.

`attribution` computes the weights, `neighbours` finds training examples, `explain_page` shows explanations.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxbert.config import DataConfig, ExplainOptions
from jaxbert.data.examples import Examples
from jaxbert.data.table import Table, concatenate_tables, nearest, quoted
from jaxbert.errors import UserError
from jaxbert.tasks.base import Outcome, Task, TaskInputs
from jaxbert.tasks.text import TextTask
from jaxbert.train.inference import TrainedModel
from jaxbert.understand.attribution import Attributions, Attributor
from jaxbert.understand.neighbours import TrainingExamples
from jaxbert.understand.words import Words, words_of_texts

_TEXTS = 256
"""Texts that are explained together."""
_DIGITS = 6
_LISTED = 100
"""The most words of a label in a summary, for it and against it."""


@dataclass(frozen=True)
class Explanation:
    """A text, or a pair of texts, with its explained answer."""

    texts: tuple[str, ...]
    answer: dict[str, Any]
    """`label` (None for a score), `score` as in `predict`, `value` and `baseline_value` (the explained value of the text,
    and without its words), `words` with their `weight`, `completeness_error`, and `neighbours` if asked for."""


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
        task = self.model.task
        if task.explains is None or not isinstance(task, TextTask):
            raise UserError(
                f"this model's task is {task.name}, and only answers to whole texts can be explained: those of "
                "classification, multi_label and regression"
            )
        target = None if options.label is None else _find_label(task, options.label)
        attributor = self._attributor(options)
        feed = _Remembering(self.model.open_inputs(spec, data))

        def explanations() -> Iterator[Explanation]:
            with closing(self.model.predict(feed)) as predictions:
                for chunk, values in predictions:
                    outcome = Outcome(task, chunk.examples, values)
                    words = self._words(chunk.examples)
                    yield from self._explain(outcome, words, _targets(outcome, target), attributor, options)

        return explanations()

    def _attributor(self, options: ExplainOptions) -> Attributor:
        """Return the attributor for these options."""
        model, baseline = self.model, None
        named = {"pad": "pad_token_id", "mask": "mask_token_id"}.get(options.baseline)
        if named is not None and options.method != "gradient_x_input":
            baseline = getattr(model.tokenizer, named, None)
            if baseline is None:
                raise UserError(f"the model's tokenizer has no {options.baseline} token: choose the baseline zero")
        key = baseline, unit_of(model.task, options) == "probability"
        if key not in self._attributors:
            self._attributors[key] = Attributor(model.predictor, *key, model.max_length)
        return self._attributors[key]

    def _words(self, examples: Examples) -> Words:
        model = self.model
        assert isinstance(model.task, TextTask)
        long_texts = model.task.reading.long_texts
        return words_of_texts(examples.extra, examples, model.tokenizer, long_texts, model.max_length)

    def _explain(
        self, outcome: Outcome, words: Words, targets: np.ndarray, attributor: Attributor, options: ExplainOptions
    ) -> Iterator[Explanation]:
        examples, count = outcome.examples, len(outcome)
        labelled = dataclasses.replace(examples, labels=targets, token_labels=words.of_tokens, extra=None)
        for first in range(0, count, _TEXTS):
            chosen = np.arange(first, min(first + _TEXTS, count))
            part = labelled.take(chosen)
            found = attributor(self.model.params, part, words.first[first : chosen[-1] + 2], options)
            near = self._neighbours(part, options.neighbours)
            for place, example in enumerate(chosen.tolist()):
                answer = _scored(outcome, example, int(targets[example]))
                answer |= _weighted(words, found, example, place, int(words.first[first]))
                extra = {} if near is None else {"neighbours": near[place]}
                yield Explanation(words.texts[example], answer | extra)

    def _neighbours(self, examples: Examples, count: int) -> list[list[dict[str, Any]]] | None:
        """Return the nearest training examples of each text, if asked for."""
        if not count:
            return None
        assert self.training is not None
        return self.training.nearest(examples, count)


def unit_of(task: Task, options: ExplainOptions) -> str:
    """Return what the weights add up to: `log_odds`, `probability` or, for a model that gives scores, `score`."""
    return "score" if task.explains == "score" else options.unit


def _targets(outcome: Outcome, target: int | None) -> np.ndarray:
    """Return the output that is explained for each example: the given one, else the most probable one; int32 [D]."""
    probabilities = outcome.probabilities
    if target is not None or probabilities is None:
        return np.full(len(outcome), target or 0, np.int32)
    return probabilities.argmax(-1).astype(np.int32)


def _scored(outcome: Outcome, example: int, target: int) -> dict[str, Any]:
    """Return `label` and `score`: the label's probability, or the score that the model gives."""
    if outcome.probabilities is None:
        return {"label": None, "score": outcome.answers(example, example + 1)[0]["score"]}
    score = round(float(outcome.probabilities[example, target]), _DIGITS)
    return {"label": outcome.task.output_names[target], "score": score}


def _find_label(task: Task, label: str) -> int:
    if task.explains == "score":
        raise UserError(f"label is {label!r}, but this model gives a score and no labels: leave it out")
    if label not in task.output_names:
        near = nearest(label, task.output_names)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"label {label!r} is none of the model's labels: {quoted(task.output_names)}{hint}")
    return task.output_names.index(label)


def _weighted(words: Words, found: Attributions, example: int, place: int, base: int) -> dict[str, Any]:
    """Return the values, the words and the completeness error of an example, the one at `place` of `found`."""
    weights = found.weights[words.first[example] - base : words.first[example + 1] - base]
    value, baseline = float(found.values[place]), float(found.baselines[place])
    missed = abs(float(weights.sum()) - (value - baseline))
    return {
        "value": round(value, _DIGITS),
        "baseline_value": round(baseline, _DIGITS),
        "words": [
            word | {"weight": round(weight, _DIGITS)}
            for word, weight in zip(words.of_example(example), weights.tolist(), strict=True)
        ],
        "completeness_error": round(missed / max(abs(value - baseline), 1e-9), _DIGITS) if missed else 0.0,
    }


@dataclass(frozen=True)
class _Remembering:
    """Inputs whose examples keep the texts that they were made of."""

    inputs: TaskInputs

    @property
    def name(self) -> str:
        return self.inputs.name

    def parts(self) -> Iterator[Any]:
        return self.inputs.parts()

    @property
    def tokenize(self) -> Callable[[list[Any]], Examples]:
        def tokenize(parts: list[Table]) -> Examples:
            return dataclasses.replace(self.inputs.tokenize(parts), extra=concatenate_tables(parts))

        return tokenize

    def say_first(self) -> None:
        self.inputs.say_first()

    def say(self) -> None:
        self.inputs.say()


class WordEffects:
    """Adds up the weights of words over many explanations, by the label that was explained."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0, 0.0]))
        self._texts: dict[str, int] = defaultdict(int)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Add the words of one explanation; words that differ only in case are one."""
        label = answer["label"] or "score"
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
        {"word": word, "count": int(sums[word][0]), "mean_weight": round(sums[word][1] / sums[word][0], _DIGITS)}
        for _, word in chosen[:_LISTED]
    ]
