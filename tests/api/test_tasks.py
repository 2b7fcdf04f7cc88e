"""Every task reads rows in memory as it reads files, and answers inputs as they are at hand."""

from __future__ import annotations

import json

import pytest
from runs import VOCAB, make_config, small_config
from tiny import random_params
from transformers import BertTokenizer

import jaxbert
from jaxbert.data.examples import content_of
from jaxbert.data.memory import hold
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.tasks import task_class

ROWS = {
    "classification": [
        {"text": "good w1", "text_pair": "w2", "label": "yes"},
        {"text": "w3", "text_pair": "w4", "label": "no"},
    ],
    "multi_label": [{"text": "good w1", "label": ["a", "b"]}, {"text": "w3", "label": []}],
    "regression": [{"text": "good w1", "label": 0.5}, {"text": "w3", "label": 2}],
    "token_classification": [
        {"tokens": ["good", "w1"], "tags": ["B-x", "O"]},
        {"text": "poor w2 w3", "entities": [{"start": 0, "end": 4, "label": "x"}]},
    ],
    "question_answering": [
        {"question": "w1", "context": "good w2", "answers": {"text": ["w2"], "answer_start": [5]}},
        {"question": "w3", "context": "poor", "answers": []},
    ],
    "multiple_choice": [
        {"question": "w1", "context": "w2 w3", "choices": ["good", "poor"], "label": "A"},
        {"question": "w1", "context": "w4", "choices": ["poor", "w5", "good"], "label": "C"},
    ],
    "pretraining": [{"text": "good w1. w2 w3.\nw4 w5."}, {"text": "w6 w7 w8."}],
}


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


@pytest.mark.parametrize("task", ROWS)
def test_the_tokens_and_labels_of_rows_are_those_of_a_file(task, tokenizer, tmp_path):
    rows = ROWS[task][:1] * 3 if task == "token_classification" else ROWS[task] * 3
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def content(spec):
        pair = {"data__text_pair": "text_pair"} if task == "classification" else {}
        config = make_config(task, data__train=spec, data__validation={"one": spec}, data__cache_dir=None, **pair)
        inputs = task_class(task).read(config, tokenizer, 16)
        return content_of([inputs.train], inputs.task.output_names), inputs.overview.train.seen.rows.tolist()

    with hold(rows, "train") as spec:
        assert content(spec) == content(str(path))


def model_of(task, tokenizer, folder, **changes):
    """Write a small model of a task with random weights, and open it."""
    kind = task_class(task)
    model = make_model(kind.head, small_config(**changes))
    save_folder(folder, random_params(model), model.config, tokenizer, architecture=kind.architecture)
    return jaxbert.load(folder)


def test_questions_are_pairs_or_rows(tokenizer, tmp_path):
    model = model_of("question_answering", tokenizer, tmp_path / "model")
    first, second = ("w1 w2", "good w3 w4"), ("w5", "poor w6")
    answers = model.predict([first, second])
    assert [answer["text"] in context for answer, (_, context) in zip(answers, (first, second), strict=True)] == [
        True,
        True,
    ]
    rows = [{"question": question, "context": context} for question, context in (first, second)]
    for found, expected in zip(model.predict(rows), answers, strict=True):
        assert found == expected
    assert model.predict(first)["text"] == answers[0]["text"]
    with pytest.raises(jaxbert.UserError, match=r"this model reads pairs of texts: give each as \(FIRST, SECOND\)"):
        model.predict(["w1"])


def test_words_are_lists_or_a_text(tokenizer, tmp_path):
    names = ["O", "B-x"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = model_of("token_classification", tokenizer, tmp_path / "model", **labels)
    of_words = model.predict([["good", "w1"], ["w2"]])
    assert [list(answer) for answer in of_words] == [["entities"], ["entities"]]
    assert model.predict([{"tokens": ["good", "w1"]}, {"tokens": ["w2"]}]) == of_words
    assert all(entity["text"] in "good w1" for entity in model.predict("good w1")["entities"])


def test_pairs_of_texts(tokenizer, tmp_path):
    """A model that does not say how it reads takes one text or two."""
    model = model_of("classification", tokenizer, tmp_path / "model")
    pairs = model.predict([("good w1", "w2"), ("w3", "w4")])
    rows = [{"text": "good w1", "text_pair": "w2"}, {"text": "w3", "text_pair": "w4"}]
    assert model.predict(rows, text_pair="text_pair") == pairs
    assert model.predict(["good w1", "w3"]) != pairs
