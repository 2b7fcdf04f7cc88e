"""A jitted function that compiles each batch shape ahead of its first use, and the count of all that JAX compiles."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

_TRACED_OR_COMPILED = "/jax/core/compile/"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class CompileLog:
    """While entered, count the programs of this process, small ones too, by JAX's own events."""

    def __init__(self) -> None:
        self.count = 0
        self.from_cache = 0
        """Those of them that the persistent cache held already."""
        self.seconds = 0.0
        """Tracing and lowering included."""

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_TRACED_OR_COMPILED):
            self.seconds += duration_secs
            self.count += event == _COMPILED

    def _on_event(self, event: str, **_: Any) -> None:
        self.from_cache += event == _CACHE_HIT

    def __enter__(self) -> CompileLog:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)


class Compiled:
    """Call `fn(first, batch, *rest)`; `batch` is the dictionary of arrays whose shapes choose the program."""

    def __init__(self, fn: Callable[..., Any], **jit_options: Any) -> None:
        self._jitted = jax.jit(fn, **jit_options)
        self._programs: dict[Shapes, Any] = {}
        self.compile_seconds = 0.0

    @property
    def count(self) -> int:
        """Programs compiled so far."""
        return len(self._programs)

    def has(self, batch: dict[str, Any]) -> bool:
        """Say whether the program for this batch's shapes is compiled."""
        return _shapes(batch) in self._programs

    def program(self, batch: dict[str, Any]) -> Any:
        """Return the program that was compiled for this batch's shapes."""
        return self._programs[_shapes(batch)]

    def compile(self, first: Any, batch: dict[str, Any], *rest: Any) -> Any:
        """Compile the program for these shapes, and return it."""
        begin = time.perf_counter()
        program = self._programs[_shapes(batch)] = self._jitted.lower(first, batch, *rest).compile()
        self.compile_seconds += time.perf_counter() - begin
        return program

    def __call__(self, first: Any, batch: dict[str, Any], *rest: Any) -> Any:
        if not self.has(batch):
            self.compile(first, batch, *rest)
        return self._programs[_shapes(batch)](first, batch, *rest)


def _shapes(batch: dict[str, Any]) -> Shapes:
    return tuple((name, array.shape) for name, array in sorted(batch.items()))
