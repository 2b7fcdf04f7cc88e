"""What one accelerator can do at most, from the vendors' data sheets; null for a device that is not in the table.

Peaks are those of dense bfloat16 products (the sheets' figures "with sparsity", halved). Model FLOP utilization is defined
against this peak whatever the run computes in: float32 has a lower peak of its own (TF32 or FP32), so a float32 run on a GPU
cannot come near 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceSpec:
    """One kind of accelerator, as JAX counts devices: a GPU, or a TPU chip."""

    name: str
    pattern: str
    """What its `device_kind` looks like, case ignored, between word boundaries."""
    bf16_tflops: float
    bandwidth_gbs: float
    """GB/s of its memory."""
    memory_gb: float
    source: str


# First match wins, so variants stand before their family. Real kinds: "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe",
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
    # The T4 has no bfloat16 products: its float16 peak stands here.
    DeviceSpec("T4", r"T4", 65.0, 320.0, 16.0, "NVIDIA T4 data sheet: float16"),
    DeviceSpec("TPU v4", r"TPU v4", 275.0, 1200.0, 32.0, "Google Cloud documentation, TPU v4"),
    DeviceSpec("TPU v5e", r"TPU v5( lite|e)", 197.0, 819.0, 16.0, "Google Cloud documentation, TPU v5e"),
    DeviceSpec("TPU v5p", r"TPU v5p?", 459.0, 2765.0, 95.0, "Google Cloud documentation, TPU v5p"),
    DeviceSpec("TPU v6e", r"TPU v6( lite|e)", 918.0, 1638.0, 32.0, "Google Cloud documentation, TPU v6e"),
)
_PART = (
    r"\bMIG\b|TPU v4 lite"  # a slice of a GPU, whose share of the peak its name does not tell, and a chip for serving
)


def device_spec(kind: str) -> DeviceSpec | None:
    """Find a device by JAX's `device_kind`, or return None where it is not known."""
    if re.search(_PART, kind, re.IGNORECASE):
        return None
    return next((spec for spec in DEVICES if re.search(rf"\b({spec.pattern})\b", kind, re.IGNORECASE)), None)
