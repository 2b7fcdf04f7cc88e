"""BERT without padding in PyTorch: the examples of a step follow one another in one row of tokens.

Modules and weights are those of transformers' BertForSequenceClassification; only attention and pooling are done here. On a
GPU in bfloat16, attention is PyTorch's own variable-length flash attention; elsewhere only queries, keys and values are
padded for it.
Axis letters: T tokens of the step, N segments (examples, then padding), L longest segment, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

Packed = dict[str, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Packed, int, float], Tensor]


def pack(examples: list[list[int]], *, longest: int, capacity: int | None = None, fill_segments: int = 0) -> Packed:
    """Concatenate the examples.

    With `capacity`, padding tokens follow in `fill_segments` segments of their own, some of them empty, so that all steps
    have the same shapes.

    Returns:
      input_ids and position_ids [1, T]; starts int32 [N + 1], the start of each segment, and the end.
    """
    lengths = [len(example) for example in examples]
    missing = 0 if capacity is None else capacity - sum(lengths)
    for _ in range(fill_segments):
        part = min(missing, longest)
        lengths.append(part)
        missing -= part
    if missing:
        raise ValueError(f"{sum(lengths)} tokens do not fill {capacity} in segments of at most {longest}")
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = np.zeros(starts[-1], np.int64)
    real = np.concatenate(examples)
    ids[: len(real)] = real
    positions = np.arange(len(ids)) - np.repeat(starts[:-1], lengths)
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "starts": torch.from_numpy(starts),
    }


def add_grid(packed: Packed) -> Packed:
    """Add the arrays of `padded_attention`: grid [N, L], the token at each place; is_token [N, L]; token places [T]."""
    starts = packed["starts"].long()
    lengths = starts.diff()
    column = torch.arange(int(lengths.max()))
    is_token = column[None] < lengths[:, None]
    grid = torch.where(is_token, starts[:-1, None] + column[None], 0)
    return {**packed, "grid": grid, "is_token": is_token, "place": is_token.flatten().nonzero()[:, 0]}


def flash_attention(
    q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, packed: Packed, longest: int, dropout: float
) -> Tensor:
    """Compute attention within segments by the variable-length flash kernel.

    `varlen_attn`, its public name, does not support dropout of the weights; the operator below does.
    """
    starts = packed["starts"]
    if not dropout:
        return varlen_attn(q_THK, k_THK, v_THK, starts, starts, longest, longest)
    return torch.ops.aten._flash_attention_forward(
        q_THK, k_THK, v_THK, starts, starts, longest, longest, dropout, False, False, scale=q_THK.shape[-1] ** -0.5
    )[0]


def padded_attention(
    q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, packed: Packed, longest: int, dropout: float
) -> Tensor:
    """Compute attention within segments that are padded only for this operation."""
    grid, is_token = packed["grid"], packed["is_token"]
    first = torch.arange(grid.shape[1], device=grid.device) == 0  # no row of the softmax may be empty
    mask = (is_token | first)[:, None, None]
    q, k, v = (x[grid].transpose(1, 2) for x in (q_THK, k_THK, v_THK))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(0, 1)[packed["place"]]


class Unpadded(torch.nn.Module):
    """A classifier over packed tokens that holds a transformers model."""

    def __init__(self, model: Any, attend: Attend, *, longest: int, attention_dropout: float) -> None:
        super().__init__()
        self.model, self._attend = model, attend
        self._longest, self._dropout = longest, attention_dropout

    def forward(self, packed: Packed, examples: int) -> Tensor:
        """Return the logits of the first `examples` segments, [examples, C]."""
        bert = self.model.bert
        hidden_TD = bert.embeddings(
            input_ids=packed["input_ids"],
            token_type_ids=torch.zeros_like(packed["input_ids"]),
            position_ids=packed["position_ids"],
        )[0]
        for layer in bert.encoder.layer:
            hidden_TD = self._layer(layer, hidden_TD, packed)
        first_BD = hidden_TD[packed["starts"][:examples].long()]
        pooled_BD = bert.pooler.activation(bert.pooler.dense(first_BD))
        return self.model.classifier(self.model.dropout(pooled_BD))

    def _layer(self, layer: Any, hidden_TD: Tensor, packed: Packed) -> Tensor:
        heads = layer.attention.self
        q, k, v = (
            project(hidden_TD).unflatten(-1, (heads.num_attention_heads, -1))
            for project in (heads.query, heads.key, heads.value)
        )
        dropout = self._dropout if self.training else 0.0
        mixed_TD = self._attend(q, k, v, packed, self._longest, dropout).flatten(1)
        attended_TD = layer.attention.output(mixed_TD, hidden_TD)
        return layer.output(layer.intermediate(attended_TD), attended_TD)
