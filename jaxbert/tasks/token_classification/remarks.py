"""Decide which lines with `#` at their start are comments and which are tokens, in files with a token on each line.

The decision is made for a complete file, from the lines that are surely tokens. `lines` reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxbert.data.table import at_row
from jaxbert.errors import UserError, shorten
from jaxbert.tasks.token_classification.tag_sets import looks_like_scheme

_NAMED = re.compile(r"#+[ \t]+((sent_id|text|newdoc|newpar|id)\b|[\w.:-]+[ \t]*=)|#.*[ \t]\w+=\S*$")
"""Comments with a name or a value, as in CoNLL-U and MultiCoNER."""


class Line(NamedTuple):
    """A line that is not blank, with its number, from 1."""

    row: int
    text: str

    @property
    def remark(self) -> bool:
        """Whether the line may be a comment."""
        return self.text.startswith("#")


def find_remarks(
    blocks: Sequence[Sequence[Line]],
    tag_of: Callable[[Line], str | None],
    width: int,
    known: set[str],
    source: str,
    setting: str,
) -> set[int]:
    """Return the line numbers of comments.

    Args:
      blocks: all lines of a file, by sentence.
      tag_of: returns the tag of a line if it is a token; None for a line without all columns.
      width: the number of columns.
      known: the tags of the lines that are surely tokens.
      source: the name of the file in messages.
      setting: `data.comment_lines`.

    Raises:
      UserError: if a line may be a comment or a token.
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
                within |= {tag} if begun else set()  # comments come before a sentence
            elif _NAMED.match(line.text) or not (begun or _is_broken(line, width, known)):
                passed.add(line.row)
            else:
                raise _unclear(line, source)
    for tag, lines in strange.items():
        if tag not in within and _are_comments(tag, lines, known, source):
            passed.update(line.row for line in lines)
    return passed


def _is_broken(line: Line, width: int, known: set[str]) -> bool:
    """Return whether a line is a token with another separator than the rest of the file."""
    parts = line.text.split()
    return len(parts) == width > 1 and parts[-1] in known


def _are_comments(tag: str, lines: Sequence[Line], known: set[str], source: str) -> bool:
    """Return whether lines are comments that have all columns, come before sentences, and have a tag of no other line."""
    if looks_like_scheme(known | {tag}):
        return False
    named = all(_NAMED.match(line.text) for line in lines) and not any("=" in other for other in known)
    if named or looks_like_scheme(known):
        return True
    raise _unclear(lines[0], source)


def _unclear(line: Line, source: str) -> UserError:
    return UserError(
        f"{at_row(source, line.row)}: {shorten(line.text)!r} can be a comment or a token: set data.comment_lines to "
        "skip, which skips all lines that begin with #, or to tokens"
    )
