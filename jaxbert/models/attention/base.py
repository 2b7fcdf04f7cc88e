"""What every attention backend is: one function shape, what a call asks for, and the hardware that it runs on."""

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
          segment_ids_BT: contiguous segments 1..S, and 0 for padding, which attends to padding alone and stays finite.
          dropout_rate: of the attention weights.
          key: random; without one there is no dropout.
          slots: S, the most segments of a row, where it is known.
        """
        ...


@dataclass(frozen=True)
class Request:
    """The properties of a call that decide whether a backend can honour it."""

    dtype: str
    row_length: int
    head_width: int
    dropout_rate: float
    """0 where there is no key."""

    @classmethod
    def of(cls, q_BTHK: Array, dropout_rate: float, key: Array | None) -> Request:
        """Read them from a call's arguments."""
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
        """Describe a device of JAX, an abstract one as well."""
        major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
        known = major.isdecimal() and minor.isdecimal()  # an AMD device says `gfx942`
        return cls(device.platform, (int(major), int(minor)) if known else None)

    def lacks(self, capability: tuple[int, int]) -> str | None:
        """Say why this is no NVIDIA GPU of at least this compute capability, or return None."""
        needed = f"an NVIDIA GPU of compute capability {capability[0]}.{capability[1]} or later"
        if self.capability is None:
            return f"it needs {needed}, and the devices are {self.platform.upper()}s"
        found = "{}.{}".format(*self.capability)
        return None if self.capability >= capability else f"it needs {needed}, and the devices have {found}"


class Origin(NamedTuple):
    """Where a device's part of the [B, H, T, T] weights begins, so that dropout does not depend on how they are spread."""

    row: Array | int
    head: Array | int
    heads: int
    """H of all parts together."""


@dataclass(frozen=True)
class Kernel:
    """A backend that XLA cannot partition and that not every call suits."""

    refuses: Callable[[Request, Hardware], str | None]
    """Return why it cannot honour a call, or None; `it` is the backend."""
    attend: Callable[..., Array]
    """`(q, k, v, segment_ids, *, dropout_rate, key, slots, origin, interpret) -> out` on one device's part."""
