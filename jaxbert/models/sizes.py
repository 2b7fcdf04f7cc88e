"""New models by size, as in "Well-Read Students Learn Better" (Turc et al., 2019); base and large as in BERT."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256},
    "small": {"num_hidden_layers": 4, "hidden_size": 512},
    "base": {"num_hidden_layers": 12, "hidden_size": 768},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024},
}


def sized_config(size: str, vocab_size: int, **options: Any) -> BertConfig:
    """Return the configuration of a new model; heads are 64 wide and the feed-forward block has four times the width."""
    width = SIZES[size]["hidden_size"]
    return BertConfig(
        vocab_size=vocab_size, **SIZES[size], num_attention_heads=width // 64, intermediate_size=4 * width, **options
    )
