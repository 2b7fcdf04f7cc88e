"""Time the three matrix products of a kernel in XLA and in PyTorch, on the cores that this process may use.

  python scripts/bench/products.py                    all cores
  taskset -c 0 python scripts/bench/products.py       one core

Prints GFLOP/s, the medians of 15 times 5 products, for float32 and bfloat16: the forward product, the gradient of the input
and the gradient of the weights. PyTorch is left out if it is not installed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PRODUCTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "forward": lambda x, kernel, towards: x @ kernel,
    "towards the input": lambda x, kernel, towards: towards @ kernel.T,
    "gradient of the weights": lambda x, kernel, towards: x.T @ towards,
}
_ROUNDS, _TIMES = 15, 5


def rate(product: Callable[[], Any], finish: Callable[[Any], Any], flops: float) -> float:
    """Return the median GFLOP/s of a product."""
    finish(product())
    seconds = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        for _ in range(_TIMES):
            found = product()
        finish(found)
        seconds.append((time.perf_counter() - begin) / _TIMES)
    return flops / float(np.median(seconds)) / 1e9


def of_xla(name: str, tokens: int, width: int, inner: int, flops: float) -> list[float]:
    """Return the rates of compiled products."""
    shapes = (tokens, width), (width, inner), (tokens, inner)
    arrays = [jnp.ones(shape, name) for shape in shapes]
    compiled = [jax.jit(product).lower(*arrays).compile() for product in PRODUCTS.values()]
    return [rate(lambda p=p: p(*arrays), jax.block_until_ready, flops) for p in compiled]


def of_torch(name: str, tokens: int, width: int, inner: int, flops: float) -> list[float]:
    """Return the rates of PyTorch's products."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shapes = (tokens, width), (width, inner), (tokens, inner)
    arrays = [torch.ones(shape, dtype=getattr(torch, name)) for shape in shapes]
    return [rate(lambda p=p: p(*arrays), lambda found: found, flops) for p in PRODUCTS.values()]


def main() -> None:
    """Print a line for each library and number format."""
    parser = argparse.ArgumentParser(description="Time matrix products.", allow_abbrev=False)
    parser.add_argument("--tokens", type=int, default=432)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--inner", type=int, default=1536)
    values = parser.parse_args()
    sizes = values.tokens, values.width, values.inner
    print(f"{len(os.sched_getaffinity(0))} core(s), jax {jax.__version__}; GFLOP/s: {', '.join(PRODUCTS)}")
    for label, measure in (("XLA", of_xla), ("PyTorch", of_torch)):
        for name in ("float32", "bfloat16"):
            try:
                rates = measure(name, *sizes, 2.0 * values.tokens * values.width * values.inner)
            except ImportError:
                print(f"{label}: not installed")
                break
            print(f"{label}, {name}: {', '.join(f'{r:.0f}' for r in rates)}", flush=True)


if __name__ == "__main__":
    main()
