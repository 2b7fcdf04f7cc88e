"""Train a WordPiece vocabulary on raw text, for BERT's tokenizer."""

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

    Each Chinese character is a word. If all characters would take more than three quarters of the tokens, the rarest ones
    are left out.

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
    # As special tokens, these have a fixed order; the library's own order changes in each call, and decides ties.
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
    """Return whether a character can continue a word, and so needs a second token."""
    return character.isalnum() and not is_chinese_character(character)


def write_vocabulary(tokens: Iterable[str], path: epath.Path) -> None:
    """Write one token a line; the file is complete or not written at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{token}\n" for token in tokens))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
