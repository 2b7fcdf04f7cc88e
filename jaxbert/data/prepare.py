"""From a source to tokens and labels: taken from the cache, or read and tokenized part by part.

At no time is more than a part of the texts in memory; the tokens go to files and are mapped from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.data import cache
from jaxbert.data.label_kinds import make_label_column
from jaxbert.data.long_texts import LongTexts
from jaxbert.data.seen import Watcher
from jaxbert.data.share import Share
from jaxbert.data.sources import Source
from jaxbert.data.store import Stored, Writer
from jaxbert.data.table import Table
from jaxbert.data.tokens import Encoded, encode_texts, forget_lengths, joined
from jaxbert.errors import foreign_errors

_CHARACTERS = 2**20
"""About how much text is tokenized at once: the tokenizer's own result takes some hundred bytes a token."""

logger = logging.getLogger("jaxbert")


def prepare(
    source: Source,
    tokenizer: Any,
    max_length: int,
    *,
    folder: Path | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    share: Share = Share(),  # noqa: B008 (frozen)
    long_texts: LongTexts = LongTexts(),  # noqa: B008 (frozen)
) -> Stored:
    """Return a source's tokens and labels; texts above `max_length` are cut, and how many is said.

    Args:
      source: what is read, unless an earlier start has read the same in the same way.
      tokenizer: a transformers tokenizer.
      max_length: longest example in tokens, special tokens included.
      folder: where tokens are kept for the next start; None keeps none.
      on_rows: called with the number of rows that have been read since the last call.
      long_texts: what becomes of texts above `max_length`.
      share: what this process tokenizes; every process of the run reads the same source at the same time.

    Raises:
      UserError: for the first row that is malformed.
    """
    stored = cache.cached(
        source.name,
        lambda: cache.entry_name(source.identity(), tokenizer, max_length, long_texts),
        partial(_read, source, tokenizer, max_length, long_texts, on_rows, share),
        folder=folder,
        all_have=share.all_have,
    )
    forget_lengths(tokenizer)
    windows = len(stored.tokens) if stored.windows else 0
    texts = len(stored.windows.counts) if stored.windows else len(stored.tokens)
    say_cut(source.name, stored.cut, texts, windows, max_length)
    return stored


def say_cut(source: str, cut: int, texts: int, windows: int, max_length: int) -> None:
    """Say how many texts were cut, or became how many windows, if any was."""
    if cut:
        became = f"read in {windows:,} windows" if windows else "cut"
        message = "%s: %d of %d texts are longer than %d tokens and were %s"
        logger.warning(message, source, cut, texts, max_length, became)


def _read(
    source: Source,
    tokenizer: Any,
    max_length: int,
    long_texts: LongTexts,
    on_rows: Callable[[int], None],
    share: Share,
    folder: Path,
) -> None:
    """Read and tokenize a source into an empty folder."""
    labels, watcher = make_label_column(source.wanted, source.name), Watcher(tokenizer)
    unknown, unknown_id = 0, getattr(tokenizer, "unk_token_id", None)
    with Writer(folder) as writer:
        for part in source.parts():
            codes = labels.add(part)
            if codes is not None:
                writer.add_labels(codes)
            writer.add_rows(*watcher.add(part))
            for encoded in _encode_shared(part, tokenizer, max_length, long_texts, share):
                writer.add(encoded)
                unknown += 0 if unknown_id is None else int(np.count_nonzero(encoded.ids == unknown_id))
                on_rows(len(encoded.whole))
        writer.finish(labels.finish(), watcher, unknown)


def _encode_shared(
    part: Table, tokenizer: Any, max_length: int, long_texts: LongTexts, share: Share
) -> Iterator[Encoded]:
    """Tokenize a part, alone or a stretch of it in each process."""
    if share.count == 1:
        yield from encode_part(part, tokenizer, max_length, long_texts)
        return
    mine = share.of(part)
    yield from share.gather(joined(list(encode_part(mine, tokenizer, max_length, long_texts)) if len(mine) else []))


def encode_part(part: Table, tokenizer: Any, max_length: int, long_texts: LongTexts) -> Iterator[Encoded]:
    """Tokenize a part in slices of about the same number of characters."""
    characters = sum(map(len, part.texts)) + sum(map(len, part.pairs or ()))
    size = max(1, _CHARACTERS * len(part) // characters)
    for start in range(0, len(part), size):
        pairs = None if part.pairs is None else part.pairs[start : start + size]
        with foreign_errors(f"{part.source}: the tokenizer fails on a text near row {part.rows[start]}"):
            encoded = encode_texts(tokenizer, part.texts[start : start + size], pairs, max_length, long_texts)
        yield encoded
