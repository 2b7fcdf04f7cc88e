"""Remove the rows of a vocabulary that a corpus never uses: `jaxbert vocabulary prune`.

The tokenizer takes the longest piece that it knows. A vocabulary without pieces that it never took in a corpus takes the
same ones there: so the model gives the same logits for its texts, bit by bit. The exception are words that become [UNK]; the
pieces that the search met before it gave up are kept, too. The single characters of all that is kept stay as well, so that
other texts in the same letters are cut into smaller pieces, but are not lost. At the end the corpus is read once more and
compared.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from tokenizers import Tokenizer
from transformers import BertConfig

from jaxbert.bucket import staged
from jaxbert.config import DataConfig, PretrainConfig
from jaxbert.data.sources import refuse_stdin
from jaxbert.data.tokens import encode_texts, forget_lengths
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.formats import Tensors
from jaxbert.interop.read import read_tensors
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.interop.write import save_tensors
from jaxbert.models.families import family_of
from jaxbert.models.families.base import Family
from jaxbert.runs.export import check_target, copy_card, forget_older
from jaxbert.tasks.pretraining.documents import open_documents
from jaxbert.tasks.reading import ReadingProgress
from jaxbert.train.pretrained import model_folder

_LINES = 4096
"""Lines that are tokenized at once."""
_WHOLE = 2**30
"""A length that no line has: texts are never cut here."""


@dataclass(frozen=True)
class SmallerVocabulary:
    """What a vocabulary was and what is left of it."""

    folder: epath.Path
    """The folder of the smaller model."""
    tokens_before: int
    """Rows of the table of word embeddings."""
    tokens: int
    parameters_before: int
    parameters: int
    used: int
    """Tokens that the corpus uses; the others are special ones, single characters and parts of unknown words."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self) | {"folder": str(self.folder)}


def shrink_vocabulary(
    model: str, corpora: Sequence[str], output: str, data: DataConfig, lower_case: bool | None = None
) -> SmallerVocabulary:
    """Write a model with the part of its vocabulary that some corpora use; it gives the same logits for them.

    Args:
      model: a run folder, an exported folder or a name on the Hub.
      corpora: raw text, or tables of texts, as for pretraining.
      output: the folder to write.
      data: the columns of tables, and how files are read.
      lower_case: whether texts are lower-cased, if the model's folder does not say so.

    Raises:
      UserError: for a model whose vocabulary is not one of word pieces, or a corpus that cannot be read or has no words.
    """
    refuse_stdin(corpora, "vocabulary prune")
    target, old = check_target(output, "--output"), WordPieces.open(model, lower_case, "pruned")
    used = _used(old.tokenizer, corpora, data)
    if not used.unknown and set(np.flatnonzero(used.tokens)) <= set(old.tokenizer.all_special_ids):
        raise UserError(
            "the corpus has no word that the tokenizer reads, so nothing is written: give a corpus with text"
        )
    kept = kept_tokens(old.tokenizer, old.state, used, old.family)
    smaller = smaller_tokenizer(old.tokenizer, old.state, kept)
    _compare(old.tokenizer, smaller, kept, corpora, data)
    left = smaller_tensors(old.tensors, kept, old.family)
    forget_older(target)
    with staged(target) as local:
        save_tensors(
            Path(local), left, _smaller_config(old.config, kept), smaller, architecture=architecture_of(old.config)
        )
    copy_card(model, target)
    return SmallerVocabulary(
        folder=target,
        tokens_before=old.config.vocab_size,
        tokens=len(kept),
        parameters_before=count_parameters(old.tensors, old.config),
        parameters=count_parameters(left, old.config),
        used=int(used.tokens.sum()),
    )


@dataclass(frozen=True)
class WordPieces:
    """A model whose vocabulary is one of word pieces, opened so that a model with another vocabulary can be made of it."""

    folder: Path
    config: BertConfig
    tokenizer: Any
    state: dict[str, Any]
    """The content of `tokenizer.json`."""
    family: Family
    tensors: Tensors
    """All tensors under PyTorch names, in the number format of their file."""

    @classmethod
    def open(cls, model: str, lower_case: bool | None, verb: str) -> WordPieces:
        """Open a model; `verb`, such as "pruned", says in the message what cannot be done with other vocabularies.

        Raises:
          UserError: for a tokenizer of another kind.
        """
        folder = model_folder(model)
        config = read_config(folder)
        tokenizer, family = load_tokenizer(folder, config, lower_case), family_of(config)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        state = {} if backend is None else json.loads(backend.to_str())
        if state.get("model", {}).get("type") != "WordPiece":
            raise UserError(f"--model {model} has a tokenizer that is not WordPiece, whose vocabulary cannot be {verb}")
        return cls(folder, config, tokenizer, state, family, read_tensors(folder, family, keep_half=True))

    @property
    def marker(self) -> str:
        """The prefix of a piece that continues a word."""
        return str(self.state["model"].get("continuing_subword_prefix", self.family.piece_marker))


def architecture_of(config: BertConfig) -> str:
    """Return the class in PyTorch of a configuration; without one, that of a model without a head."""
    return str((config.architectures or ["Model"])[0])


@dataclass
class _Used:
    """What some corpora use."""

    tokens: np.ndarray
    """Whether each token occurs, bool [V]."""
    unknown: set[str]
    """Words that are unknown, as the tokenizer sees them."""


def corpus_lines(corpora: Iterable[str], data: DataConfig, said: str) -> Iterator[list[str]]:
    """Yield the lines of all corpora, some thousand at once.

    Raises:
      UserError: if a corpus cannot be read or has no text.
    """
    for corpus in corpora:
        documents = open_documents(corpus, data, PretrainConfig(documents="line"))
        with ReadingProgress(f"{documents.name} ({said})") as reading:
            lines, count = filter(None, documents.lines()), 0
            while part := list(islice(lines, _LINES)):
                yield part
                count += len(part)
                reading.add(len(part))
        if not count:
            raise UserError(f"{documents.name} has no text, so nothing is written: give a corpus with text")


def _used(tokenizer: Any, corpora: Sequence[str], data: DataConfig) -> _Used:
    backend, unknown_id = tokenizer.backend_tokenizer, tokenizer.unk_token_id
    found = _Used(np.zeros(max(tokenizer.get_vocab().values()) + 1, bool), set())
    for lines in corpus_lines(corpora, data, "reading"):
        encoded = encode_texts(tokenizer, lines, None, _WHOLE)
        found.tokens[np.unique(encoded.ids)] = True
        odd = np.flatnonzero(np.add.reduceat(encoded.ids == unknown_id, np.cumsum(encoded.lengths) - encoded.lengths))
        for line in odd.tolist():
            found.unknown.update(words_of(backend, lines[line]))
    return found


def words_of(backend: Any, line: str) -> list[str]:
    """Return the words of a line as the tokenizer sees them, before it cuts them into pieces."""
    written = backend.normalizer.normalize_str(line) if backend.normalizer else line
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(written)]


def kept_tokens(tokenizer: Any, state: dict[str, Any], used: _Used, family: Family) -> np.ndarray:
    """Return the ids that are kept, int64, rising: those used, special ones, single characters, parts of unknown words."""
    vocabulary, marker = state["model"]["vocab"], state["model"].get("continuing_subword_prefix", family.piece_marker)
    kept = set(np.flatnonzero(used.tokens).tolist())
    kept |= {entry["id"] for entry in state["added_tokens"] if entry["special"]} | set(tokenizer.all_special_ids)
    for word in used.unknown:
        kept |= {vocabulary[piece] for piece in met_pieces(word, vocabulary, marker)}
    names = {index: token for token, index in vocabulary.items()}
    characters = set("".join(names[index].removeprefix(marker) for index in kept if index in names))
    kept |= {vocabulary[form] for c in characters for form in (c, f"{marker}{c}") if form in vocabulary}
    return np.array(sorted(kept))


def met_pieces(word: str, vocabulary: dict[str, int], marker: str) -> Iterator[str]:
    """Yield the pieces that the search for the longest ones takes, up to the place where there is none."""
    place = 0
    while place < len(word):
        piece = longest_piece(word, place, vocabulary, marker)
        if piece is None:
            return
        yield piece
        place += len(piece) - (len(marker) if place else 0)


def longest_piece(word: str, place: int, vocabulary: dict[str, int], marker: str) -> str | None:
    """Return the longest piece at a place of a word; None if no token begins there."""
    begin = marker if place else ""
    forms = (begin + word[place:end] for end in range(len(word), place, -1))
    return next((form for form in forms if form in vocabulary), None)


def smaller_tokenizer(tokenizer: Any, state: dict[str, Any], kept: np.ndarray) -> Any:
    """Return a tokenizer that knows only the kept tokens, numbered from 0 in their old order."""
    place = {int(old): new for new, old in enumerate(kept)}
    state = copy.deepcopy(state) | {"truncation": None, "padding": None}
    state["model"]["vocab"] = {t: place[i] for t, i in state["model"]["vocab"].items() if i in place}
    state["added_tokens"] = [e | {"id": place[e["id"]]} for e in state["added_tokens"] if e["id"] in place]
    processor = state.get("post_processor") or {}
    for entry in processor.get("special_tokens", {}).values():  # of a template
        entry["ids"] = [place[index] for index in entry["ids"]]
    for name in ("sep", "cls"):  # of BERT's own
        if isinstance(processor.get(name), list):
            processor[name][1] = place[processor[name][1]]
    return rebuilt(tokenizer, state)


def rebuilt(tokenizer: Any, state: dict[str, Any]) -> Any:
    """Return a tokenizer of the same settings with another content of `tokenizer.json`."""
    changed = copy.deepcopy(tokenizer)
    changed._tokenizer = Tokenizer.from_str(json.dumps(state))
    forget_lengths(changed)
    return changed


def smaller_tensors(tensors: Tensors, kept: np.ndarray, family: Family) -> Tensors:
    """Return the tensors of a model with the kept rows of all tables of words: of the embeddings and of a head of words."""
    tables = word_tables(family)
    return {name: tensor[kept] if name in tables else tensor for name, tensor in tensors.items()}


def word_tables(family: Family) -> tuple[str, ...]:
    """Return the names of the tensors with a row for each token, which a model may have or lack."""
    scores = family.word_scores
    return (
        f"{family.prefix}.{family.word_embeddings}",
        *(f"{scores}.{part}" for part in ("bias", "decoder.weight", "decoder.bias")),
    )


def count_parameters(tensors: Tensors, config: BertConfig) -> int:
    """Count the parameters; tensors of a head over words that have a second name count once."""
    scores = family_of(config).word_scores
    twice = {f"{scores}.decoder.bias", *([f"{scores}.decoder.weight"] if config.tie_word_embeddings else [])}
    return sum(tensor.size for name, tensor in tensors.items() if name not in twice)


def _smaller_config(config: BertConfig, kept: np.ndarray) -> BertConfig:
    """Return a configuration with the new number of tokens, and the new ids of special tokens."""
    place, changed = {int(old): new for new, old in enumerate(kept)}, copy.deepcopy(config)
    changed.vocab_size = len(kept)
    for name in ("pad", "unk", "cls", "sep", "mask", "bos", "eos"):
        old = getattr(config, f"{name}_token_id", None)
        if isinstance(old, int):
            setattr(changed, f"{name}_token_id", place.get(old))
    return changed


def _compare(tokenizer: Any, smaller: Any, kept: np.ndarray, corpora: Sequence[str], data: DataConfig) -> None:
    """Check that both tokenizers read the corpora alike.

    Raises:
      UserError: with a text that they read differently.
    """
    for lines in corpus_lines(corpora, data, "comparing"):
        before, after = (encode_texts(one, lines, None, _WHOLE) for one in (tokenizer, smaller))
        if not np.array_equal(before.ids, kept[after.ids]):
            line = next(
                line
                for line in lines
                if encode_texts(tokenizer, [line], None, _WHOLE).ids.tolist()
                != kept[encode_texts(smaller, [line], None, _WHOLE).ids].tolist()
            )
            raise UserError(
                f"the smaller vocabulary reads {line!r:.200} differently, so nothing is written: remove this text from "
                "the corpus"
            )
