"""A model with a trained head is trained further: the head goes on with the meaning that it has, or the run stops."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from runs import LABELS, make_config, write_csv, write_model
from transformers import BertConfig

from jaxbert.data.labels import Head
from jaxbert.errors import UserError
from jaxbert.interop.read import has_classifier, read_tensors
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.token_classification.examples import as_head
from jaxbert.tasks.token_classification.scheme import BIO
from jaxbert.tasks.token_classification.tag_sets import TagSet
from jaxbert.train.run import Run, open_run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    return folder


def session(tmp_path, model, labels, **changes) -> Run:
    rows = [(f"w{i}", label) for i, label in enumerate(labels)]
    keys = {
        "model__name_or_path": str(model),
        "data__train": str(write_csv(tmp_path / "train.csv", rows)),
        "data__cache_dir": None,
        "train__output_dir": str(tmp_path / "run"),
    }
    config = make_config(**(keys | changes))
    return open_run(config, RunFolder(config.train.output_dir))


def head_of(found: Run) -> np.ndarray:
    return np.asarray(found.first_params()["classifier"]["kernel"]).T


def test_the_same_labels_keep_the_order_of_the_head(model, tmp_path, caplog):
    found = session(tmp_path, model, ["bad", "good", "bad"])
    assert found.inputs.task.label_names == ("good", "bad")
    assert found.bert_config.id2label == {0: "good", 1: "bad"}
    assert found.inputs.train.labels.tolist() == [1, 0, 1]
    assert "the labels are in the order of" in caplog.text
    np.testing.assert_array_equal(head_of(found), read_tensors(model)["classifier.weight"])


def test_other_labels_stop_or_have_a_map_or_a_new_head(model, tmp_path, caplog):
    with pytest.raises(UserError, match="has a trained head for other labels"):
        session(tmp_path, model, ["good", "ham"])
    mapped = session(tmp_path, model, ["spam", "ham"], data__label_map={"spam": "bad", "ham": "good"})
    assert (mapped.inputs.task.label_names, mapped.inputs.train.labels.tolist()) == (("good", "bad"), [1, 0])
    trained = read_tensors(model)["classifier.weight"]
    np.testing.assert_array_equal(head_of(mapped), trained)
    fresh = session(tmp_path, model, ["spam", "ham"], model__head="new")
    assert fresh.inputs.task.label_names == ("ham", "spam")
    assert np.abs(head_of(fresh) - trained).max() > 0
    assert "new, to be trained: classifier.bias, classifier.weight" in caplog.text
    caplog.clear()
    drawn = session(tmp_path, model, ["spam", "ham"])
    assert "none of the labels 'ham', 'spam' is one of" in caplog.text
    assert "a new head is drawn; data.label_map may rename them to keep it" in caplog.text
    assert drawn.inputs.task.label_names == ("ham", "spam")
    np.testing.assert_array_equal(head_of(drawn), head_of(fresh))
    assert session(tmp_path, model, ["spam", "ham", "eggs"]).inputs.task.label_names == ("eggs", "ham", "spam")
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"spam": "bad", "ham": "good"}))
    assert session(tmp_path, model, ["spam", "ham"], data__label_map=str(file)).inputs.train.labels.tolist() == [1, 0]


def test_a_classifier_of_another_kind_of_head_does_not_go_on(model, tmp_path, caplog):
    folder = tmp_path / "tagger"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"architectures": ["BertForTokenClassification"]}))
    found = session(tmp_path, folder, ["bad", "good"])
    assert found.inputs.task.label_names == LABELS
    assert np.abs(head_of(found) - read_tensors(folder)["classifier.weight"]).max() > 0
    assert "new, to be trained: classifier.bias" in caplog.text


def test_whether_there_is_a_classifier(model, tmp_path):
    assert has_classifier(model)
    assert not has_classifier(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert not has_classifier(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"module.classifier.weight": "a.safetensors"}}'
    )
    (tmp_path / "model.safetensors").unlink()
    assert has_classifier(tmp_path)
    assert BertConfig.from_pretrained(model).architectures == ["BertForSequenceClassification"]


def test_a_trained_head_of_other_tags(caplog):
    """The same tags keep their order, others have a new head, and where some are known it stops."""
    head = Head(("O", "B-PER", "I-PER"), "tagger")
    same = as_head(TagSet(("B-PER", "I-PER", "O"), BIO), head, "a.conll")
    assert (same.names, same.new_head) == (head.names, False)
    other = TagSet(("B-LOC", "I-LOC", "O"), BIO)
    assert as_head(other, head, "a.conll") == dataclasses.replace(other, new_head=True)
    (said,) = [message for message in caplog.messages if "a new head is drawn" in message]
    assert (
        said
        == "a.conll: none of the tags 'B-LOC', 'I-LOC', 'O' is one of tagger's ('O', 'B-PER', 'I-PER'): a new head is drawn"
    )
    with pytest.raises(UserError, match="has a trained head for other tags"):
        as_head(TagSet(("B-LOC", "B-PER", "O"), BIO), head, "a.conll")


@pytest.mark.parametrize(
    ("names", "goes_on"),
    [(("O", "PER-B", "PER-I"), True), (("0", "1", "2"), True), (("LABEL_0", "LABEL_1", "LABEL_2"), False)],
    ids=["another spelling", "numbers", "no names"],
)
def test_a_run_takes_the_head_that_its_tags_say(model, tmp_path, names, goes_on):
    """What is decided of the tags is what happens to the weights."""
    tagger = write_model(
        tmp_path / "tagger", id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    content = json.loads((tagger / "config.json").read_text())
    (tagger / "config.json").write_text(json.dumps(content | {"architectures": ["BertForTokenClassification"]}))
    (tmp_path / "train.conll").write_text("w1 B-PER\nw2 I-PER\nw3 O\n\nw4 O\n")
    keys = {"model__name_or_path": str(tagger), "data__train": str(tmp_path / "train.conll"), "data__cache_dir": None}
    config = make_config(task="token_classification", **keys, train__output_dir=str(tmp_path / "run"))
    found = open_run(config, RunFolder(config.train.output_dir))
    assert sorted(found.inputs.task.tag_names) == ["B-PER", "I-PER", "O"]
    assert np.array_equal(head_of(found), read_tensors(tagger)["classifier.weight"]) == goes_on
    assert found.inputs.new_head != goes_on
