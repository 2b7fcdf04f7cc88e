"""The host's half of each task: how its data are read, and how an export remembers what it learned."""

from __future__ import annotations

import logging

from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.train.kinds.base import Kind, settings_of
from jaxbert.train.kinds.classification import ClassificationKind
from jaxbert.train.kinds.multi_label import MultiLabelKind
from jaxbert.train.kinds.pretraining import PretrainingKind
from jaxbert.train.kinds.question_answering import QuestionAnsweringKind
from jaxbert.train.kinds.regression import RegressionKind
from jaxbert.train.kinds.token_classification import TokenClassificationKind

KINDS: dict[str, Kind] = {
    "classification": ClassificationKind(),
    "multi_label": MultiLabelKind(),
    "question_answering": QuestionAnsweringKind(),
    "regression": RegressionKind(),
    "pretraining": PretrainingKind(),
    "token_classification": TokenClassificationKind(),
}
"""By the value of `task` in a configuration."""

logger = logging.getLogger("jaxbert")


def kind_of(task: str) -> Kind:
    """Return the kind of this name.

    Raises:
      UserError: if there is none.
    """
    if task not in KINDS:
        raise UserError(f"task {task!r} is unknown: take one of {', '.join(KINDS)}")
    return KINDS[task]


def kind_of_model(bert_config: BertConfig) -> Kind:
    """Return the kind of an exported model: as our own export says, else by what transformers say of the head.

    Raises:
      UserError: for a head of no kind that is known.
    """
    architecture = _architecture(bert_config)
    if architecture in ("MultipleChoice", "NextSentencePrediction"):
        raise UserError(f"the model is a BertFor{architecture}, which no task has: there are {', '.join(KINDS)}")
    return kind_of(_trained_task(bert_config) or "classification")


def _trained_task(bert_config: BertConfig) -> str | None:
    """Return the task that a model's head was trained for; None where nothing says that it has one."""
    named = settings_of(bert_config).get("task")
    if isinstance(named, str) and named in KINDS:
        return named
    problem = getattr(bert_config, "problem_type", None)
    if named is None and bert_config.num_labels == 1 and problem is None:
        problem = "regression"  # as transformers take it
    by_problem = {
        "single_label_classification": "classification",
        "multi_label_classification": "multi_label",
        "regression": "regression",
    }
    by_head = {
        "TokenClassification": "token_classification",
        "QuestionAnswering": "question_answering",
        "SequenceClassification": "classification",
    }
    return by_problem.get(problem or "") or by_head.get(_architecture(bert_config))


def _architecture(bert_config: BertConfig) -> str:
    """Return the name of a model's head, `SequenceClassification`, empty for none."""
    return str((bert_config.architectures or [""])[0]).removeprefix("Bert").removeprefix("For")


_ASSUMED = {
    "classification": "each text has one label",
    "multi_label": "a label is given from a probability of 0.5",
    "regression": "each text has a score",
    "question_answering": "each question has an answer",
    "token_classification": "the first token of a word gives its tag",
}


def say_guess(name: str, bert_config: BertConfig) -> None:
    """Say what the model of another program is taken for."""
    if settings_of(bert_config).get("task") is None:
        task = _trained_task(bert_config) or "classification"
        logger.warning("%s says no task: by its config.json it is taken for %s, %s", name, task, _ASSUMED[task])


def say_other_head(name: str, bert_config: BertConfig, task: str, num_labels: int) -> None:
    """Say where a head of as many outputs goes on from what it learned for another task."""
    before = _trained_task(bert_config)
    if before != task and {before, task} <= _CLASSIFIERS and bert_config.num_labels == num_labels:
        logger.warning("%s: the head was trained for %s, and goes on from there for %s", name, before, task)


_CLASSIFIERS = {"classification", "multi_label", "regression", "token_classification"}
"""Tasks whose heads have one name and one shape."""
