"""The texts of a source as they were before the tokenizer cut them: where each stands, which are alike, and what was lost.

Kept with the tokens, so that a start from the cache knows them too. What is made of it is `overview`'s part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from jaxbert.data.facts import Facts
from jaxbert.data.table import Place, Row, Table, at_row

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, eq=False)
class Seen:
    """The D texts, or pairs of texts, of a source."""

    lengths: np.ndarray
    """int32 [D]: tokens of each before it was cut, special tokens included."""
    hashes: np.ndarray
    """uint64 [D]: equal where texts are equal, blanks at their ends aside."""
    rows: np.ndarray
    """int32 [D]: where each stands, as a user counts."""
    origins: tuple[tuple[int, str], ...]
    """The files of the source: the first text of each, and its name."""
    facts: Facts
    lossy: int = 0
    """Texts of which the tokenizer drops a character that is no blank."""
    unknown: int = 0
    """Tokens that the vocabulary does not have."""

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, indices: np.ndarray) -> Seen:
        """Return some texts, of a source of one file or several; what counts for the source as a whole stays."""
        names = [name for _, name in self.origins]
        origin = np.searchsorted([first for first, _ in self.origins], indices, side="right") - 1
        changes = np.flatnonzero(np.diff(origin, prepend=-1))
        origins = tuple((int(at), names[origin[at]]) for at in changes)
        taken = {name: getattr(self, name)[indices] for name in ("lengths", "hashes", "rows")}
        return dataclasses.replace(self, origins=origins, **taken)

    def place(self, index: int) -> int | str:
        """Return the row of a text, with the name of its file where there are several."""
        if len(self.origins) == 1:
            return int(self.rows[index])
        names = [name for first, name in self.origins if first <= index]
        return at_row(names[-1], int(self.rows[index]))


class Watcher:
    """Look at the texts of a source part by part."""

    def __init__(self, tokenizer: Any) -> None:
        self.origins: list[tuple[int, str]] = []
        self.facts = Facts()
        self.lossy = 0
        self._count = 0
        self._dropped: dict[str, bool] = {}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._normalizer: Any = getattr(backend, "normalizer", None)

    def add(self, part: Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the hash and the row of each text of a part, uint64 and int32."""
        self._add_origin(0, part.source)
        self._count += len(part)
        self.facts = part.facts
        self.lossy += self._count_lossy(part.texts) + self._count_lossy(part.pairs or ())
        return hash_texts(part.texts, part.pairs), np.fromiter(part.rows, np.int32, len(part))

    def place_rows(self, rows: Sequence[Row], source: str) -> np.ndarray:
        """Note where some items stand; return their rows, int32, without the files."""
        for index, row in enumerate(rows):
            self._add_origin(index, row.file if isinstance(row, Place) else source)
        self._count += len(rows)
        return np.fromiter((row.row if isinstance(row, Place) else int(row) for row in rows), np.int32, len(rows))

    def _add_origin(self, index: int, file: str) -> None:
        """Note the file of the text `index` of this part."""
        if not self.origins or self.origins[-1][1] != file:
            self.origins.append((self._count + index, file))

    def _count_lossy(self, texts: Iterable[str]) -> int:
        if self._normalizer is None:
            return 0
        return sum(1 for text in texts if not text.isprintable() or _REPLACEMENT in text if self._loses(text))

    def _loses(self, text: str) -> bool:
        """Say whether the tokenizer drops a character of a text."""
        odd = {c for c in text if (not c.isprintable() or c == _REPLACEMENT) and not c.isspace()}
        return any(self._drops(character) for character in odd)

    def _drops(self, character: str) -> bool:
        if character not in self._dropped:
            self._dropped[character] = not self._normalizer.normalize_str(f"a{character}a").strip("a")
        return self._dropped[character]


def hash_texts(texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    """Return a hash of each text, or pair of texts, uint64."""
    digest = xxhash.xxh3_64_intdigest
    whole = texts if pairs is None else [f"{a.strip()}\0{b}" for a, b in zip(texts, pairs, strict=True)]
    # A lone surrogate is no text that UTF-8 can write, but a text it is.
    encoded = (text.strip().encode("utf-8", "surrogatepass") for text in whole)
    return np.fromiter((digest(text) for text in encoded), np.uint64, len(texts))


def hash_rows(values: Collection[np.ndarray]) -> np.ndarray:
    """Return a hash of each of some arrays, or rows of a matrix, uint64."""
    return np.fromiter((xxhash.xxh3_64_intdigest(row.tobytes()) for row in values), np.uint64, len(values))
