"""The interface of every attention backend: its call, the properties of a call, and the hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array
from jax.sharding import Mesh

from jaxbert.models.layers import DropRate


class Attend(Protocol):
    """Attention as the encoder calls it."""

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
        """Return the mixed values, the heads of a token side by side, [B, T, H * K].

        Args:
          q_BTHK: queries, not scaled.
          k_BTHK: keys.
          v_BTHK: values.
          segment_ids_BT: contiguous segments 1..S, and 0 for padding, which attends only to padding and stays finite.
          dropout_rate: dropout rate of the attention weights: a number, or a `DropRate`, which may be traced.
          key: random key; without one there is no dropout.
          slots: S, the most segments of a row, if known.
        """
        ...


def merge_heads(x_BTHK: Array) -> Array:
    """Put the heads of a token side by side, [B, T, H * K]."""
    return x_BTHK.reshape(*x_BTHK.shape[:2], -1)


@dataclass(frozen=True)
class Request:
    """The properties of a call that decide whether a backend supports it."""

    dtype: str
    row_length: int
    head_width: int
    drops: bool
    """Whether attention weights are dropped."""

    @classmethod
    def of(cls, q_BTHK: Array, dropout_rate: float | DropRate | None, key: Array | None) -> Request:
        """Read the properties from a call's arguments."""
        _, row_length, _, head_width = q_BTHK.shape
        return cls(q_BTHK.dtype.name, row_length, head_width, key is not None and DropRate.of(dropout_rate) is not None)


@dataclass(frozen=True)
class Hardware:
    """One kind of device."""

    platform: str = "cpu"
    """`cpu`, `gpu` or `tpu`."""
    capability: tuple[int, int] | None = None
    """NVIDIA's compute capability."""

    @classmethod
    def of(cls, device: Any) -> Hardware:
        """Describe a JAX device, also an abstract one."""
        major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
        known = major.isdecimal() and minor.isdecimal()  # an AMD device has `gfx942` here
        return cls(device.platform, (int(major), int(minor)) if known else None)

    def lacks(self, capability: tuple[int, int]) -> str | None:
        """Return the reason if this is no NVIDIA GPU of at least this compute capability, else None."""
        needed = f"an NVIDIA GPU of compute capability {capability[0]}.{capability[1]} or later"
        if self.capability is None:
            are = "no NVIDIA GPUs" if self.platform == "gpu" else f"{self.platform.upper()}s"
            return f"it needs {needed}, and the devices are {are}"
        found = "{}.{}".format(*self.capability)
        return None if self.capability >= capability else f"it needs {needed}, and the devices have {found}"


class Origin(NamedTuple):
    """The start of a device's part of the [B, H, T, T] weights, so that dropout does not depend on their sharding."""

    row: Array | int
    head: Array | int
    heads: int
    """H over all devices."""


@dataclass(frozen=True)
class Spread:
    """The sharding of a batch over the devices of a mesh; by default one device has all of it."""

    mesh: Mesh | None = None
    rows: tuple[str, ...] = ()
    """The mesh axes over which rows are sharded."""
    heads: str | None = None
    """The mesh axis over which heads are sharded; they are replicated if it does not divide their number."""

    @property
    def row_axes(self) -> tuple[str, ...]:
        """The axes over which rows are really sharded."""
        return tuple(axis for axis in self.rows if self._size(axis) > 1)

    @property
    def parts_of_heads(self) -> int:
        """The number of devices among which heads are divided."""
        return 1 if self.heads is None else self._size(self.heads)

    def head_axis(self, heads: int) -> str | None:
        """Return the axis over which so many heads are sharded, or None if every device has all of them."""
        return self.heads if self.parts_of_heads > 1 and heads % self.parts_of_heads == 0 else None

    def run(self, kernel: Callable[..., Any], arrays: tuple, in_specs: tuple, out_specs: Any) -> Any:
        """Run a kernel, which XLA cannot partition, on each device's own part of the arrays.

        Inside, `first` says where the part begins.
        """
        if self.mesh is None or self.mesh.size == 1:
            return kernel(*arrays)
        # The kernels' outputs do not declare the axes over which they vary, so that check is off.
        return jax.shard_map(kernel, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arrays)

    @staticmethod
    def first(axes: tuple[str, ...] | str | None, own: int) -> Array | int:
        """Return the index of a device's first row or head among all, if each device has `own` of them."""
        return jax.lax.axis_index(axes) * own if axes else 0

    def _size(self, axis: str) -> int:
        return 1 if self.mesh is None else self.mesh.shape[axis]


def triton_options(warps: int, stages: int) -> Any:
    """Return how a Pallas kernel is compiled by Triton, or None if this jax has no Triton.

    Args:
      warps: warps of a program (32 threads each).
      stages: stages of a loop's pipeline.
    """
    try:
        from jax.experimental.pallas.triton import CompilerParams
    except ImportError:
        return None
    return CompilerParams(num_warps=warps, num_stages=stages)


@dataclass(frozen=True)
class Kernel:
    """A backend that XLA cannot partition and that does not support every call."""

    refuses: Callable[[Request, Hardware], str | None]
    """Return the reason if the backend does not support a call, else None; `it` in the text is the backend."""
    attend: Callable[..., Array]
    """`(q, k, v, segment_ids, *, dropout_rate, key, slots, origin, interpret) -> mixed` on one device's part."""
