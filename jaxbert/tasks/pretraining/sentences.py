"""Cut a line of text into sentences, in English and Chinese.

A sentence ends

- behind `。！？…；` or their half-width forms `｡`, and what closes a quotation or bracket there, wherever that is;
- behind `.`, `!` or `?` and what closes a quotation or bracket there, where white space follows and then something that
  begins a sentence (a capital, a digit, an opening quotation or bracket, a Chinese character). A full stop behind a
  single capital (an initial) or one of a few abbreviations ends none.

Nothing is left out but the white space between sentences. It is a rule of thumb: what it gets wrong makes a sentence
longer or shorter, and no token is lost.
"""

from __future__ import annotations

import re

_CLOSING = "\"'”’」』）)\\]】》"
_OPENING = "\"'“‘「『（(\\[【《"
_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
_END = re.compile(
    rf"[。！？｡…；]+[{_CLOSING}]*\s*"  # Chinese: no space is needed behind it
    rf"|[.!?]+(?:\s?[{_CLOSING}](?=\s))*\s+(?=[{_OPENING}]?\s?[^\W_a-z]|[{_OPENING}{_CHINESE}])"
)
_LETTERS_BEFORE = re.compile(r"[^\W\d_](?:[\w.]*\w)?$")
_ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "rev", "gen", "col", "lt", "sgt", "capt", "gov", "sen", "rep", "st", "jr", "sr"}
    | {"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"}
    | {"fig", "figs", "no", "nos", "vol", "pp", "ed", "eds", "vs", "etc", "cf", "al", "approx", "est", "e.g", "i.e"}
    | {"inc", "ltd", "co", "corp", "dept", "a.m", "p.m", "u.s", "u.k"}
)


def split_sentences(line: str) -> list[str]:
    """Return the sentences of a line, stripped; there is at least one where the line is not blank."""
    sentences, begin = [], 0
    for end in _END.finditer(line):
        if end[0][0] == "." and end[0].rstrip() == "." and _is_abbreviation(line, end.start()):
            continue
        sentences.append(line[begin : end.end()].strip())
        begin = end.end()
    sentences.append(line[begin:].strip())
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(line: str, stop: int) -> bool:
    """Say whether the full stop at `stop` belongs to the word before it."""
    before = _LETTERS_BEFORE.search(line, max(0, stop - 12), stop)
    if before is None:
        return False
    word = before[0]
    return (len(word) == 1 and word.isupper()) or word.lower() in _ABBREVIATIONS
