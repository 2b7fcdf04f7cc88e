"""Cold is cold and warm is warm, whatever the process or the disk has cached before; the caller's cache is left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxbert.bench.training import compile_cold_and_warm
from jaxbert.train.programs import Compiled

_PREFIX = "/jax/compilation_cache/"
BATCH = {"x": jnp.ones(5)}


class Program:
    """What the measurement asks of a program, with a step that compiles in no time."""

    state_target = jax.ShapeDtypeStruct((5,), jnp.float32)
    arguments = jnp.ones(5)

    def train_step(self) -> Compiled:
        return Compiled(lambda state, batch, key: jnp.sin(state) * batch["x"] + key)


@pytest.fixture
def lookups() -> Iterator[list[str]]:
    """The looks into the persistent cache: `hits` or `misses`."""
    seen: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event in (f"{_PREFIX}cache_hits", f"{_PREFIX}cache_misses"):
            seen.append(event.removeprefix(f"{_PREFIX}cache_"))

    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


def test_the_first_time_misses_and_the_second_hits(lookups):
    for _ in range(2):
        lookups.clear()
        step, cold, warm = compile_cold_and_warm(Program(), BATCH)
        assert lookups == ["misses", "hits"]
        assert cold > 0
        assert warm == step.compile_seconds > 0
        assert step.has(BATCH)


def test_the_caller_keeps_its_cache(lookups, tmp_path):
    """A cache that was in use is in use again, and nothing of the measurement lies in it."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    try:
        compile_cold_and_warm(Program(), BATCH)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        assert os.listdir(tmp_path) == []
        jax.jit(lambda x: jnp.cos(x) * 3 + 1).lower(BATCH["x"]).compile()
        assert lookups == ["misses", "hits", "misses"]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def test_without_a_cache_on_disk_there_is_no_warm_time(monkeypatch, lookups):
    monkeypatch.setattr("jaxbert.bench.training._CACHE_SETTINGS", {"jax_enable_compilation_cache": False})
    _, cold, warm = compile_cold_and_warm(Program(), BATCH)
    assert cold > 0
    assert (warm, lookups) == (None, [])
    assert jax.config.jax_enable_compilation_cache is True
