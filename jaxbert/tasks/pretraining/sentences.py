"""Cut a line of text into sentences, in English and Chinese.

A sentence ends

- after `。！？…；` or the half-width form `｡`, and closing quotation marks or brackets that follow;
- after `.`, `!` or `?`, and closing quotation marks or brackets that follow, if white space comes next and then the start of
  a sentence (a capital, a digit, an opening quotation mark or bracket, a Chinese character). A full stop after a single
  capital (an initial) or one of a few abbreviations does not end a sentence.

Only white space between sentences is left out. The rules are approximate: a mistake makes a sentence longer or shorter, but
no token is lost.
"""

from __future__ import annotations

import re

_CLOSING = "\"'”’」』）)\\]】》"
_OPENING = "\"'“‘「『（(\\[【《"
_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
_END = re.compile(
    rf"[。！？｡…；]+[{_CLOSING}]*\s*"  # Chinese: no space needs to follow
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
    """Return the sentences of a line, stripped; at least one if the line is not blank."""
    sentences, begin = [], 0
    for end in _END.finditer(line):
        if end[0][0] == "." and end[0].rstrip() == "." and _is_abbreviation(line, end.start()):
            continue
        sentences.append(line[begin : end.end()].strip())
        begin = end.end()
    sentences.append(line[begin:].strip())
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(line: str, stop: int) -> bool:
    """Return whether the full stop at `stop` belongs to the word before it."""
    before = _LETTERS_BEFORE.search(line, max(0, stop - 12), stop)
    if before is None:
        return False
    word = before[0]
    return (len(word) == 1 and word.isupper()) or word.lower() in _ABBREVIATIONS
