"""Open `train.augment`: what the tokenizer says of its tokens, the model that fills words, and texts to show.

`data.augment` makes the texts of an epoch; `refill` asks a model for words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxbert.config import Augmenting, Config
from jaxbert.data.augment import Augmenter, TokenKinds
from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.tasks.pretraining.corpus import is_chinese_character
from jaxbert.tasks.pretraining.masking import piece_marker
from jaxbert.terminal import console

_MARKS = tuple(".,!?;:"), tuple("。，！？；：")
"""The punctuation marks of AEDA (Karimi et al., 2021), and the Chinese ones."""
_SHOWN = 3
_LOOKED_AT = 64
_LONGEST_SHOWN = 200
"""Characters."""


def make_augmenter(config: Config, train: Examples, tokenizer: Any, max_length: int) -> tuple[Augmenter, str | None]:
    """Return what changes the texts of a run, and a text that changes with the model that fills words (None without one).

    Args:
      config: the run's configuration, with `train.augment`.
      train: the training examples.
      tokenizer: the run's tokenizer.
      max_length: the longest segment in tokens.

    Raises:
      UserError: for a task that needs its texts as they are, or a model that does not fit the run.
    """
    assert config.train.augment is not None
    settings = Augmenting.of(config.train.augment)
    if train.token_labels is not None or train.by_token or train.by_segment:
        raise UserError(
            f"train.augment does not work with task {config.task}, whose labels belong to tokens: leave it out"
        )
    kinds = token_kinds(tokenizer)
    if settings.punctuation and not len(kinds.marks[0]):
        raise UserError(
            f"train.augment: punctuation needs one of {' '.join(_MARKS[0])} in the vocabulary, which has none: leave it out"
        )
    fills, identity = None, None
    if settings.refill_model is not None:
        from jaxbert.train.refill import fill_words

        fills, identity = fill_words(settings.refill_model, train.tokens, kinds, tokenizer, config.data.cache_dir)
    return Augmenter(settings, kinds, max_length, fills), identity


def token_kinds(tokenizer: Any) -> TokenKinds:
    """Return what a tokenizer says of its tokens; without Chinese marks, the others stand for them."""
    vocabulary, marker = tokenizer.get_vocab(), piece_marker(tokenizer)
    special, inside, chinese = np.zeros((3, max(vocabulary.values()) + 1), bool)
    for token, index in vocabulary.items():
        inside[index] = token.startswith(marker)
        chinese[index] = any(map(is_chinese_character, token))
    special[list(tokenizer.all_special_ids)] = True
    special[tokenizer.unk_token_id] = False
    plain, of_chinese = (
        np.array([vocabulary[mark] for mark in marks if mark in vocabulary], np.int32) for marks in _MARKS
    )
    return TokenKinds(special, inside, chinese, (plain, of_chinese if len(of_chinese) else plain))


def planned_lengths(augmenter: Augmenter, train: Examples) -> tuple[np.ndarray, int]:
    """Return the lengths of an epoch's segments, int32 [W], and the most tokens that one can have in any epoch."""
    return augmenter.examples(train, 0, 0).tokens.lengths, augmenter.longest(train.tokens)


def changed_texts(augmenter: Augmenter, train: Examples, seed: int, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Yield `row`, from 0, `text` and `augmented`, as the tokenizer writes their tokens, for a few texts that change."""
    some = train.take(np.arange(min(_LOOKED_AT, len(train))))
    fills = augmenter.examples(some, seed, 0).tokens
    shown = 0
    for segment in range(len(some.tokens)):
        before, after = (_written(tokens, segment, tokenizer) for tokens in (some.tokens, fills))
        if before != after and shown < _SHOWN:
            shown += 1
            example = segment if some.windows is None else int(some.windows.examples_of(np.array([segment]))[0])
            yield {"row": int(some.source_rows(np.array([example]))[0]), "text": before, "augmented": after}


def say_changed_texts(augmenter: Augmenter, train: Examples, seed: int, tokenizer: Any) -> None:
    """Print a few texts that change, as they are and as the first epoch has them."""
    for found in changed_texts(augmenter, train, seed, tokenizer):
        line = f"row {found['row']}: {found['text']}  ->  {found['augmented']}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _written(tokens: Any, segment: int, tokenizer: Any) -> str:
    begin, length = int(tokens.begins[segment]), int(tokens.lengths[segment])
    ids = [int(index) for index in tokens.ids[begin + 1 : begin + length - 1]]
    text = str(tokenizer.decode(ids))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
