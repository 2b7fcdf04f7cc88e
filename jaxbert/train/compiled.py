"""A jitted function that compiles each batch shape ahead of its first use, and counts what that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


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

    def compile(self, first: Any, batch: dict[str, Any], *rest: Any) -> None:
        """Compile the program for these shapes."""
        begin = time.perf_counter()
        self._programs[_shapes(batch)] = self._jitted.lower(first, batch, *rest).compile()
        self.compile_seconds += time.perf_counter() - begin

    def __call__(self, first: Any, batch: dict[str, Any], *rest: Any) -> Any:
        if not self.has(batch):
            self.compile(first, batch, *rest)
        return self._programs[_shapes(batch)](first, batch, *rest)


def _shapes(batch: dict[str, Any]) -> Shapes:
    return tuple((name, array.shape) for name, array in sorted(batch.items()))
