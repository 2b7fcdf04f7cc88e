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
class FlaxSequenceClassifierOutput(FlaxModelOutput):
    """Scores of each example; the last two are there when asked for."""

    slot_fields: ClassVar[tuple[str, ...]] = ("logits",)

    logits: Array | None = None
    """[B, C], or [B, S, C] for packed rows; before the softmax."""
    hidden_states: tuple[Array, ...] | None = None
    """N + 1 arrays [B, T, D]: the embeddings, then each layer's output."""
    attentions: tuple[Array, ...] | None = None
    """N arrays [B, H, T, T]."""
