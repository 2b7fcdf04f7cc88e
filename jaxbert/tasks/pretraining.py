"""Pretraining: the words behind the masks and, with pairs, whether the second half of an example follows the first.

A batch holds `masked_positions`, `masked_labels` and `masked_weights` [B, P], which `data.pretraining.masking` draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.models.heads import MaskedLM, PreTraining
from jaxbert.tasks.base import Batch, GatheredTally, Sums, Tally


@dataclass(frozen=True)
class Pretraining:
    """Learn the language itself; the loss is the mean over masked tokens, plus the mean over pairs."""

    next_sentence: bool = True
    per_token: bool = False
    default_metric: str = "loss"

    @property
    def head(self) -> type[nnx.Module]:
        """The module that is trained."""
        return PreTraining if self.next_sentence else MaskedLM

    @property
    def architecture(self) -> str:
        """The class of transformers that loads the export."""
        return "BertForPreTraining" if self.next_sentence else "BertForMaskedLM"

    @property
    def answer_keys(self) -> tuple[str, ...]:
        """None: it is fine-tuned."""
        return ()

    def describe(self) -> str:
        """Say what is predicted."""
        return "masked words and next sentences" if self.next_sentence else "masked words"

    def totals(self, batch: Batch) -> Sums:
        """Count examples and masked tokens; a step without any of the latter counts one, to be divided by."""
        return {
            "examples": batch["example_mask"].sum(),
            "masked": jnp.maximum(batch["masked_weights"].sum(), 1.0),
        }

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Sum both losses in float32, that of the masked tokens scaled so that divided by the examples it is their mean."""
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
        """Return of each example its masked tokens' summed loss, their number and how many were right, [B, S, 3].

        With pairs there are two more: the log-probabilities of "next" and "random". Scores of whole vocabularies would not
        fit a host's memory.
        """
        losses_BP, right_BP = self._masked(outputs, batch)
        of_masked_BP3 = jnp.stack([losses_BP, batch["masked_weights"], right_BP], axis=-1)
        slots = batch["example_mask"].shape[1]
        slot_BP = jnp.take_along_axis(batch["segment_ids"], batch["masked_positions"], axis=1) - 1
        of_examples_BS3 = jnp.einsum(
            "BPS,BPC->BSC", jax.nn.one_hot(slot_BP, slots), of_masked_BP3, precision=jax.lax.Precision.HIGHEST
        )
        if not self.next_sentence:
            return of_examples_BS3
        return jnp.concatenate([of_examples_BS3, self._next(outputs)], axis=-1)

    def _masked(self, outputs: dict[str, Any], batch: Batch) -> tuple[Array, Array]:
        """Return loss and correctness of each masked token, [B, P], 0 where there is none."""
        logits_BPV = outputs["prediction_logits" if self.next_sentence else "logits"].astype(jnp.float32)
        labels_BP, weights_BP = batch["masked_labels"], batch["masked_weights"]
        losses_BP = optax.softmax_cross_entropy_with_integer_labels(logits_BPV, labels_BP)
        return losses_BP * weights_BP, (logits_BPV.argmax(-1) == labels_BP) * weights_BP

    def _next(self, outputs: dict[str, Any]) -> Array:
        return jax.nn.log_softmax(outputs["seq_relationship_logits"].astype(jnp.float32))

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Compute the loss as it is trained, and of masked tokens accuracy and perplexity."""
        losses, masked, right = predictions[:, :3].sum(0, dtype=np.float64)
        count = max(masked, 1.0)
        result: dict[str, Any] = {
            "loss": losses / count,
            "masked_accuracy": right / count,
            "perplexity": math.exp(min(losses / count, 700.0)),
        }
        if self.next_sentence:
            assert examples.labels is not None
            scores, labels = predictions[:, 3:], np.asarray(examples.labels)
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
        }

    def tally(self, examples: Examples) -> Tally:
        """Gather all predictions."""
        return GatheredTally(self, examples)

    def metric_names(self) -> list[str]:
        """Return the single numbers among the metrics."""
        of_pairs = ["nsp_accuracy", "masked_loss", "nsp_loss"] if self.next_sentence else []
        return ["loss", "masked_accuracy", "perplexity", *of_pairs]

    def learned(self, evaluation: dict[str, Any]) -> Pretraining:
        """Return itself: an evaluation finds nothing to keep."""
        return self

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Refuse: there is nothing to say of a text.

        Raises:
          UserError: always.
        """
        raise UserError(NOT_FINE_TUNED)


NOT_FINE_TUNED = (
    "this model was pretrained and has no answers to give: fine-tune it with "
    "`jaxbert train --model.name_or_path FOLDER ...`"
)
