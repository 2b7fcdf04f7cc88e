"""JAX settings of a process: the persistent compilation cache."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def prepare_process() -> None:
    """Keep compiled programs on disk, small ones too, so that a second start compiles nothing again.

    `JAX_COMPILATION_CACHE_DIR` chooses the folder; set to nothing, it switches the cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxbert" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
