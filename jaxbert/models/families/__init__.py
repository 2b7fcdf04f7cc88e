"""The families of models that are read, trained and written, by the `model_type` of a configuration.

A new family is an entry of `FAMILIES`, made in its own file, with its differences in computation in `encoder` and `heads`.
New models belong to the family `DEFAULT`, in the sizes of "Well-Read Students Learn Better" (Turc et al., 2019); base and
large are those of BERT.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from jaxbert.models.families.base import Family
from jaxbert.models.families.bert import BERT

if TYPE_CHECKING:
    from transformers import BertConfig

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT,)}
"""The families by `model_type`."""
DEFAULT = BERT
"""The family of new models, and of a configuration without `model_type`."""
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256},
    "small": {"num_hidden_layers": 4, "hidden_size": 512},
    "base": {"num_hidden_layers": 12, "hidden_size": 768},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024},
}
"""The sizes of new models."""


def family_of(config: BertConfig) -> Family:
    """Return the family of a configuration that `interop` read or that its class made."""
    return FAMILIES[config.model_type]


def family_of_names(names: Collection[str]) -> Family:
    """Return the family of a model by the first parts of its parameters' names."""
    return next(family for family in FAMILIES.values() if family.prefix in names)


def longest_input(config: BertConfig) -> int:
    """Return the most tokens that a model reads at once."""
    return config.max_position_embeddings


def sized_config(size: str, vocab_size: int, **options: Any) -> BertConfig:
    """Return the configuration of a new model; heads are 64 wide and the feed-forward block has four times the width."""
    width = SIZES[size]["hidden_size"]
    shape = SIZES[size] | {"num_attention_heads": width // 64, "intermediate_size": 4 * width}
    return DEFAULT.config_class()(vocab_size=vocab_size, **shape, **options)


def published_config(name: str) -> BertConfig | None:
    """Return the published configuration of a well-known checkpoint, or None for any other name."""
    name = name.removeprefix("google-bert/")
    found = next((family for family in FAMILIES.values() if name in family.published), None)
    return None if found is None else found.config_class()(**found.published[name])
