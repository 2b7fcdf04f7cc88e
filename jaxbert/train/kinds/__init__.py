"""The host's half of each task: how its data are read, and how an export remembers what it learned."""

from __future__ import annotations

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


def kind_of(task: str) -> Kind:
    """Return the kind of this name.

    Raises:
      UserError: if there is none.
    """
    if task not in KINDS:
        raise UserError(f"task {task!r} is unknown: take one of {', '.join(KINDS)}")
    return KINDS[task]


def kind_of_model(bert_config: BertConfig) -> Kind:
    """Return the kind of an exported model: as our own export says, else by what transformers say of the head."""
    named = settings_of(bert_config).get("task")
    if isinstance(named, str) and named in KINDS:
        return KINDS[named]
    problem = getattr(bert_config, "problem_type", None)
    if settings_of(bert_config).get("task") is None and bert_config.num_labels == 1 and problem is None:
        problem = "regression"  # as transformers take it
    by_problem = {"multi_label_classification": "multi_label", "regression": "regression"}
    by_head = {"ForTokenClassification": "token_classification", "ForQuestionAnswering": "question_answering"}
    architecture = (bert_config.architectures or [""])[0].removeprefix("Bert")
    task = by_problem.get(problem or "") or by_head.get(architecture) or "classification"
    return kind_of(task)
