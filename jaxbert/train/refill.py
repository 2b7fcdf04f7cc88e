"""Ask a model, once and packed, which other words are likely in the place of each word of the training texts.

Of each text every seventh word is masked at once, so seven passes mask each word once, with six of seven around it left to
read. Only words of one piece are masked, and only whole words are put in their place. The likeliest ones, without the word
itself, are kept with their probabilities in the cache of tokens; each epoch draws from them (`data.augment`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.config import MeshConfig, ModelConfig
from jaxbert.data import store
from jaxbert.data.augment import Fills, TokenKinds, single_words
from jaxbert.data.batches import NO_LABEL
from jaxbert.data.batches import Batch as HostBatch
from jaxbert.data.examples import Examples, content_of
from jaxbert.data.store import StoredColumn, Writer, cache_folder
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError, quoted
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.families import longest_input
from jaxbert.models.functional import make_model
from jaxbert.models.heads import MaskedLM
from jaxbert.runs.identity import FILLS, check_same_tokenizer
from jaxbert.tasks.base import Batch, Task
from jaxbert.tasks.reading import tokenizing_shard
from jaxbert.terminal import console
from jaxbert.train.evaluate import Predictor
from jaxbert.train.pretrained import model_folder, weights_checksums
from jaxbert.train.programs import layer_call
from jaxbert.train.sharding import make_key, make_mesh, platform_of

_PASSES = 7
"""BERT was trained with 15% of the tokens masked, about one of seven."""
_KEPT = 5
"""The likeliest words that are kept for each place."""
_ALIGNED = 8


def fill_words(
    name: str, tokens: Tokens, kinds: TokenKinds, tokenizer: Any, cache_dir: str | None
) -> tuple[Fills, str]:
    """Return likely words for each token of the training texts, and a text that changes with the model.

    Args:
      name: the model: a folder, a run or a name on the Hub.
      tokens: the training texts.
      kinds: the kinds of the vocabulary's tokens.
      tokenizer: the run's tokenizer.
      cache_dir: `data.cache_dir`.

    Raises:
      UserError: for a model that predicts no words, reads fewer tokens, or has another vocabulary.
    """
    said = f"train.augment: refill_model {name}"
    folder = model_folder(name)
    config = read_config(folder)
    check_same_tokenizer(said, load_tokenizer(folder, config), tokenizer)
    longest, most = int(tokens.lengths.max()), longest_input(config)
    if longest > most:
        raise UserError(
            f"{said} reads up to {most} tokens, but an example has {longest}: set data.max_length to {most}"
        )
    model = make_model(MaskedLM, config)
    params, report = load_params(folder, model, key=make_key(0))  # other heads, as of a pretraining, are left out
    if report.fresh:
        raise UserError(
            f"train.augment: refill_model predicts no masked words: {folder} lacks {quoted(report.fresh, 3)}"
        )
    mesh = make_mesh(MeshConfig())
    checksum = " ".join(weights_checksums(folder))
    content = [checksum, platform_of(mesh), content_of([Examples(tokens)]).checksum]
    task = _Filling(_allowed(kinds, tokenizer, config.vocab_size))
    collate = partial(_masked, _mask_id(said, tokenizer))
    predictor = Predictor(model, task, mesh, layer_call(ModelConfig(), mesh), collate=collate)
    stored = store.cached(
        name,
        lambda: store.entry_of(["fills", _PASSES, _KEPT, *content]),
        partial(_write, predictor, params, tokens, kinds),
        folder=cache_folder(cache_dir),
        all_have=tokenizing_shard().all_have,
        said=False,
    )
    console.print(f"refill: {name} has found words for {len(tokens):,} texts", highlight=False, soft_wrap=True)
    return Fills(stored.columns["words"], stored.columns["probabilities"]), f"{FILLS}{checksum}"


def _mask_id(said: str, tokenizer: Any) -> int:
    index = tokenizer.mask_token_id
    if index is None or index == tokenizer.unk_token_id:
        raise UserError(f"{said} has no mask token in its vocabulary, so nothing can be filled in: name another model")
    return int(index)


def _allowed(kinds: TokenKinds, tokenizer: Any, vocab_size: int) -> np.ndarray:
    """Return whether each token may be put into a text, bool [V]: a whole word, with a letter or a digit."""
    allowed = np.zeros(vocab_size, bool)
    for token, index in tokenizer.get_vocab().items():
        bracketed = token.startswith("[") and token.endswith("]")
        allowed[index] = any(map(str.isalnum, token)) and not (bracketed or kinds.special[index] or kinds.inside[index])
    return allowed


@dataclass(frozen=True, eq=False)
class _Filling(Task):
    """Predicts the likeliest words at masked tokens."""

    allowed: np.ndarray
    """bool [V]: the words to choose from."""
    name = "pretraining"
    per_token = True

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the ids of the likeliest words and their probabilities, [B, T, 2 K], float32; 0 at other tokens."""
        logits_BPV = outputs["logits"].astype(jnp.float32)
        own_BPV = jax.nn.one_hot(batch["masked_labels"], logits_BPV.shape[-1], dtype=bool)
        others_BPV = jnp.asarray(self.allowed)[None, None] & ~own_BPV
        scores_BPK, words_BPK = jax.lax.top_k(jnp.where(others_BPV, logits_BPV, -jnp.inf), _KEPT)
        found_BPM = jnp.concatenate([words_BPK.astype(jnp.float32), jax.nn.softmax(scores_BPK)], axis=-1)
        rows, length = batch["input_ids"].shape
        places_BP = jnp.where(batch["masked_weights"] > 0, batch["masked_positions"], length)
        nothing = jnp.zeros((rows, length, 2 * _KEPT), jnp.float32)
        return nothing.at[jnp.arange(rows)[:, None], places_BP].set(found_BPM, mode="drop")


def _masked(mask_id: int, batch: HostBatch, epoch: int | None) -> HostBatch:
    """Mask the tokens of a batch that have a label, and name their positions, [B, P], as pretraining does.

    At most one of seven tokens of a segment is masked, rounded up, so P follows from the shape.
    """
    labels_BT = batch.pop("token_labels")
    rows, length = labels_BT.shape
    most = -(-length // _PASSES) + batch["example_mask"].shape[1]
    width = min(-(-most // _ALIGNED) * _ALIGNED, length)
    row, place = np.nonzero(labels_BT != NO_LABEL)
    column = np.arange(len(row)) - np.searchsorted(row, row)
    positions, labels = np.zeros((2, rows, width), np.int32)
    weights = np.zeros((rows, width), np.float32)
    positions[row, column], labels[row, column], weights[row, column] = place, labels_BT[row, place], 1
    input_ids = np.where(labels_BT != NO_LABEL, np.int32(mask_id), batch["input_ids"])
    more = {"masked_positions": positions, "masked_labels": labels, "masked_weights": weights}
    return {**batch, "input_ids": input_ids, **more}


def _write(predictor: Any, params: Any, tokens: Tokens, kinds: TokenKinds, folder: Path) -> None:
    """Find words for all texts, and write them into an empty folder."""
    count = len(tokens.ids)
    words, probabilities = np.full((count, _KEPT), -1, np.int32), np.zeros((count, _KEPT), np.float32)
    places, before = single_words(tokens, kinds)
    fillable = predictor.task.allowed[tokens.ids[places]]  # not a punctuation mark
    places, before = places[fillable], before[fillable]
    for turn in range(_PASSES):
        mine = places[before % _PASSES == turn]
        if not len(mine):
            continue
        labels = np.full(count, NO_LABEL, np.int32)
        labels[mine] = tokens.ids[mine]
        found = predictor(params, Examples(tokens, token_labels=labels))[mine]
        words[mine], probabilities[mine] = found[:, :_KEPT], found[:, _KEPT:]
    columns = {"words": words, "probabilities": probabilities}
    forms = {name: StoredColumn(values.dtype.str, values.shape[1:]) for name, values in columns.items()}
    with Writer(folder, forms) as writer:
        writer.add_columns(columns)
        writer.finish(None)
