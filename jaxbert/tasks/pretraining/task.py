"""Pretraining: predict masked words and, with pairs, whether the second half of an example follows the first.

A batch has `masked_positions`, `masked_labels` and `masked_weights` [B, P] from `masking`; `pairs` makes the examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.labels import Head
from jaxbert.data.overview import TRAIN, Overview, View, lower_cases
from jaxbert.data.sources import Role
from jaxbert.data.store import cache_folder
from jaxbert.errors import UserError
from jaxbert.models.heads import MaskedLM, PreTraining
from jaxbert.tasks import settings_of, with_settings
from jaxbert.tasks.base import Batch, Inputs, Sums, Task, TaskInputs
from jaxbert.tasks.pretraining.corpus import Corpus, count_tokens, read_corpus, view_corpus
from jaxbert.tasks.pretraining.documents import Documents, open_documents
from jaxbert.tasks.pretraining.masking import FREQUENCIES, Masking, MaskingVocabulary, frequency_groups
from jaxbert.tasks.pretraining.pairs import Recipe, make_pair_examples
from jaxbert.tasks.reading import ReadingProgress, named_sets, set_name, tokenizing_shard, training_spec

# Keeps this draw apart from the other draws of the same seed.
_PURPOSE = 0x646F6373


@dataclass(frozen=True)
class Pretraining(Task):
    """Masked-language modeling; the loss is the mean over masked tokens plus, with pairs, the mean over pairs."""

    name = "pretraining"
    answer_keys = ()
    default_metric = "loss"
    next_sentence: bool = True

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all corpora, the small ones first."""
        data, pretrain, seed = config.data, config.pretrain, config.train.seed
        vocabulary = MaskingVocabulary.of(tokenizer)
        recipe = Recipe(max_length, pretrain.next_sentence, tokenizer.cls_token_id, tokenizer.sep_token_id, seed)
        if max_length < recipe.specials + 2:
            raise UserError(f"data.max_length is {max_length}, but a pair needs at least {recipe.specials + 2} tokens")
        folder = cache_folder(data.cache_dir)

        def find(specs: dict[str, str], role: Role) -> dict[str, Documents]:
            return {name: open_documents(spec, data, pretrain, role=role) for name, spec in specs.items()}

        def tokenize(documents: Documents) -> Corpus:
            with ReadingProgress(documents.name) as reading:
                shard = tokenizing_shard()
                return read_corpus(documents, tokenizer, pretrain, folder=folder, on_documents=reading.add, shard=shard)

        views: list[View] = []

        def examples(name: str, corpus: Corpus, chosen: np.ndarray | None = None) -> Examples:
            views.append(view_corpus(name, corpus, chosen, max_length))
            return _examples(corpus, recipe, folder, chosen)

        def read(role: str, found: dict[str, Documents]) -> dict[str, Examples]:
            return {name: examples(set_name(role, name), tokenize(documents)) for name, documents in found.items()}

        train = open_documents(training_spec(data), data, pretrain, limit=data.limit)
        validation = find(named_sets(data.validation, "validation"), "validation")
        test = find(named_sets(data.test, "test"), "test")
        read_validation, read_test = read("validation", validation), read("test", test)
        corpus, kept = tokenize(train), None
        if data.validation_fraction:
            kept, held_out = split_documents(len(corpus), data.validation_fraction, seed)
            read_validation["validation"] = examples("validation", corpus, held_out)
        groups = frequency_groups(count_tokens(corpus, len(vocabulary.maskable), kept))
        whole_words = pretrain.mask == "word"
        masking = Masking(vocabulary, pretrain.masking_probability, whole_words, recipe.specials, seed, groups)
        return Inputs(
            train=examples(TRAIN, corpus, kept),
            validation=read_validation,
            test=read_test,
            task=cls(pretrain.next_sentence),
            collate=masking.collate,
            overview=Overview(views, lower_cases(tokenizer)),
        )

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Raise `UserError`: a pretrained model must be fine-tuned first."""
        raise UserError(NOT_FINE_TUNED)

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> TaskInputs:
        """Raise `UserError`, as `read_for` does."""
        raise UserError(NOT_FINE_TUNED)

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Name the task."""
        return with_settings(bert_config, self.name, next_sentence=self.next_sentence)

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> Pretraining:
        """Return the task of an export, with or without pairs."""
        return cls(bool(settings_of(bert_config).get("next_sentence", True)))

    @property
    def head(self) -> type[nnx.Module]:
        """The head that is trained on top of the encoder."""
        return PreTraining if self.next_sentence else MaskedLM

    @property
    def architecture(self) -> str:
        """The class of transformers that loads the export, without the family's name."""
        return "ForPreTraining" if self.next_sentence else "ForMaskedLM"

    def describe(self) -> str:
        """Return the predicted things in a few words."""
        return "masked words and next sentences" if self.next_sentence else "masked words"

    def totals(self, batch: Batch) -> Sums:
        """Count examples and masked tokens; a step without masked tokens counts one, as a divisor."""
        return {
            "examples": batch["example_mask"].sum(),
            "masked": jnp.maximum(batch["masked_weights"].sum(), 1.0),
        }

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum both losses in float32; the masked loss is scaled to be a mean over tokens when divided by the examples."""
        losses_BP, right_BP = self._masked(outputs, batch)
        loss = losses_BP.sum() * totals["examples"] / totals["masked"]
        if self.next_sentence:
            log_probabilities_BS2 = self._next(outputs)
            targets_BS1 = batch["labels"][..., None].astype(jnp.int32)
            chosen_BS = jnp.take_along_axis(log_probabilities_BS2, targets_BS1, axis=-1)[..., 0]
            loss -= jnp.where(batch["example_mask"], chosen_BS, 0.0).sum()
        return {
            "loss": loss,
            "examples": batch["example_mask"].sum(),
            "masked": batch["masked_weights"].sum(),
            "masked_correct": right_BP.sum(),
        }

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the number of correct ones of each example's masked tokens, then for each of the G groups of
        `FREQUENCIES` the summed loss of its masked tokens, and for each their number, [B, S, 1 + 2 G].

        With pairs there are two more: the log-probabilities of "next" and "random". The scores of the complete vocabulary
        would not fit a host's memory.
        """
        losses_BP, right_BP = self._masked(outputs, batch)
        group_BPG = jax.nn.one_hot(batch["masked_frequencies"], len(FREQUENCIES))
        of_group_BPG = [value_BP[..., None] * group_BPG for value_BP in (losses_BP, batch["masked_weights"])]
        of_masked_BPC = jnp.concatenate([right_BP[..., None], *of_group_BPG], axis=-1)
        slots = batch["example_mask"].shape[1]
        slot_BP = jnp.take_along_axis(batch["segment_ids"], batch["masked_positions"], axis=1) - 1
        of_examples_BSC = jnp.einsum(
            "BPS,BPC->BSC", jax.nn.one_hot(slot_BP, slots), of_masked_BPC, precision=jax.lax.Precision.HIGHEST
        )
        if not self.next_sentence:
            return of_examples_BSC
        return jnp.concatenate([of_examples_BSC, self._next(outputs)], axis=-1)

    def _masked(self, outputs: dict[str, Any], batch: Batch) -> tuple[Array, Array]:
        """Return loss and correctness of each masked token, [B, P]; 0 for padding."""
        logits_BPV = outputs["prediction_logits" if self.next_sentence else "logits"].astype(jnp.float32)
        labels_BP, weights_BP = batch["masked_labels"], batch["masked_weights"]
        losses_BP = optax.softmax_cross_entropy_with_integer_labels(logits_BPV, labels_BP)
        return losses_BP * weights_BP, (logits_BPV.argmax(-1) == labels_BP) * weights_BP

    def _next(self, outputs: dict[str, Any]) -> Array:
        return jax.nn.log_softmax(outputs["seq_relationship_logits"].astype(jnp.float32))

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute the loss of training, and the accuracy and perplexity of masked tokens."""
        groups = len(FREQUENCIES)
        right, *sums = predictions[:, : 1 + 2 * groups].sum(0, dtype=np.float64)
        losses_G, masked_G = np.reshape(sums, (2, groups))
        losses, masked = losses_G.sum(), masked_G.sum()
        count = max(masked, 1.0)
        result: dict[str, Any] = {
            "loss": losses / count,
            "masked_accuracy": right / count,
            "perplexity": math.exp(min(losses / count, 700.0)),
        }
        if self.next_sentence:
            assert examples.labels is not None
            scores, labels = predictions[:, 1 + 2 * groups :], np.asarray(examples.labels)
            next_loss = -scores[np.arange(len(labels)), labels].mean(dtype=np.float64)
            result |= {
                "nsp_accuracy": (scores.argmax(-1) == labels).mean(),
                "masked_loss": losses / count,
                "nsp_loss": next_loss,
            }
            result["loss"] += next_loss
        return {name: float(value) for name, value in result.items()} | {
            "masked_tokens": int(masked),
            "examples": len(examples),
            "by_frequency": {
                name: {"masked_tokens": int(masked_G[i]), "loss": float(losses_G[i] / masked_G[i])}
                for i, name in enumerate(FREQUENCIES)
                if masked_G[i]
            },
        }

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that are single numbers."""
        of_pairs = ["nsp_accuracy", "masked_loss", "nsp_loss"] if self.next_sentence else []
        return ["loss", "masked_accuracy", "perplexity", *of_pairs]

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Raise an error, since pretraining gives no answers.

        Raises:
          UserError: always.
        """
        raise UserError(NOT_FINE_TUNED)


NOT_FINE_TUNED = (
    "this model was pretrained and has no answers to give: fine-tune it with "
    "`jaxbert train --model.name_or_path FOLDER ...`"
)


def _examples(corpus: Corpus, recipe: Recipe, folder: Path | None, chosen: np.ndarray | None) -> Examples:
    stored = make_pair_examples(corpus, recipe, chosen=chosen, folder=folder)
    assert stored.labels is not None
    return Examples(stored.tokens, stored.labels.codes if recipe.next_sentence else None)


def split_documents(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted document indices of training and of validation, which gets `fraction` of them, at least one.

    Raises:
      UserError: if training would have no document.
    """
    taken = max(1, round(count * fraction))
    if taken >= count:
        raise UserError(
            f"data.validation_fraction is {fraction}, but there is only {count} document to split: "
            "give more documents, or data.validation"
        )
    order = np.random.default_rng([seed, _PURPOSE]).permutation(count)
    return np.sort(order[taken:]), np.sort(order[:taken])
