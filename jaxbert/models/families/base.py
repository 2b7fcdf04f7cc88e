"""The description of a family of BERT-like models: its names, its classes and the paths of its parts.

A family is data. `encoder` and `heads` compute it. Nothing here imports JAX, and transformers is imported only when a
configuration's class is requested, because commands and readers of data use a family too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One family. Names are PyTorch's, with dots; those of parts do not include the prefix."""

    model_type: str
    """The value of `model_type` in `config.json`."""
    prefix: str
    """The prefix of every tensor's name outside the head, without the dot."""
    architecture: str
    """The prefix of the names of its classes in transformers."""
    config_class: Callable[[], Any]
    """A function that imports the class of its configuration, which takes seconds, and returns it."""
    published: Mapping[str, Mapping[str, Any]]
    """The configurations of well-known checkpoints: the keys that differ from the defaults of the class."""

    layers: Path
    """The path of the encoder's layers; ours are one stack there."""
    query: str
    """The dense layer of the queries in each layer; its name identifies an encoder."""
    embeddings: str
    """The part that holds the embeddings."""
    pooler: str
    """The part that a checkpoint may lack, or hold without use, because only some heads need it."""
    word_embeddings: str
    """The table of the word embeddings."""
    sizes: Mapping[str, tuple[str, int]]
    """For each key of the configuration, a tensor and an axis that show its value."""

    head_groups: frozenset[str]
    """First parts of names under which there are several heads; the second part of a name is the head."""
    word_scores: str
    """The head that scores the words; its `decoder` may be the table of the word embeddings."""
    classifier: Path
    """The dense layer of a head that scores labels."""
    classifiers: frozenset[str]
    """The heads, as `class_of` takes them, whose tensors have these names, so that one could be read as another."""

    norms: frozenset[str]
    """Names of LayerNorms; their weight is our `scale`."""
    tables: str
    """The suffix of the names of embeddings; their weight is our `embedding`."""
    old_leaves: Mapping[str, str]
    """Old names of a LayerNorm's tensors -> current names."""
    buffers: tuple[str, ...]
    """Last parts of names of tensors that some files hold and no model trains."""
    look_alikes: frozenset[str]
    """Prefixes of other families whose layers have the same names."""
    foreign_keys: Mapping[str, str]
    """Keys that a configuration of the family never has -> the models of the same shape that have them."""

    tokenizer: str
    """The class of transformers that reads texts if no file names one."""
    special_tokens: Mapping[str, str]
    """The special tokens by kind, in the order of a new vocabulary."""
    piece_marker: str
    """The prefix of a token that continues the word before it."""

    @property
    def below_heads(self) -> tuple[str, str]:
        """The parts that every head uses: embeddings and encoder."""
        return self.embeddings, self.layers[0]

    def class_of(self, head: str) -> str:
        """Return the class in transformers for a head, `ForMaskedLM`, or no head, `Model`; complete names stay unchanged."""
        return head if head.startswith(self.architecture) else f"{self.architecture}{head}"

    def head_of(self, class_name: str) -> str:
        """Return the head of a class, `ForMaskedLM`; the inverse of `class_of`."""
        return class_name.removeprefix(self.architecture)

    def is_head(self, name: str) -> bool:
        """Return whether a tensor belongs to a head."""
        return not name.startswith(f"{self.prefix}.")

    def group_of(self, name: str) -> str:
        """Return the part of a tensor that is either completely new or not new: the pooler, or a head."""
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] in (self.prefix, *self.head_groups) else parts[0]

    def is_pooler(self, name: str) -> bool:
        """Return whether a tensor belongs to the pooler."""
        return self.group_of(name) == f"{self.prefix}.{self.pooler}"

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer to which a tensor belongs, or None if it belongs to no layer."""
        match = re.match(rf"{re.escape('.'.join((self.prefix, *self.layers)))}\.(\d+)\.", name)
        return int(match[1]) if match else None
