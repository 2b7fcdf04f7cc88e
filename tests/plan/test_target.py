"""The names of devices that a plan is for."""

from __future__ import annotations

import os

import pytest

from jaxbert.errors import UserError
from jaxbert.hardware import DEVICES, LINKS
from jaxbert.plan import target as targets
from jaxbert.plan.target import devices_of, parse_target, prepare_target


@pytest.mark.parametrize(
    ("name", "platform", "devices", "sizes", "chip"),
    [
        ("v5e:16x16", "tpu", 256, (16, 16), "TPU v5e"),
        ("v4:2x2x4", "tpu", 16, (2, 2, 4), "TPU v4"),
        ("V5P:8x16x16", "tpu", 2048, (8, 16, 16), "TPU v5p"),
        ("h200:8", "gpu", 8, (), "H200 SXM"),
        ("h100:16", "gpu", 16, (), "H100 SXM"),
        ("h100-pcie:2", "gpu", 2, (), "H100 PCIe"),
        ("a100:8", "gpu", 8, (), "A100 40GB"),
        ("a100-80gb:8", "gpu", 8, (), "A100 80GB SXM"),
        ("b200:8", "gpu", 8, (), "B200"),
        ("cpu:3", "cpu", 3, (), "CPU device"),
    ],
)
def test_a_name_says_which_devices_and_how_many(name, platform, devices, sizes, chip):
    target = parse_target(name)
    assert (target.platform, target.devices, target.sizes, target.chip) == (platform, devices, sizes, chip)
    assert (target.memory_bytes is None) == (platform == "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", r"'v9:2x2' is not understood: give a slice .* \(v4, v5e, v5p, v6e\), GPUs as h200:8"),
        ("h200", "is not understood"),
        ("h300:8", "is not understood"),
        ("v5e:", "is not understood"),
        ("tpu-v4:8", "is not understood"),
        ("gpu:8", "is not understood"),
        ("h200:2x4", "give the number of devices, from 1 to 1024, as in h200:8"),
        ("h200:0", "give the number of devices, from 1"),
        ("cpu:4096", "give the number of devices, from 1 to 1024"),
    ],
)
def test_a_name_that_is_none_is_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_target(name)
    assert "\n" not in str(caught.value)


def test_a_gpu_gives_the_share_that_jax_takes(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert parse_target("h200:8").memory_bytes == pytest.approx(0.75 * 141 * 2**30, rel=1e-4)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert parse_target("h200:8").memory_bytes == pytest.approx(0.9 * 141 * 2**30, rel=1e-4)
    assert parse_target("h100-pcie:8").memory_bytes == pytest.approx(0.9 * 80e9)
    for bad in ("80%", "80", "0", "nan", "-1"):
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", bad)
        message = f"XLA_PYTHON_CLIENT_MEM_FRACTION is '{bad}', but it must be a number above 0"
        with pytest.raises(UserError, match=message):
            _ = parse_target("h200:8").memory_bytes


def test_cpu_devices_stand_in_for_gpus_without_their_compiler(monkeypatch):
    """And for a kind of GPU that the compiler does not know."""
    monkeypatch.setattr(
        targets, "lacks_compiler", lambda name: None if name == "H200 SXM" else f"no compiler for {name}"
    )
    names = ("h200:8", "h100-pcie:8", "cpu:8", "v5e:2x4")
    assert [parse_target(name).lacks for name in names] == [None, "no compiler for H100 PCIe", None, None]
    assert [parse_target(name).stands_in for name in names] == [False, True, False, False]


def test_the_number_of_stand_ins_replaces_another_and_keeps_other_flags(monkeypatch):
    monkeypatch.setattr(targets, "lacks_compiler", lambda _: "no compiler")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=false")
    prepare_target(parse_target("h200:5"))
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_force_host_platform_device_count=5",
    ]


def test_a_process_that_has_fewer_devices_says_so():
    assert len(devices_of(parse_target("cpu:3"))) == 3
    with pytest.raises(UserError, match="needs 9 devices, but JAX runs in this process with 8"):
        devices_of(parse_target("cpu:9"))


def test_every_link_belongs_to_a_known_device_and_names_its_source():
    known = {spec.name for spec in DEVICES}
    assert {link.name for link in LINKS} <= known
    for link in LINKS:
        assert link.source
        assert (link.axes > 0) == link.name.startswith("TPU") == (link.joined is None)
