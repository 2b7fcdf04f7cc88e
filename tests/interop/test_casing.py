"""The letters of a vocabulary say how texts are read."""

from __future__ import annotations

import pytest

from jaxbert.interop.tokenizer import casing_of, read_vocabulary
from jaxbert.models.families import DEFAULT

WORDS = tuple(f"w{i}" for i in range(3000))


@pytest.mark.parametrize(
    ("tokens", "lower_case", "strip_accents"),
    [
        ((*DEFAULT.special_tokens.values(), "<S>", "##Er", *WORDS), True, None),
        ((*WORDS, "COVID"), True, None),
        ((*WORDS, *map(chr, range(65, 91))), None, None),
        ((*WORDS, *(f"W{i}" for i in range(70))), False, None),
        (("A", "C", "G", "T"), False, None),
        (("ein", "über", "ärger"), True, False),
        (("가", "나"), True, False),
        (("Über", "über"), False, None),
        (("1", "中"), True, None),
    ],
)
def test_letters_say_how_texts_are_read(tokens, lower_case, strip_accents):
    casing = casing_of(tokens, "##")
    assert (casing.lower_case, casing.strip_accents) == (lower_case, strip_accents)


@pytest.mark.parametrize(
    ("name", "lower_case"), [("uncased", True), ("cased", False), ("chinese", True), ("multilingual-cased", False)]
)
def test_real_vocabularies_say_what_they_are(shared_data, name, lower_case):
    tokens = read_vocabulary(shared_data / "vocab" / f"bert-base-{name}-vocab.txt").tokens
    casing = casing_of(tokens, "##")
    assert (casing.lower_case, casing.strip_accents) == (lower_case, None)
