"""Tokenize a corpus to the token ids of its sentences, document by document, in memory-mapped files.

`store` keeps sentences like examples, without special tokens; an empty sentence ends a document. Only a slice of the text is
in memory at a time. `pairs` makes examples of sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.config import PretrainConfig
from jaxbert.data import store
from jaxbert.data.overview import DOCUMENTS, View
from jaxbert.data.store import Writer
from jaxbert.data.table import Facts
from jaxbert.data.tokens import Encoded, Seen, Shard, Tokens, forget_lengths, hash_rows
from jaxbert.errors import UserError, foreign_errors
from jaxbert.tasks.pretraining.documents import END, Documents
from jaxbert.tasks.pretraining.sentences import split_sentences

INSIDE_WORD = 1 << 30
"""Added to the id of a token that continues the segmented word of the token before it."""
_COUNTED = 2**24
"""The most tokens of a corpus that are counted."""
_CHARACTERS = 2**20
"""Characters that are tokenized at once, roughly."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sentences of some documents."""

    name: str
    sentences: Tokens
    """The tokens of each sentence, without special tokens; an id may have `INSIDE_WORD` added."""
    ends: np.ndarray
    """int64 [D + 1]: -1, then for each document the index of the empty sentence at its end."""
    identity: Any
    """A plain value that changes with the content; None if it cannot be identified."""

    def __len__(self) -> int:
        return len(self.ends) - 1


def read_corpus(
    documents: Documents,
    tokenizer: Any,
    pretrain: PretrainConfig,
    *,
    folder: Path | None = None,
    on_documents: Callable[[int], None] = lambda documents: None,
    shard: Shard = Shard(),  # noqa: B008 (frozen)
) -> Corpus:
    """Return a corpus, from the cache in `folder` if it is there.

    Args:
      documents: the documents to read.
      tokenizer: a transformers tokenizer of the tokenizers library.
      pretrain: how lines become sentences, and whether white space separates Chinese words.
      folder: the cache, for the next start; None for no cache.
      on_documents: called with the number of documents read since the last call.
      shard: the part that this process tokenizes; every process of the run reads the same documents at the same time.

    Raises:
      UserError: for malformed text, and if there is no sentence.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError("pretraining needs a tokenizer of the tokenizers library (tokenizer.json or vocab.txt)")
    forget_lengths(tokenizer)
    settings = [pretrain.sentences, _marks_words(pretrain)]
    names: list[str | None] = []

    def key() -> str | None:
        content = documents.identity()
        whole = None if content is None else ["sentences", settings, content]
        names.append(store.entry_name(whole, tokenizer, 0))
        return names[-1]

    def write(written: Path) -> None:
        _write(documents, tokenizer, pretrain, written, on_documents, shard)

    stored = store.cached(documents.name, key, write, folder=folder, all_have=shard.all_have)
    ends = np.concatenate([[-1], np.flatnonzero(stored.tokens.lengths == 0)])
    # The content of a file that changed while it was read cannot be identified.
    return Corpus(documents.name, stored.tokens, ends, names[0] if len(set(names)) == 1 else None)


def _marks_words(pretrain: PretrainConfig) -> bool:
    return pretrain.segmented and pretrain.mask == "word"


def _write(
    documents: Documents,
    tokenizer: Any,
    pretrain: PretrainConfig,
    folder: Path,
    on_documents: Callable[[int], None],
    shard: Shard,
) -> None:
    """Tokenize the documents into an empty folder.

    Raises:
      UserError: if there is no token.
    """
    backend, marked = tokenizer.backend_tokenizer, _marks_words(pretrain)
    backend.encode_special_tokens = True  # "[SEP]" in a text is text
    lines = documents.lines()
    sentences = lines if pretrain.sentences == "line" else chain.from_iterable(map(_sentences_of, lines))
    tokens = 0
    with Writer(folder) as writer:
        for part in in_parts(sentences):
            low, high = shard.bounds(len(part))
            with foreign_errors(f"{documents.name}: the tokenizer fails on a text"):
                mine = _encode(backend, part[low:high], marked)
            for encoded in shard.gather(mine):
                writer.add(encoded)
                tokens += len(encoded.ids)
            on_documents(part.count(END))
        if not tokens:
            raise UserError(f"{documents.name}: no text: at least one sentence is needed")
        writer.finish(None)


def _sentences_of(line: str) -> list[str]:
    return [END] if line == END else split_sentences(line)


def in_parts(sentences: Iterable[str], characters: int = _CHARACTERS) -> Iterator[list[str]]:
    """Yield lists of sentences with about `characters` characters each."""
    part: list[str] = []
    size = 0
    for sentence in sentences:
        part.append(sentence)
        size += len(sentence) + 1
        if size >= characters:
            yield part
            part, size = [], 0
    if part:
        yield part


def _encode(backend: Any, sentences: list[str], marked: bool) -> Encoded:
    """Tokenize sentences; a sentence without tokens is left out, unless it ends a document."""
    encode = backend.encode_batch if marked else backend.encode_batch_fast
    encodings = encode(sentences, add_special_tokens=False)
    pairs = zip(sentences, encodings, strict=True)
    kept = [(sentence, encoding) for sentence, encoding in pairs if sentence == END or encoding.ids]
    lengths = np.fromiter((len(encoding.ids) for _, encoding in kept), np.int32, len(kept))
    ids = np.fromiter(chain.from_iterable(encoding.ids for _, encoding in kept), np.int32, int(lengths.sum()))
    if marked:
        for end, (sentence, encoding) in zip(np.cumsum(lengths), kept, strict=True):
            ids[end - len(encoding.ids) : end] += INSIDE_WORD * inside_words(sentence, encoding.offsets)
    return Encoded(ids, lengths, lengths, cut=0, windows=np.zeros(0, np.int32))


def inside_words(sentence: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Return whether each token continues a Chinese word: it follows a Chinese character without white space.

    Args:
      sentence: a sentence whose Chinese words are separated by white space.
      offsets: the first character of each token, and one after its last.
    """
    inside = np.zeros(len(offsets), np.int32)
    for i in range(1, len(offsets)):
        end, (begin, stop) = offsets[i - 1][1], offsets[i]
        inside[i] = begin == end and all(map(is_chinese_character, sentence[begin - 1 : stop]))
    return inside


def is_chinese_character(character: str) -> bool:
    """Return whether BERT's tokenizer makes a word of this character alone."""
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def view_corpus(name: str, corpus: Corpus, chosen: np.ndarray | None, max_length: int) -> View:
    """Return the view of a corpus, or of its chosen documents; record numbers are those of documents."""
    numbers = np.arange(len(corpus)) if chosen is None else chosen
    sentences = corpus.sentences
    edges = np.append(sentences.begins, len(sentences.ids))[np.append(corpus.ends[:-1] + 1, corpus.ends[-1])]
    stretches = [(int(edges[i]), int(edges[i + 1])) for i in numbers]
    lengths = np.fromiter((high - low for low, high in stretches), np.int32, len(stretches))
    hashes = hash_rows([sentences.ids[low:high] for low, high in stretches])
    seen = Seen(lengths, hashes, (numbers + 1).astype(np.int32), ((0, corpus.name),), Facts())
    return View(name, seen, max_length, np.flatnonzero(lengths == 0), windows=True, unit=DOCUMENTS)


def count_tokens(corpus: Corpus, size: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """Return how often each of the `size` tokens of the vocabulary occurs, int64 [size].

    Only the first documents of a corpus are counted, up to some 17 million tokens.

    Args:
      corpus: the documents.
      size: the size of the vocabulary.
      chosen: the documents to count; None for all.
    """
    tokens, pieces, counted = corpus.sentences, [np.zeros(0, np.int32)], 0
    for document in range(len(corpus)) if chosen is None else chosen.tolist():
        first, last = tokens.begins[corpus.ends[document] + 1], tokens.begins[corpus.ends[document + 1]]
        pieces.append(tokens.ids[first:last])
        counted += int(last - first)
        if counted >= _COUNTED:
            break
    return np.bincount(np.concatenate(pieces) & (INSIDE_WORD - 1), minlength=size)
