"""A WordPiece vocabulary from raw text, as BERT's tokenizer reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from etils import epath
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from jaxbert.bucket import write_whole
from jaxbert.errors import UserError
from jaxbert.models.families import DEFAULT
from jaxbert.tasks.pretraining.corpus import is_chinese_character


def train_vocabulary(lines: Callable[[], Iterable[str]], size: int, *, lower_case: bool) -> list[str]:
    """Return at most `size` tokens, the special ones first; the text is read twice.

    Chinese characters are words of their own; the rarest characters are left out where they would take more than three
    quarters.

    Raises:
      UserError: if the text is too small.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token=DEFAULT.special_tokens["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for line in lines():
        counts.update(tokenizer.normalizer.normalize_str(line))
    by_count = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    tokens = np.cumsum([1 + _goes_inside(c) for c in by_count])
    alphabet = sorted(by_count[: np.searchsorted(tokens, size * 3 // 4, side="right")])
    # Left to itself, the library numbers these in an order that changes from call to call, and decides ties by it.
    inside = [f"{DEFAULT.piece_marker}{c}" for c in alphabet if _goes_inside(c)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*DEFAULT.special_tokens.values(), *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(filter(None, lines()), trainer)
    found = tokenizer.get_vocab()
    if len(alphabet) < 2:
        raise UserError("the text is too small for a vocabulary: it must hold words")
    return sorted(found, key=lambda token: found[token])


def _goes_inside(character: str) -> bool:
    """Say whether a character can go on with a word, and so needs a second token for that."""
    return character.isalnum() and not is_chinese_character(character)


def write_vocabulary(tokens: Iterable[str], path: epath.Path) -> None:
    """Write one token a line, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{token}\n" for token in tokens))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
