"""Which lines that begin with `#` are comments, in files with a token on each line, and which are tokens.

It is decided for a file as a whole, from the lines that are surely tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxbert.data.table import at_row, shorten
from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.tag_sets import looks_like_scheme

_NAMED = re.compile(r"#+[ \t]+((sent_id|text|newdoc|newpar|id)\b|[\w.:-]+[ \t]*=)|#.*[ \t]\w+=\S*$")
"""Comments with a name or a value, as CoNLL-U and MultiCoNER write them."""


class Line(NamedTuple):
    """A line that is not blank, and its row."""

    row: int
    text: str

    @property
    def remark(self) -> bool:
        """Whether it may be a comment."""
        return self.text.startswith("#")


def find_remarks(
    blocks: Sequence[Sequence[Line]],
    tag_of: Callable[[Line], str | None],
    width: int,
    known: set[str],
    source: str,
    setting: str,
) -> set[int]:
    """Return the rows of comments.

    Args:
      blocks: all lines of a file, by sentence.
      tag_of: returns what a line would have for a tag, were it a token; None for a line without all columns.
      width: how many columns there are.
      known: the tags of the lines that are surely tokens.
      source: for messages.
      setting: `data.comment_lines`.

    Raises:
      UserError: where two readings are possible.
    """
    if setting != "auto":
        return {line.row for block in blocks for line in block if line.remark and setting == "skip"}
    passed: set[int] = set()
    strange: dict[str, list[Line]] = {}
    within: set[str] = set()
    for block in blocks:
        begun = False
        for line in block:
            tag = tag_of(line) if line.remark else None
            if not line.remark or tag in known:
                begun = True
            elif tag is not None:
                strange.setdefault(tag, []).append(line)
                within |= {tag} if begun else set()  # comments stand before a sentence
            elif _NAMED.match(line.text) or not (begun or _is_broken(line, width, known)):
                passed.add(line.row)
            else:
                raise _unclear(line, source)
    for tag, lines in strange.items():
        if tag not in within and _are_comments(tag, lines, known, source):
            passed.update(line.row for line in lines)
    return passed


def _is_broken(line: Line, width: int, known: set[str]) -> bool:
    """Tell a token whose columns are separated otherwise than those of the file."""
    parts = line.text.split()
    return len(parts) == width > 1 and parts[-1] in known


def _are_comments(tag: str, lines: Sequence[Line], known: set[str], source: str) -> bool:
    """Tell what lines are that have all columns, stand before sentences, and whose tag no other line has."""
    if looks_like_scheme(known | {tag}):
        return False
    named = all(_NAMED.match(line.text) for line in lines) and not any("=" in other for other in known)
    if named or looks_like_scheme(known):
        return True
    raise _unclear(lines[0], source)


def _unclear(line: Line, source: str) -> UserError:
    return UserError(
        f"{at_row(source, line.row)}: {shorten(line.text)!r} can be a comment or a token: set data.comment_lines to "
        "skip, which passes over all lines that begin with #, or to tokens"
    )
