"""A vocabulary file, one token a line: the place of a line is its token's id, and its letters say how texts are read.

A tokenizer that changes a letter never finds the tokens that have it. So a vocabulary whose words have capitals was made
for texts that keep them, and one whose words have accents for texts that keep those.
"""

from __future__ import annotations

import codecs
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxbert.errors import UserError
from jaxbert.plain import read_bytes, shown

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MOST_BYTES = 32 * 2**20
_NO_WORD = re.compile(r"\[.+\]|<.+>|##.*", re.DOTALL)
_CASED_SHARE = 0.02
"""Share of the words with letters from which capitals are no accident; 0.33 to 0.38 in BERT's cased vocabularies."""
_STRAY_SHARE = 0.0005
"""Share below which they are: ten tokens of one's own in BERT's 30,522."""
_ACCENTED_SHARE = 0.001
_EXAMPLES = 3

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file."""

    name: str
    """As messages call the file."""
    tokens: tuple[str, ...]
    """By id, without white space around them; empty for a line that has nothing else."""

    def repeated(self) -> dict[str, list[int]]:
        """Return the tokens that several lines hold, with these lines counted from 1."""
        if len(set(self.tokens)) == len(self.tokens):
            return {}
        lines: dict[str, list[int]] = {}
        for line, token in enumerate(self.tokens, 1):
            lines.setdefault(token, []).append(line)
        return {token: places for token, places in lines.items() if token and len(places) > 1}

    def ids(self) -> dict[str, int]:
        """Return the id of each token, of a repeated one the last.

        A line without a token of its own keeps its id, under a name that no text can have.
        """
        last = {token: index for index, token in enumerate(self.tokens)}
        return {
            token if token and last[token] == index else f"[unused-line-{index + 1}]": index
            for index, token in enumerate(self.tokens)
        }

    def check_special(self, wanted: Iterable[str] = SPECIAL_TOKENS) -> None:
        """Check that the special tokens are there.

        Raises:
          UserError: naming those that are not.
        """
        missing = [token for token in wanted if token not in self.tokens]
        if missing:
            line, first = next(((i, shown(t)) for i, t in enumerate(self.tokens, 1) if t), (1, "empty"))
            raise UserError(
                f"{self.name} lacks {', '.join(missing)} (line {line} is {first}): give a BERT vocabulary, one token a line"
            )

    def warn_of_repeated(self) -> None:
        """Say which tokens stand twice."""
        repeated = self.repeated()
        if repeated:
            logger.warning("%s holds %s twice: the last line gives the id", self.name, _places(repeated))

    def refuse_repeated(self) -> None:
        """Check that no token stands twice, as only a mistake can make it in a new model's vocabulary.

        Raises:
          UserError: naming the lines.
        """
        repeated = self.repeated()
        if repeated:
            raise UserError(f"{self.name} holds a token twice, {_places(repeated)}: remove one of the lines")


def _places(repeated: dict[str, list[int]]) -> str:
    named = [f"{shown(t)} in lines {' and '.join(map(str, p))}" for t, p in list(repeated.items())[:_EXAMPLES]]
    return ", ".join(named) + (f" and {len(repeated) - _EXAMPLES} others" if len(repeated) > _EXAMPLES else "")


def read_vocabulary(path: Path, name: str | None = None) -> Vocabulary:
    r"""Read a file of tokens; a line ends with `\n`, `\r\n` or, in a file without `\n`, `\r`.

    Other characters at which Python ends a line are tokens of BERT's Chinese vocabulary. A byte-order mark, and blank lines
    at the end, are left out.

    Raises:
      UserError: if it cannot be read as text.
    """
    name = name or str(path)
    try:
        text = _decoded(read_bytes(path, _MOST_BYTES), name)
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = text.split("\n") if "\n" in text else text.split("\r")
    tokens = [line.strip() for line in lines]
    while tokens and not tokens[-1]:
        tokens.pop()
    return Vocabulary(name, tuple(tokens))


def _decoded(content: bytes, name: str) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding, content = "utf-8", content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{name} cannot be read as UTF-8 text: line {line} has the byte 0x{content[error.start]:02x}: save it as UTF-8"
        ) from error


@dataclass(frozen=True)
class Casing:
    """How a vocabulary wants texts to be read."""

    lower_case: bool | None
    """None: it has capitals, but so few that they may be a few tokens of somebody's own."""
    strip_accents: bool | None
    """False where its tokens have accents though they have no capitals; None: as `lower_case` says."""
    why: str
    capitals: int
    """Words with capitals."""
    letters: int
    """Words with letters that have a case."""


def casing_of(tokens: Collection[str]) -> Casing:
    """Say how a vocabulary wants texts to be read; special tokens count for nothing, and pieces neither."""
    words = [token for token in tokens if token and not _NO_WORD.fullmatch(token)]
    capitals = [word for word in words if word != word.lower()]
    letters = len(capitals) + sum(word == word.lower() != word.upper() for word in words)
    share = len(capitals) / max(letters, 1)
    why = f"{len(capitals):,} of {letters:,} words in it have capitals" if capitals else "no word in it has capitals"
    if share >= _CASED_SHARE:
        return Casing(False, None, why, len(capitals), letters)
    if capitals:
        why += f" ({', '.join(map(shown, capitals[:_EXAMPLES]))})"
    accented = sum(word != _without_accents(word) for word in words)
    kept = False if accented > _ACCENTED_SHARE * len(words) else None
    if kept is False:
        why += f", {accented:,} have accents"
    return Casing(True if share < _STRAY_SHARE else None, kept, why, len(capitals), letters)


def _without_accents(text: str) -> str:
    """Return a text as BERT's tokenizer makes it where it strips accents: decomposed, without combining marks."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
