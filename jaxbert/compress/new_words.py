"""Make tokens of frequent words and unknown characters of a corpus: `jaxbert vocabulary extend`.

A word is a token if the search for the longest piece finds it whole, from its first character. So a new token also begins
the longer words that begin with it, and only texts with a new token are read otherwise than before.

The row of a new word in the table of word embeddings, and in a head over words, starts as the mean of the rows of its
pieces. So does its bias there; to it comes the logarithm of how much rarer the word is in the corpus than its pieces, so
that thousands of rare words of frequent pieces do not take all the probability. An unknown character has no pieces: it
starts as its other form (at the start of a word, or inside) if the vocabulary has that, else as the unknown token, which the
model has read in its place so far.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxbert.bucket import staged
from jaxbert.compress.vocabulary import (
    WordPieces,
    architecture_of,
    corpus_lines,
    count_parameters,
    longest_piece,
    met_pieces,
    rebuilt,
    word_tables,
    words_of,
)
from jaxbert.config import DataConfig
from jaxbert.errors import UserError, foreign_errors
from jaxbert.interop.formats import Tensors
from jaxbert.interop.write import save_tensors
from jaxbert.options import NewWordsOptions
from jaxbert.plain import to_json
from jaxbert.runs.export import check_target, copy_card, forget_older
from jaxbert.tasks.pretraining.corpus import is_chinese_character
from jaxbert.tasks.pretraining.vocabulary import write_vocabulary

NEW_WORDS = "new_words.json"
"""The file in the new model's folder that lists the new tokens."""
_CHINESE, _LATIN, _OTHER, _ALL = _PARTS = ("chinese", "latin", "other", "all")
_NOWHERE = -1
"""The id of a token that has none yet."""
_UNUSED = re.compile(r"\[unused\d+\]")
_VOCABULARY = "vocab.txt"
_LONGEST = 100
"""Characters of the longest word that is not unknown, unless a tokenizer says otherwise."""


@dataclass(frozen=True)
class NewToken:
    """One new token."""

    token: str
    id: int
    count: int
    """Number of times that the corpus has the word; for a character, words that it makes unknown."""
    pieces: tuple[str, ...]
    """The tokens of which its rows start as the mean."""
    rarer: float = 0.0
    """What is added to the mean of their biases: the logarithm of how much rarer it is in the corpus, mostly below 0."""


@dataclass(frozen=True)
class WordCounts:
    """How the words of one script are cut, in the complete corpus. A punctuation mark is a word, too."""

    words: int
    tokens_before: int
    tokens: int
    unknown_before: int
    """Words that were the unknown token."""
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, pieces a word, and the shares of tokens that are unknown."""
        shares = {
            "pieces_a_word_before": self.tokens_before / self.words,
            "pieces_a_word": self.tokens / self.words,
            "unknown_share_before": self.unknown_before / self.tokens_before,
            "unknown_share": self.unknown / self.tokens,
        }
        return dataclasses.asdict(self) | {name: round(value, 6) for name, value in shares.items()}


@dataclass(frozen=True)
class LargerVocabulary:
    """What a vocabulary was and what was added."""

    folder: epath.Path
    """The folder of the new model."""
    added: tuple[NewToken, ...]
    tokens_before: int
    """Rows of the table of word embeddings."""
    tokens: int
    parameters_before: int
    parameters: int
    scripts: Mapping[str, WordCounts]
    """By script: `chinese`, `latin`, `other` (digits, marks and all other letters), those that the corpus has; and `all`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        plain = dataclasses.asdict(self) | {"folder": str(self.folder)}
        return plain | {"scripts": {name: counts.to_dict() for name, counts in self.scripts.items()}}


def grow_vocabulary(
    model: str,
    corpora: Sequence[str],
    output: str,
    data: DataConfig,
    options: NewWordsOptions,
    lower_case: bool | None = None,
) -> LargerVocabulary:
    """Write a model with new tokens for a corpus; texts without them give the same logits.

    Args:
      model: a run folder, an exported folder or a name on the Hub.
      corpora: raw text, or tables of texts, as for pretraining.
      output: the folder to write.
      data: the columns of tables, and how files are read.
      options: how many words, and which.
      lower_case: whether texts are lower-cased, if the model's folder does not say so.

    Raises:
      UserError: for a model whose vocabulary is not one of word pieces, or a corpus that cannot be read or has no
        such words.
    """
    target, old = check_target(output, "--output"), WordPieces.open(model, lower_case, "extended")
    counts = _count_words(old.tokenizer.backend_tokenizer, corpora, data)
    chosen = choose_tokens(old, counts, options)
    if not chosen:
        raise UserError(
            f"the corpus has no unknown character and no word of {options.min_pieces} pieces or more {options.min_count} "
            "times: nothing is written; lower min_count or min_pieces, or give more text"
        )
    added = _placed(old, chosen, options.reuse_unused)
    larger, tensors = _with_tokens(old, added), larger_tensors(old, added)
    config = copy.deepcopy(old.config)
    config.vocab_size = max(config.vocab_size, *(new.id + 1 for new in added))
    forget_older(target)
    with staged(target) as local:
        folder = Path(local)
        save_tensors(folder, tensors, config, larger, architecture=architecture_of(config))
        with foreign_errors(f"{folder} cannot be written"):
            (folder / NEW_WORDS).write_text(to_json([dataclasses.asdict(new) for new in added]) + "\n", "utf-8")
        if (old.folder / _VOCABULARY).is_file():
            ids = larger.get_vocab()
            write_vocabulary(sorted(ids, key=lambda token: ids[token]), epath.Path(folder / _VOCABULARY))
    copy_card(model, target)
    return LargerVocabulary(
        folder=target,
        added=tuple(added),
        tokens_before=old.config.vocab_size,
        tokens=config.vocab_size,
        parameters_before=count_parameters(old.tensors, config),
        parameters=count_parameters(tensors, config),
        scripts=_by_script(counts, _Cutter(old.tokenizer), _Cutter(larger)),
    )


def _count_words(backend: Any, corpora: Sequence[str], data: DataConfig) -> Counter[str]:
    """Count the words of all corpora as the tokenizer sees them, in a fixed order."""
    counts: Counter[str] = Counter()
    for lines in corpus_lines(corpora, data, "reading"):
        counts.update(itertools.chain.from_iterable(words_of(backend, line) for line in lines))
    return counts


class _Cutter:
    """Cuts words into the pieces of a vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._model, self._unknown = tokenizer.backend_tokenizer.model, tokenizer.unk_token

    def __call__(self, word: str) -> list[str] | None:
        """Return the pieces of a word; None if it is unknown."""
        pieces = [piece.value for piece in self._model.tokenize(word)]
        return None if pieces == [self._unknown] and word != self._unknown else pieces


def choose_tokens(old: WordPieces, counts: Mapping[str, int], options: NewWordsOptions) -> list[NewToken]:
    """Return the new tokens, without ids yet: unknown characters, then words by the tokens that they save.

    Args:
      old: the model.
      counts: how often each word of the corpus is there.
      options: how many tokens, and which.
    """
    missing = _missing_characters(old, counts)
    frequent = [form for form, count in missing.items() if count >= options.min_count]
    characters = sorted(frequent, key=lambda form: (-missing[form], form))[: options.size]
    chosen = [NewToken(form, _NOWHERE, missing[form], (_stand_in(old, form),)) for form in characters]
    cut = _Cutter(_with_tokens(old, _placed(old, chosen)))
    found = (
        NewToken(word, _NOWHERE, count, tuple(cut(word) or ()))
        for word, count in counts.items()
        if count >= options.min_count and not word.startswith(old.marker)
    )
    words = [new for new in found if len(new.pieces) >= options.min_pieces]
    words.sort(key=lambda new: (-new.count * (len(new.pieces) - 1), new.token))
    kept = _without_harm(old, chosen + words[: options.size - len(chosen)], counts, cut)
    return _with_biases(old, kept, counts, cut) if kept and options.bias == "counted" else kept


def _with_biases(old: WordPieces, chosen: list[NewToken], counts: Mapping[str, int], cut: _Cutter) -> list[NewToken]:
    """Return the tokens with `rarer`: the logarithm of their share of all tokens less the mean of those of their pieces.

    `cut` has the new characters already, so a character stands for the unknown words that it was in.
    """
    unknown, before = str(old.tokenizer.unk_token), _Cutter(old.tokenizer)
    now = _Cutter(_with_tokens(old, _placed(old, chosen)))
    times: Counter[str] = Counter()
    total = after = 0
    for word, count in counts.items():
        pieces = cut(word) or [unknown]
        for piece in pieces:
            times[piece] += count
        if before(word) is None and pieces != [unknown]:
            times[unknown] += count
        total += count * len(pieces)
        after += count * len(now(word) or [unknown])
    more = math.log(total / after)

    def rarer(new: NewToken) -> float:
        logs = [math.log(max(times[piece], new.count)) for piece in new.pieces]
        return math.log(new.count) - sum(logs) / len(logs) + more

    return [dataclasses.replace(new, rarer=round(rarer(new), 6)) for new in chosen]


def _missing_characters(old: WordPieces, counts: Mapping[str, int]) -> Counter[str]:
    """Return the characters, as pieces, without which words of the corpus are unknown, and in how many words."""
    cut, vocabulary = _Cutter(old.tokenizer), old.state["model"]["vocab"]
    longest = old.state["model"].get("max_input_chars_per_word", _LONGEST)
    missing: Counter[str] = Counter()
    for word, count in counts.items():
        if len(word) > longest or cut(word) is not None:
            continue
        forms, place = set(), 0
        while place < len(word):
            piece = longest_piece(word, place, vocabulary, old.marker)
            if piece is None:
                piece = (old.marker if place else "") + word[place]
                forms.add(piece)
            place += len(piece) - (len(old.marker) if place else 0)
        missing.update(dict.fromkeys(forms, count))
    return missing


def _stand_in(old: WordPieces, form: str) -> str:
    """Return the token as which a character starts: its form at another place of a word, else the unknown token."""
    other = form.removeprefix(old.marker) if form.startswith(old.marker) else f"{old.marker}{form}"
    return other if other in old.state["model"]["vocab"] else str(old.tokenizer.unk_token)


def _without_harm(old: WordPieces, chosen: list[NewToken], counts: Mapping[str, int], cut: _Cutter) -> list[NewToken]:
    """Leave out the tokens that begin a longer word whose rest has no pieces, so that the word became unknown."""
    while True:
        larger = _with_tokens(old, _placed(old, chosen))
        now, vocabulary = _Cutter(larger), larger.get_vocab()
        lost = (word for word in counts if cut(word) is not None and now(word) is None)
        harmful = {piece for word in lost for piece in met_pieces(word, vocabulary, old.marker)}
        kept = [new for new in chosen if new.token not in harmful]
        if len(kept) == len(chosen):
            return chosen
        chosen = kept


def _placed(old: WordPieces, chosen: Sequence[NewToken], reuse_unused: bool = False) -> list[NewToken]:
    """Return the tokens with their ids: those of unused tokens first, then those after the tokenizer's last one."""
    ids = old.tokenizer.get_vocab()
    named = {entry["content"] for entry in old.state["added_tokens"]}
    unused = sorted(i for token, i in ids.items() if _UNUSED.fullmatch(token) and token not in named)
    places = itertools.chain(unused if reuse_unused else (), itertools.count(max(ids.values()) + 1))
    return [dataclasses.replace(new, id=place) for new, place in zip(chosen, places, strict=False)]


def _with_tokens(old: WordPieces, added: Sequence[NewToken]) -> Any:
    """Return the tokenizer with new tokens; an unused token whose id one of them has is gone."""
    taken = {new.id for new in added}
    state = copy.deepcopy(old.state) | {"truncation": None, "padding": None}
    vocabulary = {token: i for token, i in state["model"]["vocab"].items() if i not in taken}
    state["model"]["vocab"] = vocabulary | {new.token: new.id for new in added}
    return rebuilt(old.tokenizer, state)


def larger_tensors(old: WordPieces, added: Sequence[NewToken]) -> Tensors:
    """Return the tensors of a model with a row for each new token in all tables of words, as this module says."""
    ids, tensors = old.tokenizer.get_vocab() | {new.token: new.id for new in added}, dict(old.tensors)
    for name in word_tables(old.family):
        if (table := tensors.get(name)) is None:
            continue
        more = max(0, *(new.id + 1 - len(table) for new in added))
        larger = np.concatenate([table, np.zeros((more, *table.shape[1:]), table.dtype)])
        for new in added:  # a word comes after the characters that may be pieces of it
            rows = larger[[ids[piece] for piece in new.pieces]]
            start = rows.astype(np.float32).mean(0) + (new.rarer if name.endswith(".bias") else 0.0)
            larger[new.id] = start.astype(table.dtype)
        tensors[name] = larger
    return tensors


def _by_script(counts: Mapping[str, int], before: _Cutter, after: _Cutter) -> dict[str, WordCounts]:
    """Count words, tokens and unknown words by script, and over all."""
    sums: dict[str, np.ndarray] = {}
    for word, count in counts.items():
        old, new = before(word), after(word)
        found = count * np.array([1, len(old or "?"), len(new or "?"), old is None, new is None])
        for name in (_script_of(word), _ALL):
            sums[name] = sums.get(name, 0) + found
    return {name: WordCounts(*map(int, sums[name])) for name in _PARTS if name in sums}


def _script_of(word: str) -> str:
    """Return the script of a word: that of its first letter that is Chinese or Latin."""
    for character in word:
        if is_chinese_character(character):
            return _CHINESE
        if character.isalpha() and unicodedata.name(character, "").startswith("LATIN "):
            return _LATIN
    return _OTHER
