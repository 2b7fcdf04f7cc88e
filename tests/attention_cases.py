"""Queries, keys, values and segments to compare attention backends on."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxbert.config import MeshConfig
from jaxbert.models.attention.base import Attend
from jaxbert.models.attention.mosaic import mosaic_attention
from jaxbert.models.attention.pallas import KernelSettings, pallas_attention, pallas_fused_attention
from jaxbert.models.attention.splash import splash_attention
from jaxbert.models.attention.xla import xla_attention
from jaxbert.train.sharding import make_mesh

TILE = 16
"""Small, so that the rows of a test have several."""

HEADS, WIDTH = 2, 8


def fused_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    settings: KernelSettings = KernelSettings(TILE),  # noqa: B008 (frozen)
    **options: Any,
) -> jax.Array:
    """Give the kernels one array without the biases, which they add: the result is that of the arrays as they are."""
    bias = jnp.asarray(np.random.default_rng(5).normal(size=(3, *q.shape[2:])), jnp.float32)
    kvq = jnp.stack([k, v, q], axis=2) - bias.astype(q.dtype)[None, None]
    return pallas_fused_attention(kvq, bias, segments, interpret=True, settings=settings, **options)


def by_heads(attend: Attend) -> Attend:
    """Divide a backend's output into heads again, [B, T, H, K]."""

    def attend_by_heads(q: jax.Array, *rest: Any, **options: Any) -> jax.Array:
        return attend(q, *rest, **options).reshape(q.shape)

    return attend_by_heads


BACKENDS: dict[str, Attend] = {
    "xla": by_heads(xla_attention),
    "pallas": by_heads(partial(pallas_attention, interpret=True, settings=KernelSettings(TILE))),
    "fused": by_heads(fused_attention),
    "mosaic": by_heads(partial(mosaic_attention, interpret=True, tile=TILE)),
    "splash": by_heads(partial(splash_attention, interpret=True)),
}
LENGTHS = {"xla": 40, "pallas": 40, "fused": 40, "mosaic": 40, "splash": 128}
"""Tokens of a row: no multiple of our kernels' tile, and what splash can do."""


def packed_segments(rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Draw packed rows that end in padding; the first is full, and the last is empty where there are three or more."""
    rng = np.random.default_rng(seed)
    segments = np.zeros((rows, tokens), np.int32)
    for index in range(rows - 1 if rows > 2 else rows):
        ends = np.cumsum(rng.integers(1, tokens // 3, tokens))
        filled = int(ends[ends < tokens - 3][-1]) if index else tokens
        segments[index, :filled] = np.searchsorted(ends, np.arange(filled), side="right") + 1
    return segments


def random_arrays(shape: tuple[int, ...], count: int = 4, dtype: Any = jnp.float32, seed: int = 1) -> list[jax.Array]:
    """Draw arrays with normal entries."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(count)]


@partial(jax.jit, static_argnames=("name", "rate"))
def value_and_grads(
    name: str, q: Any, k: Any, v: Any, weight: Any, segments: Any, rate: float = 0.0, key: Any = None
) -> tuple:
    """Return a backend's output, and the gradients of its weighted sum; compiled once for each shape."""
    out, pull = jax.vjp(lambda *qkv: BACKENDS[name](*qkv, segments, dropout_rate=rate, key=key), q, k, v)
    return out, pull(weight.astype(out.dtype))


def assert_close(found: tuple, expected: tuple, segments: np.ndarray, tolerance: float = 5e-6) -> None:
    """Compare outputs at real tokens, where alone they are defined, and gradients everywhere, up to their largest entry."""
    (out, grads), (expected_out, expected_grads) = found, expected
    assert np.isfinite(out).all()
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(np.asarray(out)[real], np.asarray(expected_out)[real], rtol=1e-5, atol=tolerance)
    for one, other in zip(grads, expected_grads, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=tolerance * np.abs(other).max())


def cube() -> Mesh:
    """Arrange eight devices in two of each axis."""
    return make_mesh(MeshConfig(2, 2, 2))
