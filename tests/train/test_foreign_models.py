"""What a model of another program is taken for is said, and so is a head that goes on from another task."""

from __future__ import annotations

import pytest
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.tasks import say_guess, say_other_head, task_class, task_of_model

OURS = {"jaxbert": {"task": "multi_label"}}


def config_of(head: str | None = None, labels: int = 3, **more) -> BertConfig:
    architectures = [f"BertFor{head}"] if head else None
    return BertConfig(architectures=architectures, num_labels=labels, **more)


@pytest.mark.parametrize(
    ("config", "task", "said"),
    [
        (config_of("SequenceClassification"), "classification", "each text has one label"),
        (config_of("SequenceClassification", labels=1), "regression", "each text has a score"),
        (
            config_of("SequenceClassification", problem_type="multi_label_classification"),
            "multi_label",
            "from a probability of 0.5",
        ),
        (config_of("TokenClassification"), "token_classification", "the first token of a word"),
        (config_of("QuestionAnswering"), "question_answering", "each question has an answer"),
        (config_of("MultipleChoice"), "multiple_choice", "the number of the right choice from 0"),
        (config_of(), "classification", "each text has one label"),
        (config_of("TokenClassification", **OURS), "multi_label", None),
    ],
)
def test_what_a_model_is_taken_for_is_said(caplog, config, task, said):
    assert task_of_model(config) is task_class(task)
    say_guess("org/model", config)
    if said is None:
        assert not caplog.messages
    else:
        assert f"org/model does not name a task: by its config.json it is taken for {task}, " in caplog.text
        assert said in caplog.text


@pytest.mark.parametrize("head", ["NextSentencePrediction"])
def test_a_head_of_no_task_is_refused(head):
    with pytest.raises(UserError, match=f"the model is a BertFor{head}, which no task has"):
        task_of_model(config_of(head))
    assert task_of_model(config_of(head, **OURS)).name == OURS["jaxbert"]["task"]  # its checkpoint had that head


@pytest.mark.parametrize(
    ("config", "task", "labels", "said"),
    [
        (config_of("TokenClassification"), "classification", 3, True),
        (config_of("TokenClassification"), "classification", 4, False),
        (config_of("SequenceClassification"), "classification", 3, False),
        (config_of("QuestionAnswering"), "classification", 3, False),
        (config_of("SequenceClassification"), "question_answering", 3, False),
        (config_of("MaskedLM"), "classification", 3, False),
        (config_of("MultipleChoice"), "classification", 3, False),
        (config_of("SequenceClassification", **OURS), "classification", 3, True),
    ],
)
def test_a_head_that_goes_on_from_another_task_is_said(caplog, config, task, labels, said):
    say_other_head("org/model", config, task, labels)
    assert ("is trained further for classification" in caplog.text) == said
