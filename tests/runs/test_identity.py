"""What a start says where it finds other data than the run has learned from."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jaxbert.data.examples import Content
from jaxbert.errors import UserError
from jaxbert.runs.identity import Identity, go_on, known_labels

BEFORE = Identity(
    labels=["neg", "pos"],
    tokenizer={"tokens": 100, "vocabulary": "v", "settings": {"normalizer": {"lowercase": True, "type": "Bert"}}},
    model={"name": "m", "architecture": {"hidden_size": 8, "hidden_act": "gelu"}, "weights": "w"},
    sets={"data.train": Content(48, 300, "t"), "data.validation en": Content(7, 40, "e")},
    steps=72,
)


def changed(**changes):
    return dataclasses.replace(BEFORE, **changes)


def with_sets(**sets):
    return changed(sets=BEFORE.sets | {name.replace("_", " ").replace("data ", "data."): s for name, s in sets.items()})


def test_it_is_read_as_it_was_written(folder):
    folder.path.mkdir()
    assert Identity.read(folder.data) is None
    identity = changed(changes=["rows were added"])
    identity.write(folder.data)
    assert Identity.read(folder.data) == identity


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"sets": {"a": {"examples": 1}}}', '{"sets": 1}', "null"])
def test_a_damaged_one_is_one_line(folder, text):
    folder.path.mkdir()
    folder.data.write_text(text)
    with pytest.raises(UserError, match=r"data\.json"):
        Identity.read(folder.data)


def test_damage_inside_is_one_line(folder):
    folder.path.mkdir()
    for name in ("labels", "tokenizer", "model", "steps", "changes"):
        for wrong in (5, {}, None, "five", {"architecture": {}, "settings": {}}):
            if name == "steps" and wrong == 5:
                continue
            folder.data.write_text(json.dumps(dataclasses.asdict(BEFORE) | {name: wrong}))
            with pytest.raises(UserError, match="is damaged: remove it"):
                Identity.read(folder.data)


def test_the_same_goes_on_without_a_word(folder, said):
    before = changed(changes=["once"])
    assert go_on(folder, before, BEFORE, learned=True, accepts=False) == before
    assert not said.messages


ACCEPTED = {
    "rows added": (with_sets(data_train=Content(60, 380, "u")), "data.train: 48 examples there, 60 now"),
    "other rows": (
        with_sets(data_train=Content(48, 301, "u")),
        "data.train: 48 examples as before, but other texts or labels",
    ),
    "a set more": (with_sets(data_test=Content(5, 9, "x")), "data.test: 5 examples now, none there"),
    "a set less": (
        changed(sets={"data.train": BEFORE.sets["data.train"]}),
        "data.validation en: 7 examples there, none now",
    ),
}


@pytest.mark.parametrize(("now", "what"), ACCEPTED.values(), ids=ACCEPTED)
def test_changed_data_are_refused_unless_they_are_accepted(folder, said, now, what):
    with pytest.raises(UserError) as caught:
        go_on(folder, BEFORE, now, learned=True, accepts=False)
    assert what in str(caught.value)
    assert "train.accept_changed_data" in str(caught.value)
    kept = go_on(folder, BEFORE, now, learned=True, accepts=True)
    assert kept == dataclasses.replace(now, changes=[what])
    assert said.messages == [f"{folder.path} continues with changed data ({what})"]


def test_another_number_of_steps_is_said(folder, said):
    now = dataclasses.replace(ACCEPTED["rows added"][0], steps=96)
    go_on(folder, BEFORE, now, learned=True, accepts=True)
    assert said.messages[0].endswith("60 now; 96 steps in all, not 72: the learning rate follows)")


def other_tokenizer(**changes):
    return changed(tokenizer=BEFORE.tokenizer | changes)


def other_model(**changes):
    return changed(model=BEFORE.model | changes)


NEVER = {
    "a label renamed": (changed(labels=["neg", "yes"]), "labels 'neg', 'pos' there, 'neg', 'yes' now"),
    "a label more": (changed(labels=["neg", "new", "pos"]), "labels 'neg', 'pos' there, 'neg', 'new', 'pos' now"),
    "another order": (changed(labels=["pos", "neg"]), "labels 'neg', 'pos' there, 'pos', 'neg' now"),
    "another vocabulary": (
        other_tokenizer(vocabulary="x", tokens=21128),
        "another vocabulary (100 tokens there, 21,128 now)",
    ),
    "another casing": (
        other_tokenizer(settings={"normalizer": {"lowercase": False, "type": "Bert"}}),
        "tokenizer: normalizer.lowercase True there, False now",
    ),
    "another architecture": (
        other_model(architecture={"hidden_size": 8, "hidden_act": "relu"}),
        "model: hidden_act 'gelu' there, 'relu' now",
    ),
    "other weights": (
        other_model(name="n", weights="x"),
        "model.name_or_path: 'm' there, 'n' now, with other weights",
    ),
}


@pytest.mark.parametrize(("now", "what"), NEVER.values(), ids=NEVER)
def test_what_the_weights_do_not_fit_is_never_accepted(folder, now, what):
    for accepts in (False, True):
        with pytest.raises(UserError) as caught:
            go_on(folder, BEFORE, now, learned=True, accepts=accepts)
        assert f"({what}): use the same ones" in str(caught.value)
        assert "accept_changed_data" not in str(caught.value)


def test_of_many_labels_those_that_differ_are_named(folder):
    names = [f"label {i:02}" for i in range(30)]
    now = changed(labels=sorted({*names, "zebra"} - {"label 07"}))
    with pytest.raises(UserError, match="30 now, without 'label 07' and with 'zebra'"):
        go_on(folder, changed(labels=names), now, learned=True, accepts=True)


def test_with_another_vocabulary_other_tokens_are_no_news(folder):
    now = dataclasses.replace(other_tokenizer(vocabulary="x"), sets={n: Content(48, 1, "z") for n in BEFORE.sets})
    with pytest.raises(UserError) as caught:
        go_on(folder, BEFORE, now, learned=True, accepts=True)
    assert "other texts" not in str(caught.value)
    assert "data.validation en: 7 examples there, 48 now" in str(caught.value)


def test_a_library_may_learn_new_settings(folder, said):
    now = other_tokenizer(settings={"normalizer": {"lowercase": True, "type": "Bert", "new": 1}, "more": 2})
    assert go_on(folder, BEFORE, now, learned=True, accepts=False) == now
    assert not said.messages


def test_a_model_may_have_moved_and_its_weights_may_have_changed(folder, said):
    moved = other_model(name="elsewhere/m")
    assert go_on(folder, BEFORE, moved, learned=True, accepts=False) == moved
    assert not said.messages
    kept = go_on(folder, BEFORE, other_model(weights="x"), learned=True, accepts=False)
    assert kept == BEFORE
    assert "the weights in m have changed" in said.messages[0]


def test_before_the_first_checkpoint_everything_may_change(folder, said):
    now = changed(labels=["a", "b"], sets={"data.train": Content(60, 1, "u")})
    assert go_on(folder, BEFORE, now, learned=False, accepts=False) == now
    assert "the run begins again" in said.messages[0]
    assert "labels 'neg', 'pos' there, 'a', 'b' now" in said.messages[0]


def test_a_run_of_an_older_version_goes_on_and_says_what_is_not_known(folder, said):
    assert go_on(folder, None, BEFORE, learned=False, accepts=False) == BEFORE
    assert not said.messages
    folder.start.mkdir(parents=True)
    (folder.start / "config.json").write_text('{"id2label": {"1": "pos", "0": "neg"}}')
    assert known_labels(folder, None) == ["neg", "pos"]
    assert go_on(folder, None, BEFORE, learned=True, accepts=False) == BEFORE
    assert "it is not known whether the data are the same" in said.messages[0]
    with pytest.raises(UserError, match="labels 'neg', 'pos' there, 'new', 'pos' now"):
        go_on(folder, None, changed(labels=["new", "pos"]), learned=True, accepts=False)
    assert go_on(folder, None, changed(labels=[]), learned=True, accepts=False) == changed(labels=[])
