"""Disturbed texts: how much changes, that a seed decides it, and that nothing is lost that should stay."""

from __future__ import annotations

import difflib

import pytest

from jaxbert.errors import UserError
from jaxbert.understand import perturb as module
from jaxbert.understand.perturb import KINDS, STRENGTHS, check_kind, perturb

ENGLISH = "A fine film, and it is never too long for a quiet evening at home with the family; see it!"
CHINESE = "这部电影非常好看，请大家今天晚上去看。"
TEXTS = {"english": ENGLISH, "chinese": CHINESE}
WITHOUT_A_PLACE = {("typos", "chinese"), ("case", "chinese"), ("homophones", "english")}
"""Kinds that a text has no place for."""


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_what_changes(kind, text):
    """Every seed gives the same text each time; most seeds and strengths differ; the largest strength changes most."""
    found = {seed: [perturb(TEXTS[text], kind, strength, str(seed)) for strength in STRENGTHS] for seed in range(20)}
    assert found[3] == [perturb(TEXTS[text], kind, strength, "3") for strength in STRENGTHS]
    if (kind, text) in WITHOUT_A_PLACE:
        assert all(each == TEXTS[text] for texts in found.values() for each in texts)
        return
    assert all(each != TEXTS[text] for texts in found.values() for each in texts)
    assert len({tuple(texts) for texts in found.values()}) > 1
    distances = [
        sum(
            1 - difflib.SequenceMatcher(None, TEXTS[text], texts[i], autojunk=False).ratio() for texts in found.values()
        )
        for i in (0, -1)
    ]
    assert distances[0] <= distances[1] < 20 * 0.7
    assert distances[0] < distances[1] or kind == "look_alikes", "that table is small"


def test_what_each_kind_leaves_alone():
    for seed in map(str, range(30)):
        for text in TEXTS.values():
            assert perturb(text, "case", 0.2, seed).casefold() == text.casefold()
            assert perturb(text, "spacing", 0.2, seed).replace(" ", "") == text.replace(" ", "")
            assert letters(perturb(text, "punctuation", 0.2, seed)) == letters(text)
            for kind in ("homophones", "look_alikes"):
                assert len(perturb(text, kind, 0.2, seed)) == len(text)
        words = ENGLISH.split()
        dropped, repeated = (perturb(ENGLISH, kind, 0.2, seed).split() for kind in ("dropped_words", "repeated_words"))
        assert len(dropped) == len(words) - 4
        assert len(repeated) == len(words) + 4
        assert [word for word, after in zip(repeated, [*repeated[1:], ""], strict=True) if word != after] == words


def letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter == " ")


def test_the_number_of_changes():
    """A share of the places, rounded, and at least one."""
    text = "好" * 100
    assert sum(letter != "好" for letter in perturb(text, "homophones", 0.2, "0")) == 20
    assert sum(letter != "好" for letter in perturb("好" * 3, "homophones", 0.05, "0")) == 1
    assert len(perturb(text, "dropped_words", 0.1, "0")) == 90


def test_characters_that_sound_or_look_the_same():
    found = {perturb("好", "homophones", 1.0, str(seed)) for seed in range(5)}
    assert found == {"郝"}
    sounds = {perturb("是", "homophones", 1.0, str(seed)) for seed in range(200)}
    assert {"事", "市", "式"} <= sounds
    assert "是" not in sounds
    assert {perturb("未", "look_alikes", 1.0, str(seed)) for seed in range(9)} == {"末"}
    assert {perturb("己", "look_alikes", 1.0, str(seed)) for seed in range(20)} == {"已", "巳"}


@pytest.mark.parametrize("text", ["", " ", "!", "ok", "好", "\ud83d\ude00", "a\u0301", "ﬁ ß İ", "1 2 3", "\n\t x"])
def test_any_text_can_be_disturbed(text):
    for kind in KINDS:
        for seed in "0123456789":
            changed = perturb(text, kind, 1.0, seed)
            assert changed.strip() or not text.strip()


def test_what_cannot_be_done(monkeypatch):
    with pytest.raises(UserError, match="there is no typo, only typos, case"):
        check_kind("typo")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check_kind("typos")
    with pytest.raises(UserError, match="pip install 'jaxbert\\[robustness\\]'"):
        check_kind("homophones")
