"""The tags of a source are read as what they are, all at once, or the setting is named that decides."""

from __future__ import annotations

import pytest

from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.tag_sets import (
    clean_tag,
    fit_tag_set,
    looks_like_scheme,
    reopen_tag_set,
    spell_as,
)

SCHEMES = {
    "O B-PER I-PER B-LOC": "BIO",
    "I-PER O": "BIO",
    "I O": "BIO",
    "B-A M-A E-A S-A O": "BMES",
    "B-A I-A E-A S-A O": "BIOES",
    "B-A I-A L-A U-A O": "BILOU",
    "B M E S": "BMES",
    "B-I-need-hyphens I-I-need-hyphens": "BIO",
    "S-LOC O": "BIOES",
}


@pytest.mark.parametrize("tags", SCHEMES)
def test_a_scheme_is_told_by_its_tags(tags, caplog):
    tag_set = fit_tag_set(tags.split(), "train.conll")
    assert tag_set.scheme.name == SCHEMES[tags]
    assert set(tag_set.names) == {*tags.split(), "O"}
    assert not tag_set.read_as
    assert not caplog.text


OTHERWISE = {
    "0 B-ORG I-ORG": "O B-ORG I-ORG",
    "o B-ORG I-ORG": "O B-ORG I-ORG",
    "O B_ORG I_ORG": "O B-ORG I-ORG",
    "0 B_ORG_NAME": "O B-ORG_NAME",
    "O B:ORG I:ORG": "O B-ORG I-ORG",
    "O B/ORG I/ORG": "O B-ORG I-ORG",
    "O ORG-B ORG-I": "O B-ORG I-ORG",
    "O PER_B PER_M PER_E ORG_S": "O B-PER M-PER E-PER S-ORG",
    "o b-org i-org": "O B-org I-org",
    "o b i": "O B I",
    "0 org_b org_i": "O B-org I-org",
}


@pytest.mark.parametrize("tags", OTHERWISE)
def test_other_spellings_are_read_and_said_once(tags, caplog):
    tag_set = fit_tag_set(tags.split(), "train.conll")
    expected = OTHERWISE[tags].split()
    assert [tag_set.read_as.get(tag, tag) for tag in tags.split()] == expected
    assert set(tag_set.names) == set(expected)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("train.conll: the tag '")


PLAIN = (
    "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X",
    "O PER ORG",
    "CC CD -LRB- -RRB- PRP$ # $ , . : '' ``",
    "NP VP S-ADV S-BAR PP",  # a function, not a single word
    "AD AS BA CC CD CS DEC DEG M MSP NN NR NT OD P PN PU SB LB VA VC VE VV",  # Chinese Treebank
    "$, $. $( ADJA ADV APPR ART NN NE VVFIN",  # STTS
    "n v a d b e i l m o s u p r w",  # PKU
    "N--------- S----2MS3- I--------- VIIA-3MS--",  # Prague's positions
    "0 1 2",
    "B I NOUN VERB",
    "MALE FEMALE",
    "I_D O E_MAIL PHONE",
    "E_MAIL O S_NO",
)


@pytest.mark.parametrize("tags", PLAIN)
def test_tags_without_a_scheme_stay_as_they_are(tags, caplog):
    tag_set = fit_tag_set(tags.split(), "train.conll")
    assert tag_set.scheme is None
    assert tag_set.names == tuple(sorted(tags.split()))
    assert not tag_set.read_as
    assert len(caplog.messages) == 1
    assert "each word's tag counts by itself" in caplog.text


UNCLEAR = {
    "O NN VB B-PER": r"some tags have the prefix of a scheme \('B-PER'\), others have none \('NN', 'VB'\): correct them, "
    "or set data.tag_scheme to plain.*",
    "O B-PER I-PER PER": r".*others have none \('PER'\).*",
    "O B_PER I_PER B-ORG": r".*the prefix of a scheme \('B-ORG'\), others have none \('B_PER', 'I_PER'\).*",
    "B_PER I_PER LOC": r".*the prefix of a scheme \('B_PER', 'I_PER'\), others have none \('LOC'\).*",
    "B-A I-A M-A E-A": r"the tags mix schemes \('M-A' are not BIOES\).*",
    "B I M U": r"the tags mix schemes.*",
    "B-PER I-PER O 0": r"both 'O' and '0' are tags: .* data\.tag_scheme to plain.*",
    "PER LOC O 0": r"both 'O' and '0' are tags: .*",
    "B- O": r"'B-' lack a label after the letter.*",
    "S M": r"the tags 'M', 'S' can be plain, or of a scheme.*data\.tag_scheme to plain or to the scheme",
    "S-ADV S-BAR": r"the tags 'S-ADV', 'S-BAR' can be plain.*",
    "O": r"every tag is 'O': at least one word must be marked",
    "NN": r"every word has the tag 'NN': at least two are needed.*",
    "B_x_B I_x_B": r"the tag 'B_x_B' can be read as 'B-x_B' and as 'B-B_x'.*",
}


@pytest.mark.parametrize("tags", UNCLEAR)
def test_two_readings_stop(tags):
    with pytest.raises(UserError, match="train.conll: " + UNCLEAR[tags]):
        fit_tag_set(tags.split(), "train.conll")


def test_the_setting_decides(caplog):
    for tags in ("O NN VB B-PER", "B-PER O 0", "S M", "B- O", "B-A I-A"):
        tag_set = fit_tag_set(tags.split(), "a", "plain")
        assert tag_set == (tag_set.__class__)(tuple(sorted(tags.split())), None)
    assert fit_tag_set(["S", "M"], "a", "BMES").scheme.name == "BMES"
    assert fit_tag_set(["S-A", "B-A"], "a", "BMES").scheme.name == "BMES"
    assert not caplog.messages
    with pytest.raises(UserError, match=r"a: tags that are not of data\.tag_scheme BIO \('E-A'\): correct them"):
        fit_tag_set(["B-A", "E-A"], "a", "BIO")


def test_another_source_is_read_by_the_tags_of_training(caplog):
    names = ("O", "B-ORG", "I-ORG", "B-LOC")
    assert spell_as(["B-ORG", "O"], names, "dev") == {}
    assert not caplog.messages
    assert spell_as(["I_ORG", "0"], names, "dev") == {"I_ORG": "I-ORG", "0": "O"}
    assert spell_as(["0"], names, "dev") == {"0": "O"}
    assert spell_as(["0", "1", "3"], names, "dev") == {"0": "O", "1": "B-ORG", "2": "I-ORG", "3": "B-LOC"}
    assert len(caplog.messages) == 3
    # What the training tags do not have is left as it is, all of it, so that the message names it.
    for tags in (["B_ORG", "B_FOO"], ["O", "0"], ["4", "0"], ["b-org", "B-ORG"], ["b-foo", "o"]):
        assert spell_as(tags, names, "dev") == {}
    assert spell_as(["B_ORG", "NOUN"], ("NOUN", "VERB"), "dev") == {}
    assert spell_as(["noun", "ＶＥＲＢ"], ("NOUN", "VERB"), "dev") == {"noun": "NOUN", "ＶＥＲＢ": "VERB"}
    assert spell_as(["b-org", "o"], names, "dev") == {"b-org": "B-ORG", "o": "O"}


def test_models_made_elsewhere(caplog):
    assert reopen_tag_set(["DET", "NOUN", "VERB"], None).names == ("DET", "NOUN", "VERB")
    assert reopen_tag_set(["DET", "NOUN", "VERB"], None).scheme is None
    assert reopen_tag_set(["O", "B-X", "I-X"], None).names == ("O", "B-X", "I-X")
    assert reopen_tag_set(["I-X", "B-X"], None).names == ("I-X", "B-X")
    other = reopen_tag_set(["0", "I_X", "B_X"], None)
    assert (other.names, other.scheme.name) == (("O", "I-X", "B-X"), "BIO")
    special = reopen_tag_set(["[PAD]", "B-X", "I-X", "O", "X", "[CLS]"], None)
    assert (special.names[-2:], special.scheme.name) == (("X", "[CLS]"), "BIO")
    assert reopen_tag_set(["B-A", "O", "NN"], "plain").scheme is None
    assert reopen_tag_set(["S", "M"], "BMES").scheme.name == "BMES"
    with pytest.raises(UserError, match="the model's id2label: some tags have the prefix"):
        reopen_tag_set(["O", "B-A", "NN"], None)


def test_what_looks_like_a_scheme():
    assert looks_like_scheme(["B-NP", "I-NP", "O"])
    assert looks_like_scheme(["I_NP", "B_NP", "0"])
    assert not looks_like_scheme(["NOUN", "B-NP"])
    assert not looks_like_scheme(["O"])
    assert not looks_like_scheme(["_", "-"])


def test_blanks_and_invisible_characters_at_the_ends_are_no_part_of_a_tag():
    assert clean_tag("\ufeffB-PER\u00a0 \u200b") == "B-PER"
    assert clean_tag("B-a b") == "B-a b"
    assert clean_tag(" \u200b") == ""
