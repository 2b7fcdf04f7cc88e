"""Settings of the process before JAX uses a device: the compilation cache and, on CPU, the memory allocator."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
import sys
import tempfile
from pathlib import Path

import jax

from jaxbert.data.store import user_cache

logger = logging.getLogger("jaxbert")
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_ROCM_PLUGINS = ("jax_rocm7_plugin",)
_CUDA_DRIVER = "libcuda.so.1"
_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE", "JAX_FORCE_TPU_INIT")
_GOOGLE = "0x1ae0"
_NETWORK_AND_STORAGE = ("0x01", "0x02")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def prepare_process(compute: str = "auto") -> None:
    """Keep compiled programs on disk and, on CPU, keep freed memory in the process.

    Small programs are kept too, so that a second start compiles nothing. `JAX_COMPILATION_CACHE_DIR` chooses the folder; an
    empty value turns the cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = user_cache("xla")
        if _can_keep(cache):
            jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _hide_echoes()
    if _runs_on_cpu():
        # Where plugins are installed only to compile for devices elsewhere, JAX would look for them here and print warnings.
        jax.config.update("jax_platforms", "cpu")
        _keep_freed_memory()
    else:
        multiply_in(compute)


def _can_keep(folder: Path) -> bool:
    """Return whether the folder is writable; if not, JAX would warn about each program."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        message = "compiled programs cannot be kept in %s (%s), so each start compiles again: name another folder by "
        logger.warning(message + "JAX_COMPILATION_CACHE_DIR", folder, error.strerror or error)
        return False


def multiply_in(compute: str) -> None:
    """Compute products in float32 if asked to: by default a GPU multiplies float32 in TF32 and a TPU in bfloat16."""
    if compute == "float32":
        jax.config.update("jax_default_matmul_precision", "float32")


@functools.cache
def _hide_echoes() -> None:
    """Hide the hundreds of tracebacks of TensorStore's other writes after the first failure, which is reported.

    They come as errors that nobody can catch. All others go to the hook that was set before.
    """
    show = sys.unraisablehook

    def show_others(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not RuntimeError or str(dropped.exc_value) != "Event loop is closed":
            show(dropped)

    sys.unraisablehook = show_others


def _runs_on_cpu() -> bool:
    """Guess the platform without starting a backend, whose threads would fix the allocator's arenas."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    has_tpu = tpu_attached() and importlib.util.find_spec("libtpu") is not None
    return not has_tpu and not gpu_attached()


def gpu_attached(root: Path = Path("/")) -> bool:
    """Return whether JAX can use a GPU here: there is a plugin, and the driver that it needs."""
    if any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
        if _can_load(_CUDA_DRIVER):
            return True
        if any(root.glob("dev/nvidia[0-9]*")):
            logger.warning(
                "this machine has an NVIDIA GPU, but its driver (%s) cannot be loaded: the CPU is used", _CUDA_DRIVER
            )
    return any(map(importlib.util.find_spec, _ROCM_PLUGINS)) and (root / "dev/kfd").exists()


def _can_load(library: str) -> bool:
    """Return whether the dynamic linker finds a library; the driver of NVIDIA's GPUs comes with no Python package."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def tpu_attached(root: Path = Path("/")) -> bool:
    """Return whether this machine has a TPU: by device files, by the PCI bus, or by variables that a TPU VM or GKE sets.

    In doubt it returns True, and JAX then looks for itself.
    """
    files = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
    announced = any(name in os.environ for name in _TPU_VARIABLES)
    return bool(files) or announced or any(map(_is_google_chip, root.glob("sys/bus/pci/devices/*")))


def _is_google_chip(device: Path) -> bool:
    """Return whether a PCI device is a TPU; Google's machines also have network adapters and disks of the same vendor."""
    with contextlib.suppress(OSError):
        kind = (device / "class").read_text()[:4]
        return (device / "vendor").read_text().strip() == _GOOGLE and kind not in _NETWORK_AND_STORAGE
    return False


def _keep_freed_memory() -> None:
    """Let glibc reuse the buffers of a step instead of returning them to the kernel.

    XLA allocates its temporary buffer again in every step. By default the kernel gives new pages each time: 65,000 page
    faults and a fifth of the processor time of a MiniLM step of 32 examples. With one arena and no mmap there are none.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never return memory
        mallopt(_M_TOP_PAD, 64 * 2**20)
