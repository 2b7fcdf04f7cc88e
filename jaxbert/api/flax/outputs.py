"""The outputs of the public classes: values by attribute, key or position, as in the legacy classes.

Each output is a JAX pytree, so a jitted function of the user can return it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any, ClassVar, NoReturn

import flax.struct
from jax import Array


class FlaxModelOutput(OrderedDict):
    """The values of a call that are not None, by attribute, key or position; a field may hold any tree, tracers included.

    Values are replaced by `replace(field=value)`, which returns another output, or by `output["field"] = value`.
    """

    slot_fields: ClassVar[tuple[str, ...]] = ()
    """Fields with an axis S of example slots, which outputs of unpacked input do not have."""

    def __post_init__(self) -> None:
        for name, value in zip(self._names(), self._values(), strict=True):
            if value is not None:
                super().__setitem__(name, value)

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._names())

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are not None, in the order of the fields."""
        return tuple(value for value in self._values() if value is not None)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._names():
            raise KeyError(f"{type(self).__name__} has no field {key!r}: it has {', '.join(self._names())}")
        object.__setattr__(self, key, value)
        super().__setitem__(key, value)

    def copy(self) -> FlaxModelOutput:
        """Return an output with the same values."""
        return type(self)(*self._values())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} keeps its fields: make another one by replace(field=value)")

    __delitem__ = pop = popitem = setdefault = update = clear = move_to_end = _refuse


@flax.struct.dataclass
class FlaxBaseModelOutputWithPoolingAndCrossAttentions(FlaxModelOutput):
    """Hidden vectors without a head. An encoder has no past and no cross-attentions; these fields are always None."""

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
    """Scores of each example; here and below, the last two fields are None unless requested."""

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
    """A score for each choice; hidden states and attentions have B times the number of choices rows."""

    slot_fields: ClassVar[tuple[str, ...]] = ("logits",)

    logits: Array | None = None
    """[B, choices], or [B, S] for packed rows, where every choice is its own example."""
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
    """Scores of each token as the first and as the last of an answer."""

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
    """The scores of both pretraining tasks."""

    slot_fields: ClassVar[tuple[str, ...]] = ("seq_relationship_logits",)

    prediction_logits: Array | None = None
    """[B, T, V]."""
    seq_relationship_logits: Array | None = None
    """[B, 2], or [B, S, 2] for packed rows."""
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
