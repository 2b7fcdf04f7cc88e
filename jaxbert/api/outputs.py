"""What the public classes return: values by attribute, key or position, as the legacy classes gave them.

Each output is a JAX pytree, so it can leave a jitted function of the user's.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import ClassVar

import flax.struct
from jax import Array
from transformers.utils import ModelOutput


class FlaxModelOutput(ModelOutput):
    """A `ModelOutput` whose fields may hold anything that JAX puts in a tree, tracers included."""

    slot_fields: ClassVar[tuple[str, ...]] = ()
    """Fields with an axis S of example slots, which unpacked input does not have."""

    def __post_init__(self) -> None:
        # The base class takes a first field that is no torch or NumPy array for an iterator of pairs and walks over it.
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if value is not None:
                OrderedDict.__setitem__(self, field.name, value)


@flax.struct.dataclass
class FlaxBaseModelOutputWithPoolingAndCrossAttentions(FlaxModelOutput):
    """Hidden vectors without a head; a BERT that only reads has no past and no cross-attentions, they are always None."""

    slot_fields: ClassVar[tuple[str, ...]] = ("pooler_output",)

    last_hidden_state: Array | None = None
    """[B, T, D]."""
    pooler_output: Array | None = None
    """[B, D], or [B, S, D] for packed rows; None without a pooler."""
    hidden_states: tuple[Array, ...] | None = None
    """N + 1 arrays [B, T, D]: the embeddings, then each layer's output."""
    past_key_values: None = None
    attentions: tuple[Array, ...] | None = None
    """N arrays [B, H, T, T]."""
    cross_attentions: None = None


@flax.struct.dataclass
class FlaxSequenceClassifierOutput(FlaxModelOutput):
    """Scores of each example; the last two are there when asked for, here and below."""

    slot_fields: ClassVar[tuple[str, ...]] = ("logits",)

    logits: Array | None = None
    """[B, C], or [B, S, C] for packed rows; before the softmax."""
    hidden_states: tuple[Array, ...] | None = None
    """N + 1 arrays [B, T, D]: the embeddings, then each layer's output."""
    attentions: tuple[Array, ...] | None = None
    """N arrays [B, H, T, T]."""


@flax.struct.dataclass
class FlaxNextSentencePredictorOutput(FlaxModelOutput):
    """Scores for "the second sentence follows" and for "it does not"."""

    slot_fields: ClassVar[tuple[str, ...]] = ("logits",)

    logits: Array | None = None
    """[B, 2], or [B, S, 2] for packed rows."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@flax.struct.dataclass
class FlaxMultipleChoiceModelOutput(FlaxModelOutput):
    """A score for each choice; hidden states and attentions are those of B times the choices rows."""

    slot_fields: ClassVar[tuple[str, ...]] = ("logits",)

    logits: Array | None = None
    """[B, choices], or [B, S] for packed rows, where every choice is an example of its own."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@flax.struct.dataclass
class FlaxTokenClassifierOutput(FlaxModelOutput):
    """Scores of each token."""

    logits: Array | None = None
    """[B, T, C]."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@flax.struct.dataclass
class FlaxQuestionAnsweringModelOutput(FlaxModelOutput):
    """Scores of each token as an answer's first and as its last."""

    start_logits: Array | None = None
    """[B, T]."""
    end_logits: Array | None = None
    """[B, T]."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@flax.struct.dataclass
class FlaxMaskedLMOutput(FlaxModelOutput):
    """Scores of every word of the vocabulary at each token."""

    logits: Array | None = None
    """[B, T, V]."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@flax.struct.dataclass
class FlaxBertForPreTrainingOutput(FlaxModelOutput):
    """What both tasks of the pretraining give."""

    slot_fields: ClassVar[tuple[str, ...]] = ("seq_relationship_logits",)

    prediction_logits: Array | None = None
    """[B, T, V]."""
    seq_relationship_logits: Array | None = None
    """[B, 2], or [B, S, 2] for packed rows."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
