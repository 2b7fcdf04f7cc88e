"""Reading questions with their contexts: `task: question_answering`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.answering.read import Questions, read_questions, stream_questions
from jaxbert.data.answering.windows import Asked, QuestionWindows, cut_questions
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.label_fit import Head
from jaxbert.data.long_texts import Reading
from jaxbert.data.overview import TRAIN, Labelling, Overview, View, lower_cases, view_items
from jaxbert.data.split import split_groups
from jaxbert.tasks.base import Task
from jaxbert.tasks.question_answering import QuestionAnswering
from jaxbert.train.inputs import named_sets, set_name, training_spec
from jaxbert.train.kinds.base import Inputs, settings_of, with_settings
from jaxbert.train.kinds.token_kinds import ItemFeed, reading_of, refuse, shared_tokens


class QuestionAnsweringKind:
    """An answer that stands in a context."""

    def read(self, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets; whether a question may have no answer is what the training questions say."""
        data = config.data
        refuse(config, "train.label_smoothing", "model.num_labels", "data.label_names")
        validation = {
            name: read_questions(spec, data, role="validation", labelled=True)
            for name, spec in named_sets(data.validation, "validation").items()
        }
        test = {
            name: read_questions(spec, data, role="test", labelled=True)
            for name, spec in named_sets(data.test, "test").items()
        }
        train = read_questions(training_spec(data), data, role="train", labelled=True, limit=data.limit)
        if data.validation_fraction:  # a context must not be in both parts
            contexts = {context: i for i, context in enumerate(dict.fromkeys(q.context for q in train.items))}
            groups = np.array([contexts[question.context] for question in train.items])
            kept, held_out = split_groups(groups, data.validation_fraction, config.train.seed)
            train, validation = train.take(kept), {"validation": train.take(held_out)}
        unanswered = any(not question.answers for question in train.items)
        task = QuestionAnswering(unanswered, data.no_answer_threshold, reading_of(config, max_length))

        views: list[View] = []

        def examples(name: str, questions: Questions, *, in_windows: bool = True) -> Examples:
            windows = _windows(task, questions, tokenizer, max_length)
            views.append(_view(name, questions, windows, max_length))
            return _examples(questions, windows, in_windows)

        return Inputs(
            train=examples(TRAIN, train, in_windows=False),
            validation={name: examples(set_name("validation", name), found) for name, found in validation.items()},
            test={name: examples(set_name("test", name), found) for name, found in test.items()},
            task=task,
            overview=Overview(views, lower_cases(tokenizer)),
        )

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Note whether a question may have no answer, and when that is said."""
        assert isinstance(task, QuestionAnswering)
        changed = with_settings(
            bert_config,
            "question_answering",
            unanswered=task.unanswered,
            no_answer_threshold=task.threshold,
            reading=task.reading.to_dict(),
        )
        changed.num_labels = 2  # start and end
        return changed

    def reopen(self, bert_config: BertConfig) -> QuestionAnswering:
        """Take these notes; a model of another program answers every question."""
        settings = settings_of(bert_config)
        threshold = settings.get("no_answer_threshold")
        return QuestionAnswering(
            settings.get("unanswered") is True,
            float(threshold) if isinstance(threshold, int | float) else 0.0,
            Reading.of(settings.get("reading")),
        )

    def reading_length(self, task: Task) -> int | None:
        """Return the length of windows in training."""
        assert isinstance(task, QuestionAnswering)
        return task.reading.max_length

    def read_for(self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source."""
        assert isinstance(task, QuestionAnswering)
        questions = read_questions(spec, data, role="test", labelled=True)
        return _examples(questions, _windows(task, questions, tokenizer, max_length), True)

    def feed(
        self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> ItemFeed:
        """Open one source."""
        assert isinstance(task, QuestionAnswering)

        def tokenize(parts: Sequence[Questions]) -> Examples:
            questions = dataclasses.replace(parts[0], items=[item for part in parts for item in part.items])
            return _examples(questions, _windows(task, questions, tokenizer, max_length), True)

        return ItemFeed(spec, stream_questions(spec, data, kept), tokenize)


def _windows(task: QuestionAnswering, questions: Questions, tokenizer: Any, max_length: int) -> QuestionWindows:
    """Tokenize questions."""
    return cut_questions(questions, tokenizer, max_length, shared_tokens(task.reading, max_length))


def _view(name: str, questions: Questions, windows: QuestionWindows, max_length: int) -> View:
    """Return what an overview says of a set of questions; equal ones have the same context."""
    items = questions.items
    answered = sum(1 for item in items if item.answers)
    texts = [f"{item.question.strip()}\0{item.context}" for item in items]
    labels = Labelling("answer", {"answered": answered, "unanswered": len(items) - answered})
    rows = [item.row for item in items]
    return view_items(
        name,
        questions.source,
        texts,
        windows.lengths,
        rows,
        labels,
        max_length,
        unit="questions",
        facts=questions.facts,
    )


def _examples(questions: Questions, windows: QuestionWindows, in_windows: bool) -> Examples:
    """Make examples of questions; in training, each window of a long context is an example of its own."""
    if in_windows:
        return Examples(windows.tokens, windows=Windows(windows.first), extra=Asked(questions, windows))
    rows = np.repeat(np.arange(len(questions)), np.diff(windows.first))
    return Examples(windows.tokens, windows.answers, rows)
