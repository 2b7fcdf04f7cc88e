"""Guess the encoding of bytes that are not in the expected one, for a message that names it."""

from __future__ import annotations

import re

_HANZI = (  # simplified and traditional: an encoding has only those of one kind
    "的一是不了在人有我他中上大地到以就出可也你生能而子那得自年用道行所家事成方多去如都同面起看定天分好小心想很物品"
    "这个们来为和国说时要会对于着下过发后作里然么没还进样买质量從這個們來為國說時會對於著過發後裡麼沒還進樣買質"
)
_COMMON = {
    "shift_jis": "[\u3041-\u30fe]",
    "euc_jp": "[\u3041-\u30fe]",
    "gbk": f"[{_HANZI}]",
    "big5": f"[{_HANZI}]",
    "euc_kr": "[이다는가을를에의도하고지어기사아한서나라리로그자시대은들있인만요해보정었마스수일게여전장부]",
    "cp1251": "[а-яё]",
    "koi8_r": "[а-яё]",
    "cp1252": "[ß-öø-ÿœšž‘-”–—…€´]",
}
"""Characters that are common in texts of each encoding."""
_IDEOGRAPHS = ("gbk", "big5", "euc_kr")
_IMPLAUSIBLE = {
    "cp1251": re.compile("[a-z][а-яё]|[а-яё][a-z]"),
    "koi8_r": re.compile("[a-z][а-яё]|[а-яё][a-z]"),
    "cp1252": re.compile("[^\\W0-9_a-zA-Z]{4}"),
}
"""Rare patterns: Latin letters inside Russian words, Western European words of only accented letters."""


def likely_encoding(sample: bytes) -> str | None:
    """Return the likely encoding of bytes, None if none fits."""
    if 0 in sample:
        return _wide(sample)
    scores = {name: _score(sample, name) for name in _COMMON}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] else None


def _wide(sample: bytes) -> str | None:
    """Return UTF-16 or UTF-32 with its byte order, by the positions of the zero bytes of ASCII characters."""
    zeros = [2 * sample[place::4].count(0) > len(sample[place::4]) for place in range(4)]
    if all(zeros):
        return None
    if zeros[1] and zeros[2]:
        return "utf-32-le" if zeros[3] else "utf-32-be"
    odd, even = sample[1::2].count(0), sample[::2].count(0)
    return "utf-16-le" if odd > even else "utf-16-be"


def _score(sample: bytes, name: str) -> float:
    """Return how well bytes fit an encoding; 0 if they do not."""
    try:
        text = sample.decode(name)
    except UnicodeDecodeError:
        return 0.0
    if name in _IMPLAUSIBLE and _IMPLAUSIBLE[name].search(text):
        return 0.0
    characters = [c for c in text if not c.isascii()]
    if name in ("cp1251", "koi8_r") and not re.search("[а-яё]{2}", text):
        return 0.0
    common = sum(re.match(_COMMON[name], c) is not None for c in characters) / max(len(characters), 1)
    if name in _IDEOGRAPHS:  # some thousand characters; rare ones mean another encoding
        plain = all(c.encode(name)[0] < 0xD8 and c.encode(name)[1] >= 0x40 for c in characters if c.isalpha())
        return 0.5 + common if common or plain else 0.0
    return common if common >= (0.3 if name.endswith("jis") or name == "euc_jp" else 0.8) else 0.0
