"""How fast accelerators of one kind exchange data, from the vendors' documentation; nothing for a kind that is not listed.

Vendors give the sum of both directions ("bidirectional"). What counts for a collective is what a device can send while it
receives as much: `sent_gbs` is that, one direction, over all links of a device together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """What joins devices of one kind."""

    name: str
    """As in `devices.DEVICES`."""
    sent_gbs: float
    """GB/s that a device sends at most, one direction, all its links together: half of a bidirectional figure."""
    axes: int
    """Dimensions of the torus over which the links are spread; 0 for a switch."""
    joined: int | None
    """Devices that these links join, the GPUs of a node; None where they join a whole slice."""
    network_gbs: float | None
    """GB/s, one direction, of a device's own adapter to the network between nodes."""
    delay_us: float
    """ASSUMED, microseconds that a collective waits: for each hop on a torus, once on a switch."""
    source: str


_TPU = "Google Cloud documentation"
_A100 = "NVIDIA A100 (SXM): NVLink 600 GB/s a GPU, bidirectional; an adapter of 200 Gb/s for each GPU (DGX A100)"
_DGX = "an adapter of 400 Gb/s for each GPU (NVIDIA DGX data sheet)"
LINKS: tuple[Link, ...] = (
    Link("TPU v4", 268.0, 3, None, None, 1.0, f"{_TPU}, TPU v4: all-reduce 1.1 PB/s in a pod of 4,096 chips"),
    Link("TPU v5e", 200.0, 2, None, None, 1.0, f"{_TPU}, TPU v5e: ICI 400 GB/s a chip, bidirectional"),
    Link("TPU v5p", 600.0, 3, None, None, 1.0, f"{_TPU}, TPU v5p: ICI 1,200 GB/s a chip, bidirectional"),
    Link("TPU v6e", 400.0, 2, None, None, 1.0, f"{_TPU}, TPU v6e: ICI 800 GB/s a chip, bidirectional"),
    Link("B200", 900.0, 0, 8, 50.0, 20.0, f"NVIDIA HGX B200: NVLink 1,800 GB/s a GPU, bidirectional; {_DGX}"),
    Link("H200 SXM", 450.0, 0, 8, 50.0, 20.0, f"NVIDIA H200: NVLink 900 GB/s a GPU, bidirectional; {_DGX}"),
    Link("H100 SXM", 450.0, 0, 8, 50.0, 20.0, f"NVIDIA H100: NVLink 900 GB/s a GPU, bidirectional; {_DGX}"),
    Link("A100 80GB SXM", 300.0, 0, 8, 25.0, 20.0, _A100),
    Link("A100 40GB", 300.0, 0, 8, 25.0, 20.0, _A100),
)


def link_of(name: str) -> Link | None:
    """Find the links of a kind of device by its name in `devices.DEVICES`, or return None where they are not known."""
    return next((link for link in LINKS if link.name == name), None)
