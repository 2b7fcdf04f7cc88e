"""Attention on TPUs by JAX's splash attention with segment ids.

It keeps no [T, T] array in memory, but computes every block of a row: other segments are masked and not skipped. It does not
support dropout of the weights, and its arrays must be transposed to [B, H, T, K]. `auto` takes `mosaic`; these kernels stay
for comparison on a TPU, because their authors tuned them there and ours are UNMEASURED.
"""

from __future__ import annotations

import importlib

import jax
from jax import Array

from jaxbert.models.attention.base import Hardware, Kernel, Origin, Request, merge_heads
from jaxbert.models.layers import DropRate

_LANES = 128
_LARGEST_BLOCK = 512
"""Tokens. UNMEASURED; a block of logits in float32 then takes 1 MiB of the core's memory."""
_PACKAGE = "jax.experimental.pallas.ops.tpu.splash_attention"


def refuses(request: Request, hardware: Hardware) -> str | None:
    """Return the reason if the kernel does not support a call, else None."""
    if hardware.platform != "tpu":
        return f"it needs a TPU, and the devices are {hardware.platform.upper()}s"
    if request.drops:
        return "it cannot drop attention weights: set model.attention_dropout to 0"
    if request.row_length % _LANES:
        return f"rows must be a multiple of {_LANES} tokens: set data.row_length"
    try:
        importlib.import_module(_PACKAGE)
    except ImportError:
        return "this version of jax does not have it"
    return None


def splash_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segment_ids_BT: Array,
    *,
    dropout_rate: float | DropRate | None = None,
    key: Array | None = None,
    slots: int | None = None,
    origin: Origin | None = None,
    interpret: bool = False,
) -> Array:
    """Compute attention; arguments as in `base.Attend` and `pallas`. There must be no dropout."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    assert key is None or DropRate.of(dropout_rate) is None
    del slots, origin
    _, T, H, K = q_BTHK.shape
    block = max(size for size in range(_LANES, min(T, _LARGEST_BLOCK) + 1, _LANES) if T % size == 0)
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([masks.FullMask((T, T))] * H),
        block_sizes=splash.BlockSizes(block, block, block_q_dkv=block, block_kv_dkv=block, use_fused_bwd_kernel=True),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def attend_row(q_THK: Array, k_THK: Array, v_THK: Array, segment_ids_T: Array) -> Array:
        q_HTK, k_HTK, v_HTK = (x.swapaxes(0, 1) for x in (q_THK, k_THK, v_THK))
        return kernel(q_HTK, k_HTK, v_HTK, splash.SegmentIds(segment_ids_T, segment_ids_T)).swapaxes(0, 1)

    return merge_heads(jax.vmap(attend_row)(q_BTHK * K**-0.5, k_BTHK, v_BTHK, segment_ids_BT))


KERNEL = Kernel(refuses, splash_attention)
