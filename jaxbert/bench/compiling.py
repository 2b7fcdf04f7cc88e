"""How long the step compiles: with nothing cached, and again with its program in the persistent cache."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxbert.train.programs import Compiled, Program
from jaxbert.train.step import DeviceBatch

_CACHE_SETTINGS: dict[str, Any] = {
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def compile_cold_and_warm(program: Program, batch: DeviceBatch) -> tuple[Compiled, float, float | None]:
    """Compile the step for a batch in an empty cache, then once more from what that left there.

    Both times everything that JAX keeps in memory is dropped first, so that each includes tracing and lowering, as the
    start of a run does.

    Returns:
      The step of the second time, ready for this batch; seconds cold; seconds warm, or None if this backend keeps no
      programs on disk.
    """
    state, key = program.state_target, program.base_key

    def compile_anew() -> tuple[Compiled, float]:
        jax.clear_caches()
        step = program.train_step()
        step.compile(state, batch, key)
        return step, step.compile_seconds

    with _empty_cache() as folder:
        _, cold = compile_anew()
        kept = set(os.listdir(folder))
        step, warm = compile_anew()
        from_cache = bool(kept) and set(os.listdir(folder)) == kept
    return step, cold, warm if from_cache else None


@contextlib.contextmanager
def _empty_cache() -> Iterator[str]:
    """Put the persistent cache in a folder of its own for a while."""
    with tempfile.TemporaryDirectory(prefix="jaxbert-bench-") as folder:
        settings = {**_CACHE_SETTINGS, "jax_compilation_cache_dir": folder}
        before = {name: getattr(jax.config, name) for name in settings}
        _set(settings)
        try:
            yield folder
        finally:
            _set(before)


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks at its settings at the first use only
