"""Texts with coloured words, for pages in light and dark.

A word's colour says for or against the label; a line below the word says the same to readers who do not see the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxbert.understand.report.page import Html, element, joined_html
from jaxbert.understand.words import Text

_FAINTEST = 0.04
"""The smallest share of the largest weight of a text that is coloured."""


def coloured_texts(texts: Iterable[Text], words: Iterable[Mapping[str, Any]]) -> list[Html]:
    """Return the texts of an input with a span around each word that has a weight worth a colour.

    Args:
      texts: a text, or the two texts of a pair; lists of words are joined.
      words: the words of an explained answer, with `start`, `end`, `weight`, and of a pair `pair`.
    """
    found = sorted(words, key=lambda word: word["start"])
    largest = max((abs(word["weight"]) for word in found), default=0.0)
    return [
        _coloured(text, [word for word in found if word.get("pair", 0) == which], largest)
        for which, text in enumerate(texts)
    ]


def coloured_word(word: str, share: float, title: str | None = None) -> Html:
    """Return a word in the colour of its weight, as a share of the largest one: from -1, against, to 1, for."""
    return element("span", word, kind="w f" if share > 0 else "w g", style=f"--a: {abs(share):.2f}", title=title)


def _coloured(text: Text, words: list[Mapping[str, Any]], largest: float) -> Html:
    if isinstance(text, list):
        weights = {word["start"]: word["weight"] for word in words}
        shown = [_span(part, weights.get(place, 0.0), largest) for place, part in enumerate(text)]
        return joined_html(part for place, word in enumerate(shown) for part in ((" ", word) if place else (word,)))
    parts: list[object] = []
    end = 0
    for word in words:
        parts += [text[end : word["start"]], _span(text[word["start"] : word["end"]], word["weight"], largest)]
        end = word["end"]
    return joined_html([*parts, text[end:]])


def _span(word: str, weight: float, largest: float) -> object:
    share = weight / largest if largest else 0.0
    return coloured_word(word, share, f"{weight:+.4g}") if abs(share) >= _FAINTEST else word
