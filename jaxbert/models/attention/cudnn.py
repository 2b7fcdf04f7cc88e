"""Packed fused attention of cuDNN on NVIDIA GPUs, through a part of JAX that is not public.

It takes each segment's offset and length instead of ids, so it does no work across segments. Its dropout seed is a constant
of the program and would drop the same weights at every step: calls with dropout are rejected.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxbert.models.attention.base import Hardware, Kernel, Origin, Request, merge_heads
from jaxbert.models.layers import DropRate

_MODULE = "jax._src.cudnn.fused_attention_stablehlo"
_ARGUMENTS = {"q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets", "scale", "mask_type", "qkv_layout"}
_WIDEST_HEAD = 256
_RELEASE = 91000
"""The cuDNN for which programs are compiled where there is no GPU: 9.10."""


def refuses(request: Request, hardware: Hardware) -> str | None:
    """Return the reason if cuDNN does not support a call, else None."""
    if reason := hardware.lacks((9, 0)):
        return reason
    if request.drops:
        return "it drops the same attention weights at every step: set model.attention_dropout to 0"
    if request.dtype not in ("bfloat16", "float16"):
        return f"it computes in 16 bits, and precision.compute is {request.dtype}"
    if request.head_width % 8 or request.head_width > _WIDEST_HEAD:
        return f"heads must be a multiple of 8 wide, at most {_WIDEST_HEAD}, and the model's are {request.head_width}"
    return _missing()


def _missing() -> str | None:
    """Return the reason if the functions behind this module differ from those for which it was written, else None."""
    try:
        fused = importlib.import_module(_MODULE)
        arguments = inspect.signature(fused.dot_product_attention).parameters
        fused.MaskType.NO_MASK  # noqa: B018
        if jax.default_backend() == "gpu":  # else the program is for GPUs elsewhere, and no cuDNN is needed here
            fused.check_cudnn_version()
    except (ImportError, AttributeError):
        return "this version of jax does not have it"
    except RuntimeError as error:
        return f"cuDNN is not there ({error})"
    return None if arguments.keys() >= _ARGUMENTS else "this version of jax has another form of it"


@contextlib.contextmanager
def compiling_for(hardware: Hardware) -> Iterator[None]:
    """Let JAX take this hardware for that of the program while it traces: it asks a GPU and a cuDNN of this process.

    There is nothing to do for other devices, where the process has a GPU, or where jax has another form of this module.
    """
    if hardware.platform != "gpu" or jax.default_backend() == "gpu":
        yield
        return
    answers = {
        "check_compute_capability": lambda needed: (
            hardware.capability is not None and hardware.capability >= _pair(needed)
        ),
        "is_cuda_compute_capability_equal": lambda wanted: hardware.capability == _pair(wanted),
        "check_cudnn_version": lambda: _RELEASE,
    }
    try:
        fused: Any = importlib.import_module(_MODULE)
        before = {name: getattr(fused, name) for name in answers}
    except (ImportError, AttributeError):
        before = {}
    try:
        for name in before:
            setattr(fused, name, answers[name])
        yield
    finally:
        for name, original in before.items():
            setattr(fused, name, original)


def _pair(capability: str) -> tuple[int, ...]:
    return tuple(int(number) for number in capability.split("."))


def cudnn_attention(
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
    """Compute attention; arguments as in `base.Attend`. There must be no dropout, and segments must be contiguous.

    cuDNN keeps a statistic for each token and each segment that a row may have: without `slots` its size is the square of
    the row.
    """
    fused: Any = importlib.import_module(_MODULE)
    assert key is None or DropRate.of(dropout_rate) is None
    assert not interpret, "cuDNN has no interpreter"
    del origin
    T, K = q_BTHK.shape[1], q_BTHK.shape[-1]
    lengths_BM, offsets_BM = segment_spans(segment_ids_BT, T if slots is None else min(slots + 1, T))
    mixed_BTHK = fused.dot_product_attention(
        q_BTHK,
        k_BTHK,
        v_BTHK,
        q_seqlen=lengths_BM,
        kv_seqlen=lengths_BM,
        q_offsets=offsets_BM,
        kv_offsets=offsets_BM,
        scale=K**-0.5,
        mask_type=fused.MaskType.NO_MASK,
        qkv_layout="BTNH",
    )
    return merge_heads(mixed_BTHK)


def segment_spans(segment_ids_BT: Array, most: int) -> tuple[Array, Array]:
    """Return length and offset of each run of equal ids, padding included, so that every token's output is written.

    Args:
      segment_ids_BT: contiguous segments and padding.
      most: the most runs of a row; M = max(2, most), since cuDNN treats a row with one run as not packed.

    Returns:
      int32 [B, M] lengths and [B, M + 1] offsets; both are -1 for an unused run.
    """
    M = max(2, most)
    begins_BT = jnp.pad(segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1], ((0, 0), (1, 0)))
    runs_BT = jnp.cumsum(begins_BT, axis=1)
    lengths_BM = (runs_BT[:, :, None] == jnp.arange(M)[None, None]).sum(1, dtype=jnp.int32)
    ends_BM = jnp.cumsum(lengths_BM, axis=1, dtype=jnp.int32)
    there_BM = lengths_BM > 0
    offsets_BM = jnp.where(there_BM, ends_BM - lengths_BM, -1)
    return jnp.where(there_BM, lengths_BM, -1), jnp.pad(offsets_BM, ((0, 0), (0, 1)), constant_values=-1)


KERNEL = Kernel(refuses, cudnn_attention)
