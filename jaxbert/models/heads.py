"""BERT with a head on top: each maps a packed batch to a dictionary of outputs."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax import Array
from transformers import BertConfig

from jaxbert.models.dropout import dropout
from jaxbert.models.encoder import BertModule, Call, make_linear


class SequenceClassification(nnx.Module):
    """A label for each example, from the pooled vector of its first token."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.bert = BertModule(config, dtype, rngs)
        self.classifier = make_linear(config.hidden_size, config.num_labels or 2, config, dtype, rngs)
        rate = getattr(config, "classifier_dropout", None)
        self.rate = config.hidden_dropout_prob if rate is None else rate

    def __call__(
        self, batch: dict[str, Array], key: Array | None, call: Call, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `logits` [B, S, C] and the encoder's output."""
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        first_BSD, encoded = self.bert.encode_positions(batch, batch["cls_positions"], encoder_key, call, head_mask_NH)
        pooled_BSD = self.bert.pooler(first_BSD)
        return {"logits": self.classifier(dropout(pooled_BSD, self.rate, head_key)), "encoded": encoded}
