"""Similar texts are grouped, in any language; other texts are not."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from jaxbert.understand import near_duplicates
from jaxbert.understand.near_duplicates import find_similar, normalized, similarity

ENGLISH = [
    "The plot is thin, but the actors are a joy to watch from beginning to end.",
    "the plot is thin but the actors are a joy to watch, from beginning to end!",
    "The plot is thin, but the actress is a joy to watch from beginning to end.",
    "An unforgettable evening with a cast that could not be any better than this.",
    "A cast that could not be any better.",
]
CHINESE = [
    "国务院发布关于促进房地产市场平稳健康发展的通知",
    "国务院发布关于促进房地产市场平稳健康发展的公告",
    "国务院发布:关于促进房地产市场平稳健康发展的通知。",
    "教育部公布今年高考报名人数再创历史新高",
    "国务院发布通知",
]


@pytest.mark.parametrize(("texts", "groups"), [(ENGLISH, [[0, 1, 2]]), (CHINESE, [[0, 1, 2]])], ids=["en", "zh"])
def test_similar_texts_are_one_group(texts, groups):
    found = find_similar(texts)
    assert [members.tolist() for members in found.groups()] == groups
    assert found.sharing(np.array([0, 0, 0, 1, 1])) == []
    assert [members.tolist() for members in found.sharing(np.array([0, 1, 0, 1, 1]))] == groups


def test_case_width_and_punctuation_do_not_count():
    assert normalized("  Ｆｉｎｅ，film!! ") == "fine film"
    assert normalized("!?") == "!?"
    assert normalized(" " * 5000 + "fine") == "fine"
    assert normalized("हिन्दी") == "हिन्दी"  # its marks are no punctuation
    assert find_similar(["fine", "Fine!", "!?", "?!", "\u200b"]).group.tolist() == [0, 0, 2, 3, 4]
    assert find_similar(["fine", "", " ", "film"]).group.tolist() == [0, 1, 1, 3]


def test_similarity_is_the_share_of_common_shingles():
    assert similarity("abcdef", "abcdef") == 1
    assert similarity("甲乙丙丁", "甲乙丙戊") == pytest.approx(2 / 6)  # 甲乙, 乙丙; each text has 4 with its end
    assert similarity("one text", "quite another") < 0.1


def test_both_texts_of_a_pair_must_be_similar():
    premise = "A man in a blue shirt is standing on a ladder cleaning a window of a tall house."
    firsts, seconds = [premise] * 3, ["He works.", "He sleeps.", "he works"]
    assert find_similar(firsts, seconds).group.tolist() == [0, 1, 0]
    assert find_similar(firsts).group.tolist() == [0, 0, 0]


def test_equal_beginnings_of_long_texts():
    long = " ".join(f"word{i}" for i in range(2000))
    assert find_similar([long, long + " and an end"]).group.tolist() == [0, 0]


@pytest.mark.parametrize("block", [near_duplicates._BLOCK, 50], ids=["together", "in blocks"])
def test_every_planted_pair_is_found_and_nothing_else(block, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(800)]
    texts = [" ".join(rng.choices(words, k=rng.randint(12, 30))) for _ in range(400)]
    planted = [(i, len(texts) + place) for place, i in enumerate(range(0, 400, 20))]
    copies = [texts[i].replace(texts[i].split()[0], "changed", 1) for i, _ in planted]
    assert all(
        similarity(texts[i], copy) >= near_duplicates.SIMILAR for (i, _), copy in zip(planted, copies, strict=True)
    )
    found = {tuple(members.tolist()) for members in find_similar([*texts, *copies]).groups()}
    assert found == set(planted)


def test_texts_that_share_a_little_more_than_half_are_not_similar():
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(800)]
    texts = [rng.choices(words, k=16) for _ in range(30)]
    others = [" ".join([*text[:13], *rng.choices(words, k=3)]) for text in texts]
    pairs = list(zip((" ".join(text) for text in texts), others, strict=True))
    assert all(0.55 < similarity(*pair) < near_duplicates.SIMILAR for pair in pairs)
    assert find_similar([text for pair in pairs for text in pair]).groups() == []


@pytest.mark.long
def test_a_hundred_thousand_sentences_take_seconds():
    rng = random.Random(0)
    words = [f"{rng.randrange(10**6):x}" for _ in range(20_000)]
    texts = [" ".join(rng.choices(words, k=15)) for _ in range(100_000)]
    begin = time.process_time()
    assert len(find_similar([*texts, texts[5] + " again"]).groups()) == 1
    assert time.process_time() - begin < 60
