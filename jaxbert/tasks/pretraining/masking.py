"""Choose the tokens of a batch to predict, and mask them; the choice is new in every epoch.

Every draw is a hash of (seed, epoch, example, position in the example), so that packing, padding, the number of hosts and
the step of a resume do not change it. A share of `probability` of an example's tokens is chosen (rounded up or down at
random, so that the mean share is exact); 80% of these become `[MASK]`, 10% become another token, 10% stay. With whole-word
masking, words are chosen in random order, and a word with more tokens than the example may still choose is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.batches import Batch, lengths_of
from jaxbert.data.draws import example_keys, purpose_key, rank_within, uniform
from jaxbert.errors import UserError
from jaxbert.models.families import DEFAULT
from jaxbert.tasks.pretraining.corpus import INSIDE_WORD

_COUNT, _ORDER, _KIND, _OTHER = range(4)
"""The purposes of random draws."""
_PURPOSE = 0x6D61736B
_EVALUATION = 2**63
_MASKED, _REPLACED = 0.8, 0.9
"""A chosen token whose draw is below the first becomes [MASK]; below the second, another token; else it stays."""
_LIMITS = (1, 10, 100, 1000, 10_000)
FREQUENCIES = ("0", "1 to 9", "10 to 99", "100 to 999", "1,000 to 9,999", "10,000 or more")
"""Groups of tokens, by how often they occur in the training documents."""


def frequency_groups(counts: np.ndarray) -> np.ndarray:
    """Return the group of `FREQUENCIES` of each token, int32, from how often it occurs."""
    return np.digitize(counts, _LIMITS).astype(np.int32)


@dataclass(frozen=True, eq=False)
class MaskingVocabulary:
    """Facts about the tokens of a vocabulary of V, for masking."""

    maskable: np.ndarray
    """bool [V]: whether a token is no special token."""
    inside: np.ndarray
    """bool [V]: whether a token continues the word before it."""
    replacements: np.ndarray
    """int32: the ids of tokens that may replace another."""
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Any) -> MaskingVocabulary:
        """Read the facts from a transformers tokenizer.

        Raises:
          UserError: if it lacks a special token that pretraining needs.
        """
        for name in ("mask_token", "cls_token", "sep_token"):
            index = getattr(tokenizer, f"{name}_id")
            if index is None or index == tokenizer.unk_token_id:
                raise UserError(
                    f"the vocabulary lacks [{name[:-6].upper()}], which pretraining needs: "
                    "add it to the vocabulary, or train one with pretrain.vocab_size"
                )
        tokens, marker = tokenizer.get_vocab(), piece_marker(tokenizer)
        known, inside = np.zeros((2, max(tokens.values()) + 1), bool)
        for token, index in tokens.items():
            known[index], inside[index] = True, token.startswith(marker)
        known[list(tokenizer.all_special_ids)] = False
        if not known.any():
            raise UserError("the vocabulary has special tokens only: there is nothing to predict")
        return cls(known, inside, np.flatnonzero(known).astype(np.int32), int(tokenizer.mask_token_id))


def piece_marker(tokenizer: Any) -> str:
    """Return the prefix of tokens that continue a word: the tokenizer's own, else that of new models."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return getattr(model, "continuing_subword_prefix", None) or DEFAULT.piece_marker


@dataclass(frozen=True, eq=False)
class Masking:
    """The masking of a data set; `collate` masks a batch."""

    vocabulary: MaskingVocabulary
    probability: float
    whole_words: bool
    specials: int
    """The number of special tokens of every example."""
    seed: int
    frequencies: np.ndarray
    """int32 [V]: the group of `FREQUENCIES` of each token."""

    def collate(self, batch: Batch, epoch: int | None) -> Batch:
        """Return a packed batch with masks: `input_ids` changed, and P positions a row to predict.

        `epoch` is None in evaluation, whose masks are always the same.

        New keys are `masked_positions`, `masked_labels` (int32 [B, P]) and `masked_weights` (float32 [B, P], 1 for a token
        to predict, 0 for padding). For one row length, P is one of two numbers, and the larger one holds any row. In
        evaluation there is also `masked_frequencies` (int32 [B, P]), the group of each token to predict.
        """
        rows, length = batch["input_ids"].shape
        slots = batch["example_mask"].shape[1]
        marked = batch["input_ids"].ravel()
        ids = marked & (INSIDE_WORD - 1)
        keys = example_keys(_epoch_key(self.seed, epoch), batch["example_ids"].ravel())
        budget = self._budget(batch, keys)
        at = np.flatnonzero(self.vocabulary.maskable[ids] & (batch["segment_ids"].ravel() > 0))
        example = at // length * slots + batch["segment_ids"].ravel()[at] - 1
        draws = _Draws(keys[example], batch["position_ids"].ravel()[at].astype(np.uint64))
        inside = self.vocabulary.inside[ids[at]] | (marked[at] >= INSIDE_WORD) if self.whole_words else None
        chosen = _choose(at, example, budget, draws, inside)
        at, draws = at[chosen], draws.take(chosen)
        positions, labels, weights = (np.zeros((rows, self._width(budget, rows, slots, length)), t) for t in _TYPES)
        row = at // length
        column = np.arange(len(at)) - np.searchsorted(row, row)
        positions[row, column], labels[row, column], weights[row, column] = at % length, ids[at], 1
        ids[at] = self._shown(ids[at], draws)
        more = {"masked_positions": positions, "masked_labels": labels, "masked_weights": weights}
        if epoch is None:
            more["masked_frequencies"] = self.frequencies[labels]
        return {**batch, "input_ids": ids.reshape(rows, length), **more}

    def _budget(self, batch: Batch, keys: np.ndarray) -> np.ndarray:
        """Return how many tokens of each slot may be chosen, from its length alone, which all hosts know for all rows."""
        expected = self.probability * np.maximum(lengths_of(batch).ravel() - self.specials, 0)
        return np.floor(expected + uniform(keys, 0, _COUNT)).astype(np.int64)

    def _width(self, budget: np.ndarray, rows: int, slots: int, length: int) -> int:
        """Return P: enough for nearly every row, else enough for the worst row, whose program is rarely compiled.

        A row's count is `probability` of its tokens, within one token for each example. The sum of the roundings has a
        standard deviation of at most sqrt(slots) / 2; one row in 300,000 exceeds four and a half of these.
        """
        expected = self.probability * length
        usual = _round_up(int(np.ceil(expected + 2.25 * np.sqrt(slots))), 8)
        worst = _round_up(int(np.ceil(expected)) + slots, 8)
        needed = int(budget.reshape(rows, slots).sum(1).max())
        return min(usual if needed <= usual else worst, length)

    def _shown(self, ids: np.ndarray, draws: _Draws) -> np.ndarray:
        """Return the ids that replace chosen tokens: [MASK], another token or the same."""
        kind, other = draws.uniform(_KIND), draws.uniform(_OTHER)
        replacements = self.vocabulary.replacements
        random = replacements[(other * len(replacements)).astype(np.int64)]
        return np.where(kind < _MASKED, self.vocabulary.mask_id, np.where(kind < _REPLACED, random, ids))


_TYPES: tuple[Any, ...] = (np.int32, np.int32, np.float32)


@dataclass(frozen=True)
class _Draws:
    """Random numbers for some tokens."""

    keys: np.ndarray
    """The key of each token's example in this epoch."""
    positions: np.ndarray
    """The position of each token in its example."""

    def take(self, indices: np.ndarray) -> _Draws:
        return _Draws(self.keys[indices], self.positions[indices])

    def uniform(self, purpose: int) -> np.ndarray:
        """Return a number from 0 to below 1 for each token."""
        return uniform(self.keys, self.positions + np.uint64(1), purpose)


def _choose(
    at: np.ndarray, example: np.ndarray, budget: np.ndarray, draws: _Draws, inside: np.ndarray | None
) -> np.ndarray:
    """Return the chosen ones of the tokens at `at`, in their order: words in random order up to each example's budget.

    Args:
      at: flat indices of tokens, ascending.
      example: the example of each token.
      budget: the number of tokens that each example may choose.
      draws: the random numbers of each token.
      inside: whether a token continues the word before it; None: each token is a word.
    """
    order = draws.uniform(_ORDER)
    if inside is None:
        ranked, rank = rank_within(example, order)
        return np.sort(ranked[rank < budget[example[ranked]]])
    apart = np.ones(len(at), bool)
    apart[1:] = (np.diff(at) != 1) | (example[1:] != example[:-1])
    word = np.cumsum(apart | ~inside) - 1
    first = np.searchsorted(word, np.arange(word[-1] + 1 if len(word) else 0))
    ranked, rank = rank_within(example[first], order[first])
    taken = _fill(np.bincount(word)[ranked], example[first][ranked], rank, budget)
    is_chosen = np.zeros(len(first), bool)
    is_chosen[ranked[taken]] = True
    return np.flatnonzero(is_chosen[word])


def _fill(sizes: np.ndarray, example: np.ndarray, rank: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Return whether each word is chosen: each example chooses, by rank, every word that still fits its budget.

    Words are sorted by example, then by rank.
    """
    taken = np.zeros(len(sizes), bool)
    begins = np.flatnonzero(rank == 0)
    counts, room = np.diff(np.append(begins, len(sizes))), budget[example[begins]]
    for turn in range(int(counts.max(initial=0))):
        open_ = (room > 0) & (turn < counts)
        begins, counts, room = begins[open_], counts[open_], room[open_]
        words = begins + turn
        fits = sizes[words] <= room
        taken[words[fits]] = True
        room -= np.where(fits, sizes[words], 0)
    return taken


def _epoch_key(seed: int, epoch: int | None) -> np.ndarray:
    return purpose_key(_PURPOSE, seed, _EVALUATION if epoch is None else epoch)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
