"""Where the tensors of a checkpoint do not fit a model: say which, how many, and what they have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from transformers import BertConfig

from jaxbert.interop.read import wrapper_of
from jaxbert.plain import listed

Shapes = Mapping[str, tuple[int, ...]]

_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")
_EMBEDDINGS = "bert.embeddings.{}_embeddings.weight"
_SIZES = {
    "vocab_size": (_EMBEDDINGS.format("word"), 0),
    "max_position_embeddings": (_EMBEDDINGS.format("position"), 0),
    "type_vocab_size": (_EMBEDDINGS.format("token_type"), 0),
    "hidden_size": (_EMBEDDINGS.format("word"), 1),
    "intermediate_size": ("bert.encoder.layer.0.intermediate.dense.weight", 0),
}
"""By key of the configuration, the tensor and the axis that show it."""


@dataclass(frozen=True)
class Misfit:
    """The tensors that do not fit; it is false where there are none."""

    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, str]
    """Name to `[found] instead of [expected]`."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        shapes = [f"{name} {shapes}" for name, shapes in self.misshapen.items()]
        parts = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": shapes}
        return "; ".join(f"{what}: {listed(tensors)}" for what, tensors in parts.items() if tensors)

    def reason(self, tensors: Mapping[str, np.ndarray], config: BertConfig) -> str:
        """Return what the misfits have in common, in brackets; empty where nothing is seen."""
        found = [*_differing_sizes(tensors, config), *self._layers(tensors, config), *self._names(tensors)]
        return f" ({'; '.join(found)})" if found else ""

    def _layers(self, tensors: Mapping[str, np.ndarray], config: BertConfig) -> list[str]:
        layers = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
        if not layers or len(layers) == config.num_hidden_layers:
            return []
        ours = set(range(config.num_hidden_layers))
        odd = [n for n in self.missing + self.unexpected if (m := _LAYER.match(n)) and int(m[1]) in layers ^ ours]
        return [
            f"{_all_of(len(odd), self)} of encoder.layer.{_span(layers ^ ours)}: the checkpoint has {len(layers)} layers, "
            f"its configuration num_hidden_layers {config.num_hidden_layers}"
        ]

    def _names(self, tensors: Collection[str]) -> list[str]:
        """Say where the names are those of a wrapper, or of another kind of model."""
        wrapper = wrapper_of(tensors)
        others = [name for name in tensors if not name.startswith(wrapper)]
        if wrapper and others:
            return [
                f"the encoder's names begin with {wrapper}, but those of {len(others)} tensors do not "
                f"({listed(others[:1])}): save the encoder by itself, by its save_pretrained()"
            ]
        first = Counter(name.partition(".")[0] for name in tensors)
        if self.missing and first and not first["bert"]:
            most, count = first.most_common(1)[0]
            return [
                f"{count} of {len(tensors)} names begin with {most}.: this is no BERT, or one inside of another model"
            ]
        return []


def _all_of(count: int, misfit: Misfit) -> str:
    whole = len(misfit.missing) + len(misfit.unexpected) + len(misfit.misshapen)
    return f"all {count} are" if count == whole else f"{count} are"


def _span(layers: set[int]) -> str:
    low, high = min(layers), max(layers)
    return str(low) if low == high else f"{low} to {high}"


def _differing_sizes(tensors: Mapping[str, np.ndarray], config: BertConfig) -> list[str]:
    found = []
    for key, (name, axis) in _SIZES.items():
        tensor, expected = tensors.get(name), getattr(config, key)
        if tensor is not None and tensor.ndim == 2 and tensor.shape[axis] != expected:
            found.append(f"{key} is {tensor.shape[axis]} in the checkpoint, {expected} in its configuration")
    return found
