"""The peak rates of accelerators and the speed of their links: the vendors' figures; None for unlisted ones.

Peaks are those of dense bfloat16 products (the sheets' figures "with sparsity", halved). Model FLOP utilization is defined
against this peak for any number format of the run: float32 has a lower peak of its own (TF32 or FP32), so a float32 run on a
GPU cannot come near 1.

For links vendors give the sum of both directions ("bidirectional"). A collective depends on the rate at which a device can
send while it receives as much: `sent_gbs` is that, one direction, over all links of a device together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceSpec:
    """One kind of accelerator, as JAX counts devices: a GPU, or a TPU chip."""

    name: str
    pattern: str
    """A pattern for its `device_kind`, case ignored, between word boundaries."""
    bf16_tflops: float
    bandwidth_gbs: float
    """Memory bandwidth in GB/s."""
    memory_gb: float
    source: str


# The first match wins, so variants come before their family. Real kinds: "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe",
# "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "Tesla T4", "TPU v5 lite" (v5e), "TPU v5" (v5p), "TPU v6 lite" (v6e).
DEVICES: tuple[DeviceSpec, ...] = (
    DeviceSpec("B200", r"B200", 2250.0, 7700.0, 180.0, "NVIDIA HGX B200 data sheet: 4.5 PFLOPS sparse"),
    DeviceSpec("H200 NVL", r"H200 NVL", 835.5, 4800.0, 141.0, "NVIDIA H200 data sheet: 1,671 TFLOPS sparse"),
    DeviceSpec("H200 SXM", r"H200", 989.4, 4800.0, 141.0, "NVIDIA H200 data sheet: 1,979 TFLOPS sparse"),
    DeviceSpec("H100 NVL", r"H100 NVL", 835.5, 3900.0, 94.0, "NVIDIA H100 NVL data sheet: 1,671 TFLOPS sparse"),
    DeviceSpec("H100 PCIe", r"H100.*(PCIe|HBM2e)", 756.5, 2000.0, 80.0, "NVIDIA H100 data sheet: 1,513 TFLOPS sparse"),
    DeviceSpec("H100 SXM", r"H100", 989.4, 3350.0, 80.0, "NVIDIA H100 data sheet: 1,979 TFLOPS sparse"),
    DeviceSpec("A100 80GB PCIe", r"A100.*80GB.*PCIe", 312.0, 1935.0, 80.0, "NVIDIA A100 80GB data sheet"),
    DeviceSpec("A100 80GB SXM", r"A100.*80GB", 312.0, 2039.0, 80.0, "NVIDIA A100 80GB data sheet"),
    DeviceSpec("A100 40GB", r"A100", 312.0, 1555.0, 40.0, "NVIDIA A100 data sheet"),
    DeviceSpec("L4", r"L4", 121.0, 300.0, 24.0, "NVIDIA L4 data sheet: 242 TFLOPS sparse"),
    # The T4 has no bfloat16 products: this is its float16 peak.
    DeviceSpec("T4", r"T4", 65.0, 320.0, 16.0, "NVIDIA T4 data sheet: float16"),
    DeviceSpec("TPU v4", r"TPU v4", 275.0, 1200.0, 32.0, "Google Cloud documentation, TPU v4"),
    DeviceSpec("TPU v5e", r"TPU v5( lite|e)", 197.0, 819.0, 16.0, "Google Cloud documentation, TPU v5e"),
    DeviceSpec("TPU v5p", r"TPU v5p?", 459.0, 2765.0, 95.0, "Google Cloud documentation, TPU v5p"),
    DeviceSpec("TPU v6e", r"TPU v6( lite|e)", 918.0, 1638.0, 32.0, "Google Cloud documentation, TPU v6e"),
)
_PART = (
    r"\bMIG\b|TPU v4 lite"  # a slice of a GPU, whose name does not give its share of the peak, and a chip for serving
)


def device_spec(kind: str) -> DeviceSpec | None:
    """Return the device for JAX's `device_kind`, or None if it is not known."""
    if re.search(_PART, kind, re.IGNORECASE):
        return None
    return next((spec for spec in DEVICES if re.search(rf"\b({spec.pattern})\b", kind, re.IGNORECASE)), None)


@dataclass(frozen=True)
class Link:
    """The links between devices of one kind."""

    name: str
    """The device's name, as in `DEVICES`."""
    sent_gbs: float
    """GB/s that a device sends at most, one direction, over all its links: half of a bidirectional figure."""
    axes: int
    """Dimensions of the torus to which the links belong; 0 for a switch."""
    joined: int | None
    """Devices that these links join, the GPUs of a node; None if they join a whole slice."""
    network_gbs: float | None
    """GB/s, one direction, of a device's own adapter to the network between nodes."""
    delay_us: float
    """ASSUMED, microseconds of delay of a collective: per hop on a torus, once on a switch."""
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
    """Return the links of a kind of device by its name in `DEVICES`, or None if they are not known."""
    return next((link for link in LINKS if link.name == name), None)
