"""BERT of transformers without padding: the examples of a step are flattened into one row.

`DataCollatorWithFlattening` flattens, a head takes the first token of each example, and attention reads where examples
begin. transformers computes such attention by the package flash-attn; here PyTorch's own flash kernel takes its place,
registered under a name of its own. `sdpa` would not do: BERT makes its mask of `attention_mask` alone, and without one every
example attends to all others.
Axis letters: T tokens of the step, H heads, K head width, B examples, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AttentionInterface, BertForSequenceClassification, DataCollatorWithFlattening
from transformers.modeling_outputs import SequenceClassifierOutput
from unpadded import add_grid, flash_attention, padded_attention

ATTENTION = "torch_varlen"
"""The name under which `attend` is registered."""


class FlatCollator:
    """Flattens a batch; there stays one label for each example."""

    def __init__(self) -> None:
        self._flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=True)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return input_ids and position_ids [1, T], starts and longest example for attention, and labels [B]."""
        flat = self._flatten([{"input_ids": feature["input_ids"]} for feature in features])
        return {**flat, "labels": torch.tensor([feature["labels"] for feature in features])}


def attend(
    module: torch.nn.Module,
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTK: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention within examples, [1, T, H, K], with the interface of transformers' attention functions."""
    q, k, v = (x_BHTK[0].transpose(0, 1) for x_BHTK in (q_BHTK, k_BHTK, v_BHTK))
    if q.is_cuda and q.dtype != torch.float32:
        return flash_attention(q, k, v, {"starts": cu_seq_lens_q}, max_length_q, dropout)[None], None
    packed = {name: x.to(q.device) for name, x in add_grid({"starts": cu_seq_lens_q.cpu()}).items()}
    return padded_attention(q, k, v, packed, max_length_q, dropout)[None], None


AttentionInterface.register(ATTENTION, attend)


class FlatClassifier(BertForSequenceClassification):
    """A classifier of flattened batches; weights and names are those of `BertForSequenceClassification`."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seq_lens_q: Tensor,
        labels: Tensor | None = None,
        **more: Any,
    ) -> SequenceClassifierOutput:
        """Return the loss and logits [B, C]."""
        encoded = self.bert(input_ids, position_ids=position_ids, cu_seq_lens_q=cu_seq_lens_q, **more)
        first_BD = encoded.last_hidden_state[0, cu_seq_lens_q[:-1].long()]
        logits = self.classifier(self.dropout(self.bert.pooler(first_BD[:, None])))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
