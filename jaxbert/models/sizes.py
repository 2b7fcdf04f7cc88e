"""New models by size, as in "Well-Read Students Learn Better" (Turc et al., 2019); base and large as in BERT.

And the shapes of well-known checkpoints, for where only a shape is needed and the Hub is out of reach.
"""

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


_MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_PUBLISHED: dict[str, tuple[str | dict[str, Any], int]] = {
    "bert-base-uncased": ("base", 30_522),
    "bert-base-cased": ("base", 28_996),
    "bert-large-uncased": ("large", 30_522),
    "bert-large-cased": ("large", 28_996),
    "bert-base-chinese": ("base", 21_128),
    "bert-base-multilingual-cased": ("base", 119_547),
    "hfl/chinese-roberta-wwm-ext": ("base", 21_128),
    "sentence-transformers/all-MiniLM-L6-v2": (_MINILM, 30_522),
}


def published_config(name: str) -> BertConfig | None:
    """Return the shape of a well-known checkpoint as its authors published it, or None for any other name."""
    known = _PUBLISHED.get(name.removeprefix("google-bert/"))
    if known is None:
        return None
    shape, vocab_size = known
    return sized_config(shape, vocab_size) if isinstance(shape, str) else BertConfig(vocab_size=vocab_size, **shape)
