"""The interface of every attention backend: its call, the properties of a call, and the hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from jax import Array


class Attend(Protocol):
    """Attention as the encoder calls it."""

    def __call__(
        self,
        q_BTHK: Array,
        k_BTHK: Array,
        v_BTHK: Array,
        segment_ids_BT: Array,
        *,
        dropout_rate: float = 0.0,
        key: Array | None = None,
        slots: int | None = None,
    ) -> Array:
        """Return the mixed values, [B, T, H, K].

        Args:
          q_BTHK: queries, not scaled.
          k_BTHK: keys.
          v_BTHK: values.
          segment_ids_BT: contiguous segments 1..S, and 0 for padding, which attends only to padding and stays finite.
          dropout_rate: dropout rate of the attention weights.
          key: random key; without one there is no dropout.
          slots: S, the most segments of a row, if known.
        """
        ...


@dataclass(frozen=True)
class Request:
    """The properties of a call that decide whether a backend supports it."""

    dtype: str
    row_length: int
    head_width: int
    dropout_rate: float
    """0 if there is no key."""

    @classmethod
    def of(cls, q_BTHK: Array, dropout_rate: float, key: Array | None) -> Request:
        """Read the properties from a call's arguments."""
        _, row_length, _, head_width = q_BTHK.shape
        return cls(q_BTHK.dtype.name, row_length, head_width, 0.0 if key is None else dropout_rate)


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
            return f"it needs {needed}, and the devices are {self.platform.upper()}s"
        found = "{}.{}".format(*self.capability)
        return None if self.capability >= capability else f"it needs {needed}, and the devices have {found}"


class Origin(NamedTuple):
    """The start of a device's part of the [B, H, T, T] weights, so that dropout does not depend on their sharding."""

    row: Array | int
    head: Array | int
    heads: int
    """H over all devices."""


@dataclass(frozen=True)
class Kernel:
    """A backend that XLA cannot partition and that does not support every call."""

    refuses: Callable[[Request, Hardware], str | None]
    """Return the reason if the backend does not support a call, else None; `it` in the text is the backend."""
    attend: Callable[..., Array]
    """`(q, k, v, segment_ids, *, dropout_rate, key, slots, origin, interpret) -> out` on one device's part."""
