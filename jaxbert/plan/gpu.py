"""GPUs as XLA's compiler wants them described, and the parts of that compiler on this machine, which needs no GPU.

Finding the compiler does not import JAX.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

INSTALL = "pip install 'jaxbert[gpu-compiler]'"
_PLUGINS = ("jax-cuda13", "jax-cuda12")
_LIBDEVICE = "nvvm/libdevice/libdevice.10.bc"
CUDNN = "9.10.0"
"""The release of cuDNN for which programs are compiled; none needs to be installed."""


@dataclass(frozen=True)
class Gpu:
    """The numbers of one kind of GPU that decide how XLA compiles for it."""

    kind: str
    """The name that the driver gives it, JAX's `device_kind`."""
    capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    fpus: int
    """Float32 units of a core."""
    threads: int
    """Most threads of a core at a time."""
    shared_bytes: int
    """Shared memory of a core; a block may have 1 KiB less."""
    l2_bytes: int
    clock_ghz: float
    memory_bytes: int
    bandwidth: float
    """Bytes per second of its memory."""


# H100, H200, B200 and A100: the descriptions of these GPUs in XLA's sources. L4 and T4: NVIDIA's data sheets, and the table
# of compute capabilities in the CUDA C++ programming guide.
GPUS: dict[str, Gpu] = {
    "B200": Gpu("NVIDIA B200", (10, 0), 148, 128, 2048, 233472, 132644864, 1.965, 191514411008, 7.67232e12),
    "H200 SXM": Gpu("NVIDIA H200 141GB HBM3e", (9, 0), 132, 128, 2048, 233472, 52428800, 1.98, 151397597184, 4.8e12),
    "H100 SXM": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 233472, 52428800, 1.98, 84942979072, 3.35232e12),
    "A100 80GB SXM": Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 167936, 41943040, 1.41, 85100068864, 2.03904e12
    ),
    "A100 40GB": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 167936, 41943040, 1.41, 42331013120, 1.5552e12),
    "L4": Gpu("NVIDIA L4", (8, 9), 58, 128, 1536, 102400, 50331648, 2.04, 24_000_000_000, 3.0e11),
    "T4": Gpu("Tesla T4", (7, 5), 40, 64, 1024, 65536, 4194304, 1.59, 16_000_000_000, 3.2e11),
}
"""By the names of `jaxbert.hardware.DEVICES`."""


def target_text(gpu: Gpu) -> str:
    """Describe a GPU as XLA's GpuTargetConfigProto in text format."""
    major, minor = gpu.capability
    # From 9.0 on, a GPU has instructions of its own (wgmma, tcgen05) that no other compute capability has: sm_90a, sm_100a.
    feature = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    optin = 65536 if gpu.shared_bytes == 65536 else gpu.shared_bytes - 1024
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_bytes} shared_memory_per_block_optin: {optin}
  threads_per_core_limit: {gpu.threads} core_count: {gpu.cores} fpus_per_core: {gpu.fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {gpu.bandwidth:.0f} l2_cache_size: {gpu.l2_bytes} clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
  device_vendor: "NVIDIA Corporation" name: "{gpu.kind}"
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "{CUDNN}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.kind}"
"""


def gpu_devices(name: str, count: int) -> list[Any]:
    """Return abstract devices of one host, only for compiling.

    Args:
      name: a name of `GPUS`.
      count: the number of devices.
    """
    from jax.experimental import topologies

    return topologies.get_topology_desc(
        platform="cuda", target_config=target_text(GPUS[name]), topology=f"1x1x{count}"
    ).devices


def lacks_compiler(name: str) -> str | None:
    """Return why programs for this kind of GPU cannot be compiled here, or None if they can."""
    if name not in GPUS:
        return f"XLA's properties of a {name} are not in jaxbert's table"
    return _lacks()


@functools.cache
def _lacks() -> str | None:
    """Return the part of the compiler that is missing here, or None."""
    plugin = next((plugin for plugin in _PLUGINS if _has_plugin(plugin)), None)
    if plugin is None:
        return f"JAX's plugin for CUDA is not installed: {INSTALL}"
    jaxlib = version("jaxlib")
    for package in (f"{plugin}-plugin", f"{plugin}-pjrt"):
        if (found := _version(package)) != jaxlib:
            return f"{package} is {found}, but it must be {jaxlib} as jaxlib: {INSTALL}"
    return None if cuda_folder() else f"no CUDA toolkit with ptxas and libdevice was found: {INSTALL}"


def _has_plugin(plugin: str) -> bool:
    """Return whether a plugin can be imported; a namespace package may be absent as a whole."""
    try:
        names = (f"jax_plugins.xla_{plugin.removeprefix('jax-')}", f"{plugin.replace('-', '_')}_plugin")
        return all(importlib.util.find_spec(name) for name in names)
    except ModuleNotFoundError:
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cuda_folder() -> Path | None:
    """Return a folder with ptxas and libdevice: the one that XLA_FLAGS names, NVIDIA's wheels, or the machine's own CUDA."""
    return next((root for root in _roots() if (root / "bin/ptxas").is_file() and (root / _LIBDEVICE).is_file()), None)


def _roots() -> Iterator[Path]:
    if named := re.search(r"--xla_gpu_cuda_data_dir=(\S+)", os.environ.get("XLA_FLAGS", "")):
        yield Path(named.group(1))
    wheels = importlib.util.find_spec("nvidia")
    for folder in (wheels.submodule_search_locations or ()) if wheels else ():
        yield from (Path(folder) / name for name in ("cu13", "cuda_nvcc"))
    yield from (Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name))
    yield Path("/usr/local/cuda")


def compiler_options() -> dict[str, Any]:
    """Return the option with which XLA takes the CUDA that was found here; on its own it may find another, or none."""
    folder = cuda_folder()
    return {} if folder is None else {"xla_gpu_cuda_data_dir": str(folder)}
