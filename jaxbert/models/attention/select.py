"""Chooses the attention backend: the requested one, or the best for the hardware, or plain matrix products.

The choice is made for each compiled program, because it depends on the row length and on dropout.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from jax import Array
from jax.sharding import PartitionSpec

from jaxbert.models.attention import cudnn, mosaic, pallas, splash
from jaxbert.models.attention.base import Attend, Hardware, Kernel, Origin, Request, Spread
from jaxbert.models.attention.xla import xla_attention
from jaxbert.models.layers import DropRate

Name = Literal["auto", "xla", "cudnn", "pallas", "mosaic", "splash"]

KERNELS: dict[str, Kernel] = {
    "cudnn": cudnn.KERNEL,
    "pallas": pallas.KERNEL,
    "mosaic": mosaic.KERNEL,
    "splash": splash.KERNEL,
}

LONG_ROW = 256
"""Tokens per row from which `auto` takes the Pallas kernel on a GPU. UNMEASURED; an estimate of memory traffic: plain
products move about 20 bytes per pair of tokens and head (logits and weights, forward and backward). For rows of 256 with 12
heads that is 60 kB per token, as much as all other activations of a layer of BERT-base. For shorter rows, XLA's matrix
products are at least as good as padded tiles."""

_Arrays = tuple[Array, Array, Array, Array]
"""Queries, keys, values and segment ids."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Attention:
    """An `Attend` that chooses its backend when it is traced. If a backend is unusable, it logs that once and uses `xla`."""

    name: Name = "auto"
    hardware: Hardware = Hardware()  # noqa: RUF009 (frozen)
    spread: Spread = Spread()  # noqa: RUF009 (frozen)
    interpret: bool = False
    """Whether to run kernels in the interpreter on any hardware (for tests)."""
    kernel: pallas.KernelSettings | None = None
    """How the Pallas kernels divide their work; None: as usual for the format and the width of heads."""
    _said: set[str] = field(default_factory=set, compare=False, repr=False)

    def __call__(
        self,
        q_BTHK: Array,
        k_BTHK: Array,
        v_BTHK: Array,
        segment_ids_BT: Array,
        *,
        dropout_rate: float | DropRate | None = None,
        key: Array | None = None,
        slots: int | None = None,
    ) -> Array:
        """Compute attention; arguments as in `base.Attend`."""
        name, reason = self.choose(Request.of(q_BTHK, dropout_rate, key))
        if reason is not None and reason not in self._said:
            self._said.add(reason)
            logger.warning(reason)
        arrays = q_BTHK, k_BTHK, v_BTHK, segment_ids_BT
        if name == "xla":
            return xla_attention(*arrays, dropout_rate=dropout_rate, key=key)
        return self._run(KERNELS[name], arrays, dropout_rate, key, slots)

    def fuses(self, request: Request) -> bool:
        """Return whether `attend_fused` computes the call: queries, keys and values of all heads come from one product."""
        return self.spread.parts_of_heads == 1 and self.choose(request)[0] == "pallas"

    def attend_fused(
        self,
        kvq_BTCHK: Array,
        bias_CHK: Array,
        segment_ids_BT: Array,
        *,
        dropout_rate: float | DropRate | None,
        key: Array | None,
    ) -> Array:
        """Compute attention from keys, values and queries in one array (C, in this order), without their biases."""
        rows = self.spread.row_axes
        rest: dict[str, Any] = {"interpret": self.interpret, "settings": self.kernel}

        def attend(kvq: Array, bias: Array, segment_ids: Array, key: Array | None, rate: DropRate | None) -> Array:
            origin = Origin(self.spread.first(rows, len(kvq)), 0, kvq.shape[3])
            dropping: dict[str, Any] = {"dropout_rate": rate, "key": key}
            return pallas.pallas_fused_attention(kvq, bias, segment_ids, origin=origin, **dropping, **rest)

        own, all_ = PartitionSpec(rows or None), PartitionSpec()
        arrays = kvq_BTCHK, bias_CHK, segment_ids_BT, key, DropRate.of(dropout_rate)
        return self.spread.run(attend, arrays, (own, all_, own, all_, all_), own)

    def choose(self, request: Request) -> tuple[str, str | None]:
        """Return the backend's name, and a line with the reason if it is not the requested one."""
        wanted = automatic(request, self.hardware) if self.name == "auto" else self.name
        reason = None if wanted == "xla" or self.interpret else KERNELS[wanted].refuses(request, self.hardware)
        if reason is None:
            return wanted, None
        return "xla", f"attention is computed by xla and not by {wanted}: {reason}"

    def _run(
        self,
        kernel: Kernel,
        arrays: _Arrays,
        dropout_rate: float | DropRate | None,
        key: Array | None,
        slots: int | None,
    ) -> Array:
        """Run a kernel on each device's own rows and heads."""
        H = arrays[0].shape[2]
        rows, heads = self.spread.row_axes, self.spread.head_axis(H)
        rest: dict[str, Any] = {"slots": slots, "interpret": self.interpret}
        if kernel is pallas.KERNEL:
            rest["settings"] = self.kernel

        def attend(q: Array, k: Array, v: Array, segment_ids: Array, key: Array | None, rate: DropRate | None) -> Array:
            origin = Origin(self.spread.first(rows, q.shape[0]), self.spread.first(heads, q.shape[2]), H)
            return kernel.attend(q, k, v, segment_ids, dropout_rate=rate, key=key, origin=origin, **rest)

        whole = PartitionSpec(rows or None, None, heads)
        in_specs = (whole, whole, whole, PartitionSpec(rows or None), PartitionSpec(), PartitionSpec())
        return self.spread.run(attend, (*arrays, key, DropRate.of(dropout_rate)), in_specs, whole)


def backend_of(attend: Attend, request: Request) -> str:
    """Return the name of the backend that computes the call."""
    return attend.choose(request)[0] if isinstance(attend, Attention) else "xla"


def visited_tile(attend: Attend, request: Request) -> int | None:
    """Return the side of the tiles of which only those that touch a segment are computed, or None for whole rows.

    cuDNN chooses its own tiles; its segments are counted without its padding.
    """
    backend = backend_of(attend, request)
    if backend == "pallas":
        assert isinstance(attend, Attention)
        return (attend.kernel or pallas.usual_settings(request.dtype, request.head_width)).tile
    return {"mosaic": mosaic.TILE, "cudnn": 1}.get(backend)


def automatic(request: Request, hardware: Hardware) -> str:
    """Return the best backend for the hardware: mosaic on TPU, pallas for long rows on NVIDIA GPUs, else xla."""
    if hardware.platform == "tpu":
        return "mosaic"
    modern_gpu = hardware.lacks((8, 0)) is None
    return "pallas" if modern_gpu and request.row_length >= LONG_ROW else "xla"
