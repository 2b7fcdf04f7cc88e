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
from jaxbert.data.tokens import encode_texts, forget_lengths
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.formats import Tensors
from jaxbert.interop.read import read_tensors
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.interop.write import save_tensors
from jaxbert.models.families import family_of
from jaxbert.models.families.base import Family
from jaxbert.runs.card import copy_card
from jaxbert.runs.export import check_target
from jaxbert.tasks.pretraining.documents import open_documents
from jaxbert.terminal import ReadingProgress
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
      UserError: for a model whose vocabulary is not one of word pieces, or a corpus that cannot be read.
    """
    target, folder = check_target(output, "--output"), model_folder(model)
    config = read_config(folder)
    tokenizer, family = load_tokenizer(folder, config, lower_case), family_of(config)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = {} if backend is None else json.loads(backend.to_str())
    if state.get("model", {}).get("type") != "WordPiece":
        raise UserError(f"--model {model} has a tokenizer that is not WordPiece, whose vocabulary cannot be pruned")
    tensors = read_tensors(folder, family, keep_half=True)
    used = _used(tokenizer, corpora, data)
    kept = kept_tokens(tokenizer, state, used, family)
    smaller = smaller_tokenizer(tokenizer, state, kept)
    _compare(tokenizer, smaller, kept, corpora, data)
    left = smaller_tensors(tensors, kept, family)
    changed = _smaller_config(config, kept)
    architecture = (config.architectures or ["Model"])[0]
    with staged(target) as local:
        save_tensors(Path(local), left, changed, smaller, architecture=architecture)
    copy_card(model, target)
    return SmallerVocabulary(
        folder=target,
        tokens_before=config.vocab_size,
        tokens=len(kept),
        parameters_before=_count(tensors, config),
        parameters=_count(left, config),
        used=int(used.tokens.sum()),
    )


@dataclass
class _Used:
    """What some corpora use."""

    tokens: np.ndarray
    """Whether each token occurs, bool [V]."""
    unknown: set[str]
    """Words that are unknown, as the tokenizer sees them."""


def _lines(corpora: Iterable[str], data: DataConfig, said: str) -> Iterator[list[str]]:
    """Yield the lines of all corpora, some thousand at once."""
    for corpus in corpora:
        documents = open_documents(corpus, data, PretrainConfig(documents="line"))
        with ReadingProgress(f"{documents.name} ({said})") as reading:
            lines = filter(None, documents.lines())
            while part := list(islice(lines, _LINES)):
                yield part
                reading.add(len(part))


def _used(tokenizer: Any, corpora: Sequence[str], data: DataConfig) -> _Used:
    backend, unknown_id = tokenizer.backend_tokenizer, tokenizer.unk_token_id
    found = _Used(np.zeros(max(tokenizer.get_vocab().values()) + 1, bool), set())
    for lines in _lines(corpora, data, "reading"):
        encoded = encode_texts(tokenizer, lines, None, _WHOLE)
        found.tokens[np.unique(encoded.ids)] = True
        odd = np.flatnonzero(np.add.reduceat(encoded.ids == unknown_id, np.cumsum(encoded.lengths) - encoded.lengths))
        for line in odd.tolist():
            written = backend.normalizer.normalize_str(lines[line]) if backend.normalizer else lines[line]
            found.unknown.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(written))
    return found


def kept_tokens(tokenizer: Any, state: dict[str, Any], used: _Used, family: Family) -> np.ndarray:
    """Return the ids that are kept, int64, rising: those used, special ones, single characters, parts of unknown words."""
    vocabulary, marker = state["model"]["vocab"], state["model"].get("continuing_subword_prefix", family.piece_marker)
    kept = set(np.flatnonzero(used.tokens).tolist())
    kept |= {entry["id"] for entry in state["added_tokens"] if entry["special"]} | set(tokenizer.all_special_ids)
    for word in used.unknown:
        kept |= {vocabulary[piece] for piece in _met(word, vocabulary, marker)}
    names = {index: token for token, index in vocabulary.items()}
    characters = set("".join(names[index].removeprefix(marker) for index in kept if index in names))
    kept |= {vocabulary[form] for c in characters for form in (c, f"{marker}{c}") if form in vocabulary}
    return np.array(sorted(kept))


def _met(word: str, vocabulary: dict[str, int], marker: str) -> Iterator[str]:
    """Yield the pieces that the search for the longest ones takes, up to the place where there is none."""
    place = 0
    while place < len(word):
        begin = marker if place else ""
        end = next((end for end in range(len(word), place, -1) if begin + word[place:end] in vocabulary), None)
        if end is None:
            return
        yield begin + word[place:end]
        place = end


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
    smaller = copy.deepcopy(tokenizer)
    smaller._tokenizer = Tokenizer.from_str(json.dumps(state))
    forget_lengths(smaller)
    return smaller


def smaller_tensors(tensors: Tensors, kept: np.ndarray, family: Family) -> Tensors:
    """Return the tensors of a model with the kept rows of all tables of words: of the embeddings and of a head of words."""
    tables = (
        f"{family.prefix}.{family.word_embeddings}",
        *(f"{family.word_scores}.{part}" for part in ("bias", "decoder.weight", "decoder.bias")),
    )
    return {name: tensor[kept] if name in tables else tensor for name, tensor in tensors.items()}


def _count(tensors: Tensors, config: BertConfig) -> int:
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
    for lines in _lines(corpora, data, "comparing"):
        before, after = (encode_texts(one, lines, None, _WHOLE) for one in (tokenizer, smaller))
        if not np.array_equal(before.ids, kept[after.ids]):
            line = next(
                line
                for line in lines
                if encode_texts(tokenizer, [line], None, _WHOLE).ids.tolist()
                != kept[encode_texts(smaller, [line], None, _WHOLE).ids].tolist()
            )
            raise UserError(
                f"the smaller vocabulary reads {line!r:.200} otherwise, so nothing is written: leave it out"
            )
