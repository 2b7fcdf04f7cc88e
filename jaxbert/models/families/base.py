"""What tells one family of BERT-like models from another: its names, its classes and where its parts are.

A family is data. How it computes is the part of `encoder` and `heads`. Nothing here imports JAX, and transformers are
imported when a configuration's class is asked for: commands and readers of data ask a family too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One family. Names are PyTorch's, with dots; those of parts are without the prefix."""

    model_type: str
    """The value of `model_type` in `config.json`."""
    prefix: str
    """How the name of every tensor outside the head begins, without the dot."""
    architecture: str
    """How the names of its classes in transformers begin."""
    config_class: Callable[[], Any]
    """Imports the class of its configuration, which takes seconds, and returns it."""
    published: Mapping[str, Mapping[str, Any]]
    """The configuration of well-known checkpoints, as far as it differs from the defaults of the class."""

    layers: Path
    """Where the encoder's layers are; ours are one stack there."""
    query: str
    """The dense layer of the queries in each layer; an encoder is known by it."""
    embeddings: str
    """The part with the embeddings."""
    pooler: str
    """The part that a checkpoint may lack or have in vain, for only some heads use it."""
    word_embeddings: str
    """The table of the word embeddings."""
    sizes: Mapping[str, tuple[str, int]]
    """By key of the configuration, the tensor and the axis that show it."""

    head_groups: frozenset[str]
    """First parts of names that hold several heads; each second part is a head."""
    word_scores: str
    """The head that scores the words; its `decoder` may be the table of the word embeddings."""
    classifier: Path
    """The dense layer of a head that scores labels."""
    classifiers: frozenset[str]
    """The heads, as `class_of` takes them, whose tensors have these same names, so that one could be read as another."""

    norms: frozenset[str]
    """Names of LayerNorms; their weight is our `scale`."""
    tables: str
    """How the names of embeddings end; their weight is our `embedding`."""
    old_leaves: Mapping[str, str]
    """Old names of what a LayerNorm holds, to today's."""
    buffers: tuple[str, ...]
    """Last parts of names that some files hold and no model trains."""
    look_alikes: frozenset[str]
    """Prefixes of other families whose layers have the same names."""
    foreign_keys: Mapping[str, str]
    """Keys that a configuration of the family lacks, and the models of the same shape that they tell from it."""

    tokenizer: str
    """The class of transformers that reads texts where no file names one."""
    special_tokens: Mapping[str, str]
    """By kind, in the order of a new vocabulary."""
    piece_marker: str
    """How a token begins that goes on with the word before it."""

    @property
    def below_heads(self) -> tuple[str, str]:
        """The parts that every head reads: embeddings and encoder."""
        return self.embeddings, self.layers[0]

    def class_of(self, head: str) -> str:
        """Return the class of transformers for a head, `ForMaskedLM`, or for none, `Model`; a whole name stays."""
        return head if head.startswith(self.architecture) else f"{self.architecture}{head}"

    def head_of(self, class_name: str) -> str:
        """Return the head of a class, `ForMaskedLM`; the inverse of `class_of`."""
        return class_name.removeprefix(self.architecture)

    def is_head(self, name: str) -> bool:
        """Say whether a tensor belongs to a head."""
        return not name.startswith(f"{self.prefix}.")

    def group_of(self, name: str) -> str:
        """Return the part of a tensor that is new as a whole or not at all: the pooler, or a head."""
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] in (self.prefix, *self.head_groups) else parts[0]

    def is_pooler(self, name: str) -> bool:
        """Say whether a tensor belongs to the pooler."""
        return self.group_of(name) == f"{self.prefix}.{self.pooler}"

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer to which a tensor belongs; None outside the layers."""
        match = re.match(rf"{re.escape('.'.join((self.prefix, *self.layers)))}\.(\d+)\.", name)
        return int(match[1]) if match else None
