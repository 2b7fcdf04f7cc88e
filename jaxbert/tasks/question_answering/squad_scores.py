"""Compute exact match and F1 between answers, as in SQuAD's evaluation.

English is lower-cased and loses punctuation and articles; then words are compared. Chinese is compared by characters, and by
the words of other scripts between them, without punctuation of any script, as in XQuAD and MLQA (CMRC's own script counts
the longest common substring instead of all common characters).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_CHINESE = 0.2
"""The least share of Han characters among the letters of a Chinese text."""


def has_chinese(text: str) -> bool:
    """Return whether a text is written in Chinese."""
    han = len(_HAN.findall(text))
    return han > _CHINESE * max(1, sum(character.isalpha() for character in text))


def parts(answer: str, chinese: bool) -> list[str]:
    """Return the words, or Chinese characters, of an answer for the comparison."""
    lowered = answer.lower()
    if not chinese:
        kept = "".join(character for character in lowered if character not in string.punctuation)
        return _ARTICLES.sub(" ", kept).split()
    kept = "".join(character for character in lowered if not _is_punctuation(character))
    return _HAN.sub(lambda match: f" {match.group()} ", kept).split()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def exact_and_f1(answer: str, expected: Sequence[str], chinese: bool) -> tuple[float, float]:
    """Return exact match and F1, each the best over the expected answers; "" stands for no answer."""
    found = parts(answer, chinese)
    wanted = [gold for text in expected if (gold := parts(text, chinese))] or [[]]
    return max(float(found == gold) for gold in wanted), max(_f1(found, gold) for gold in wanted)


def _f1(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold))
