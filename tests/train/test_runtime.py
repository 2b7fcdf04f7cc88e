"""A process on a machine without an accelerator runs on the CPU, quietly, whatever is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxbert.train import runtime

NETWORK, ACCELERATOR = "0x020000", "0x120000"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The files of a machine without a TPU, whose variables say nothing of one either."""
    for name in runtime._TPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for file in ("dev/vfio/vfio", "dev/accel", "dev/nvidia0"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    add_to_bus(tmp_path, "0x1ae0", NETWORK)
    add_to_bus(tmp_path, "0x10de", ACCELERATOR)
    return tmp_path


def add_to_bus(root: Path, vendor: str, kind: str) -> None:
    device = root / "sys/bus/pci/devices" / f"0000:{vendor}:{kind}"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")


def test_a_machine_without_a_tpu(root):
    assert not runtime.tpu_attached(root)


@pytest.mark.parametrize("file", ["dev/accel0", "dev/vfio/3"])
def test_a_device_file_says_that_there_is_a_tpu(root, file):
    (root / file).touch()
    assert runtime.tpu_attached(root)


def test_the_bus_says_that_there_is_a_tpu(root):
    add_to_bus(root, "0x1ae0", ACCELERATOR)
    assert runtime.tpu_attached(root)


def test_a_variable_says_that_there_is_a_tpu(root, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert runtime.tpu_attached(root)


@pytest.mark.parametrize(
    ("platforms", "installed", "attached", "expected"),
    [
        ("", {"libtpu"}, {}, True),
        ("", {"libtpu"}, {"tpu"}, False),
        ("", set(), {"tpu", "gpu"}, True),
        ("", {"jax_cuda13_plugin"}, {"gpu"}, False),
        ("", {"jax_cuda12_plugin"}, {"gpu"}, False),
        ("", {"jax_cuda13_plugin"}, {}, True),
        ("", {"jax_cuda13_plugin", "libtpu"}, {"tpu"}, False),
        ("cpu", {"libtpu", "jax_cuda13_plugin"}, {"tpu", "gpu"}, True),
        ("tpu", set(), {}, False),
        ("cuda", {"jax_cuda13_plugin"}, {}, False),
    ],
)
def test_where_a_process_runs(monkeypatch, platforms, installed, attached, expected):
    """A plugin for devices that are not here only compiles for devices elsewhere."""
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(runtime, "tpu_attached", lambda: "tpu" in attached)
    monkeypatch.setattr(runtime, "_can_load", lambda library: library == "libcuda.so.1" and "gpu" in attached)
    assert runtime._runs_on_cpu() is expected


def test_the_driver_says_whether_there_is_a_gpu(monkeypatch, root):
    """NVIDIA's as a library that the dynamic linker finds, AMD's as a device file."""
    assert not runtime._can_load("libno_such_driver.so.1")
    assert runtime._can_load("libc.so.6")
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: name if "rocm" in name else None)
    monkeypatch.setattr(runtime, "_can_load", lambda _: True)
    assert not runtime.gpu_attached(root)
    (root / "dev/kfd").touch()
    assert runtime.gpu_attached(root)


@pytest.mark.parametrize("file", ["dev/nvidia0", "dev/nvidia3"])
def test_a_gpu_without_its_driver_is_told(monkeypatch, tmp_path, caplog, file):
    """A container may have any of the machine's GPUs."""
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: name if "cuda" in name else None)
    monkeypatch.setattr(runtime, "_can_load", lambda _: False)
    assert not runtime.gpu_attached(tmp_path)
    assert not caplog.messages
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).touch()
    assert not runtime.gpu_attached(tmp_path)
    assert "its driver (libcuda.so.1) cannot be loaded: the CPU is used" in caplog.text


def test_jax_looks_for_no_accelerator_where_none_is():
    """With libtpu or a plugin for GPUs JAX would load it, and it would complain that it finds none."""
    if not any(map(importlib.util.find_spec, ("libtpu", "jax_cuda13_plugin"))):
        pytest.skip("there is no plugin that JAX would load")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    code = (
        "from jaxbert.train import runtime as r; r.prepare_process(); print(r._runs_on_cpu(), r.jax.default_backend())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    on_cpu, backend = done.stdout.split()
    assert (on_cpu == "True") == (backend == "cpu")
    if on_cpu == "True":
        assert done.stderr == ""
