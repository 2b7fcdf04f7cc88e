"""Which accelerator a `device_kind` names, and that what it does not name stays unknown."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxbert.hardware import DEVICES, device_spec
from jaxbert.train.speed import peak_flops


@pytest.mark.parametrize(
    ("kind", "name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM", 989.4),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", "H100 NVL", 835.5),
        ("NVIDIA H200", "H200 SXM", 989.4),
        ("NVIDIA H200 NVL", "H200 NVL", 835.5),
        ("NVIDIA B200", "B200", 2250.0),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM", 312.0),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB", 312.0),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe", 312.0),
        ("NVIDIA L4", "L4", 121.0),
        ("Tesla T4", "T4", 65.0),
        ("TPU v4", "TPU v4", 275.0),
        ("TPU v5 lite", "TPU v5e", 197.0),
        ("TPU v5e", "TPU v5e", 197.0),
        ("TPU v5", "TPU v5p", 459.0),
        ("TPU v5p", "TPU v5p", 459.0),
        ("TPU v6 lite", "TPU v6e", 918.0),
        ("TPU v6e", "TPU v6e", 918.0),
    ],
)
def test_a_known_device(kind, name, tflops):
    spec = device_spec(kind)
    assert spec is not None
    assert (spec.name, spec.bf16_tflops) == (name, tflops)
    assert peak_flops(SimpleNamespace(device_kind=kind)) == tflops * 1e12


@pytest.mark.parametrize(
    "kind",
    [
        *("cpu", "NVIDIA L40S", "NVIDIA L40", "NVIDIA GH200 480GB", "NVIDIA GB200", "NVIDIA H20", "NVIDIA A10G"),
        *("NVIDIA A100X", "NVIDIA T400", "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "TPU v4 lite", "TPU v3", "TPU7x", ""),
    ],
)
def test_what_only_looks_alike_is_unknown(kind):
    assert device_spec(kind) is None
    assert peak_flops(SimpleNamespace(device_kind=kind)) is None


def test_every_row_is_found_and_names_its_source():
    """The bandwidth and the peak of a chip are of one order: some hundred FLOPs a byte."""
    assert len({spec.name for spec in DEVICES}) == len(DEVICES)
    for spec in DEVICES:
        assert device_spec(spec.name if spec.name.startswith("TPU") else f"NVIDIA {spec.name}") == spec
        assert 100 < spec.bf16_tflops * 1e3 / spec.bandwidth_gbs < 600
        assert spec.memory_gb >= 16
        assert "NVIDIA" in spec.source or "Google Cloud" in spec.source
