"""Every backend computes what plain matrix products compute, and lets nothing pass from one segment to another."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    BACKENDS,
    HEADS,
    LENGTHS,
    TILE,
    WIDTH,
    assert_close,
    packed_segments,
    random_arrays,
    value_and_grads,
)

from jaxbert.data.batches import computed_pairs
from jaxbert.models.attention.pallas import KernelSettings, pallas_fused_attention
from jaxbert.models.attention.tiles import neighbours, tile_padding
from jaxbert.models.attention.xla import attend_with_weights

KERNELS = pytest.mark.parametrize("name", [name for name in BACKENDS if name != "xla"])
OURS = pytest.mark.parametrize("name", ["pallas", "fused", "mosaic"])
ALL = pytest.mark.parametrize("name", BACKENDS)


def case(name, dtype=jnp.float32):
    """Return queries, keys, values, weights of the output (0 for padding) and segments."""
    *qkv, weight = random_arrays((3, LENGTHS[name], HEADS, WIDTH), dtype=dtype)
    segments = packed_segments(3, LENGTHS[name])
    return *qkv, jnp.where(segments[:, :, None, None] > 0, weight, 0), segments


def test_the_cases_have_what_matters():
    for length in LENGTHS.values():
        segments = packed_segments(3, length)
        assert segments[0].all()
        assert segments[1].max() >= 3
        assert 0 < (segments[1] == 0).sum() < length
        assert not segments[2].any()


@KERNELS
def test_values_and_gradients(name):
    *arrays, segments = case(name)
    found, expected = (value_and_grads(backend, *arrays, segments) for backend in (name, "xla"))
    assert_close(found, expected, segments)


@KERNELS
def test_bfloat16(name):
    """Against float32 of the same inputs: within three times the error of plain products in bfloat16, and within 2%."""
    *arrays, segments = case(name, jnp.bfloat16)
    exact = value_and_grads("xla", *(x.astype(jnp.float32) for x in arrays), segments)
    plain, found = (value_and_grads(backend, *arrays, segments) for backend in ("xla", name))

    def errors(result):
        pairs = zip(jax.tree.leaves(result), jax.tree.leaves(exact), strict=True)
        return [float(np.abs(np.float32(a) - b)[segments > 0].max() / np.abs(b).max()) for a, b in pairs]

    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(found))
    for ours, theirs in zip(errors(found), errors(plain), strict=True):
        assert ours < min(3 * theirs, 0.02)


@ALL
def test_nothing_leaks_either_way(name):
    """The output of one segment has a gradient of exactly zero in all other tokens' queries, keys and values."""
    q, k, v, _, segments = case(name)
    (weight,) = random_arrays(q.shape, 1, seed=3)
    for segment in np.unique(segments[1]):  # padding is 0
        mine = np.zeros_like(segments, bool)
        mine[1] = segments[1] == segment
        _, grads = value_and_grads(name, q, k, v, jnp.where(mine[:, :, None, None], weight, 0.0), segments)
        for grad in map(np.asarray, grads):
            assert not np.any(grad[~mine])
        assert np.all(np.abs(grad[mine]).max((-1, -2)) > 0)  # the values'


@ALL
def test_strangers_change_no_bit(name):
    q, k, v, weight, segments = case(name)
    mine = np.broadcast_to((segments == 2)[:, :, None, None], q.shape)
    other = [
        jnp.where(mine, x, 100 * noise) for x, noise in zip((q, k, v), random_arrays(q.shape, 3, seed=5), strict=True)
    ]
    (before, _), (after, _) = (value_and_grads(name, *qkv, weight, segments) for qkv in ((q, k, v), other))
    np.testing.assert_array_equal(before[mine], after[mine])


@ALL
def test_packed_and_padded_agree(name):
    """Each segment of a packed row, alone at the head of its own row."""
    *arrays, segments = map(np.asarray, case(name))
    packed = jax.tree.leaves(value_and_grads(name, *arrays, segments))
    for row, segment in ((0, 1), (0, 3), (1, 2)):
        mine = segments[row] == segment
        alone = np.zeros_like(segments)
        alone[0, : mine.sum()] = 1
        moved = [np.zeros_like(x) for x in arrays]
        for target, source in zip(moved, arrays, strict=True):
            target[0, : mine.sum()] = source[row, mine]
        padded = jax.tree.leaves(value_and_grads(name, *moved, alone))
        for one, other in zip(packed, padded, strict=True):
            np.testing.assert_allclose(one[row, mine], other[0, : mine.sum()], rtol=1e-5, atol=5e-6)


@OURS
def test_the_same_key_drops_the_same_weights(name):
    """Values that are unit vectors make the output the weights themselves."""
    length = LENGTHS[name]
    segments = packed_segments(3, length)
    q, k = random_arrays((3, length, HEADS, length), 2)
    unit = jnp.broadcast_to(jnp.eye(length)[None, :, None], q.shape)

    @jax.jit
    def both(q, k, key):
        options = {"dropout_rate": 0.3, "key": key}
        _, weights_BHTT = attend_with_weights(q, k, unit, segments, **options)
        return BACKENDS[name](q, k, unit, segments, **options).swapaxes(1, 2), weights_BHTT

    found_BHTT, weights_BHTT = map(np.asarray, both(q, k, jax.random.key(11)))
    real = np.broadcast_to((segments > 0)[:, None, :, None], found_BHTT.shape)
    own = np.broadcast_to((segments[:, :, None] == segments[:, None])[:, None], real.shape) & real
    assert 0.25 < (found_BHTT[own] == 0).mean() < 0.35
    np.testing.assert_array_equal(found_BHTT[real] == 0, weights_BHTT[real] == 0)
    np.testing.assert_allclose(found_BHTT[real], weights_BHTT[real], rtol=1e-5, atol=1e-6)


@OURS
def test_gradients_with_dropout(name):
    *arrays, segments = case(name)
    found, expected = (value_and_grads(one, *arrays, segments, 0.3, jax.random.key(4)) for one in (name, "xla"))
    assert_close(found, expected, segments)


@pytest.mark.parametrize("name", ["pallas", "fused"])
@pytest.mark.parametrize(
    "settings",
    [KernelSettings(TILE, TILE // 2), KernelSettings(2 * TILE, TILE, warps=8, stages=1)],
    ids=["parts", "wide"],
)
def test_no_setting_of_the_kernels_changes_values_or_what_is_dropped(name, settings, monkeypatch):
    """Keys read their tiles in parts, as in a run, where a tile of 64 reads 32 queries at a time."""
    monkeypatch.setitem(BACKENDS, name, partial(BACKENDS[name], settings=settings))
    *arrays, segments = case(name)
    compute = jax.jit(
        value_and_grads.__wrapped__, static_argnames=("name", "rate")
    )  # compiled without the other tests'
    found = compute(name, *arrays, segments, 0.3, jax.random.key(4))
    assert_close(found, value_and_grads("xla", *arrays, segments, 0.3, jax.random.key(4)), segments)


def test_the_gradient_of_a_fused_bias_is_float32():
    """Each device's part would else be rounded before the parts are summed."""
    q, k, v, weight = random_arrays((2, 40, HEADS, WIDTH), dtype=jnp.bfloat16)
    bias = jnp.zeros((3, HEADS, WIDTH), jnp.float32)
    segments = packed_segments(2, 40)

    def loss(bias):
        out = pallas_fused_attention(
            jnp.stack([k, v, q], 2), bias, segments, interpret=True, settings=KernelSettings(TILE)
        )
        return (out.reshape(weight.shape) * weight).astype(jnp.float32).sum()

    grad = jax.grad(loss)(bias)
    assert grad.dtype == jnp.float32
    rounded = grad.astype(jnp.bfloat16).astype(jnp.float32)
    assert (grad[1:] != rounded[1:]).mean() > 0.5
    assert not grad[0].any()


@pytest.mark.parametrize(("heads", "width"), [(3, 64), (5, 32), (2, 128), (1, 80)])
def test_heads_of_any_number_and_width(heads, width):
    """On TPU two heads of 64 share a block, or four of 32, and what lacks is filled; dropout knows the head all the same."""
    *qkv, weight = random_arrays((2, 24, heads, width))
    segments = packed_segments(2, 24)
    weight = jnp.where(segments[:, :, None, None] > 0, weight, 0)
    arrays = *qkv, weight, segments
    found, expected = (value_and_grads(name, *arrays, 0.3, jax.random.key(4)) for name in ("mosaic", "xla"))
    assert_close(found, expected, segments)


@OURS
def test_without_a_key_there_is_no_dropout(name):
    (still, _), (plain, _) = (value_and_grads(name, *case(name), rate) for rate in (0.3, 0.0))
    np.testing.assert_array_equal(still, plain)


def brute_force_neighbours(segments):
    """Return the first tile and the one after the last that shares a segment with each tile, or is the tile itself."""
    filled = np.pad(segments, ((0, 0), (0, -segments.shape[1] % TILE)))
    tiles = filled.reshape(len(segments), -1, TILE)
    count = tiles.shape[1]
    bounds = np.empty((len(segments), count, 2), int)
    for row, i in np.ndindex(len(segments), count):
        near = [j for j in range(count) if i == j or (set(tiles[row, i]) & set(tiles[row, j])) - {0}]
        bounds[row, i] = near[0], near[-1] + 1
    return filled, bounds


@pytest.mark.parametrize("seed", range(5))
def test_only_tiles_that_share_a_segment_are_visited(seed):
    segments = packed_segments(6, 200, seed)
    filled, expected = brute_force_neighbours(segments)
    found = np.asarray(neighbours(tile_padding(jnp.asarray(filled), TILE), TILE))
    np.testing.assert_array_equal(found, expected)
    visited = (found[:, :, 1] - found[:, :, 0]).sum() * TILE**2
    assert visited < 0.6 * filled.size * filled.shape[1]
    slots = np.arange(1, segments.max() + 1)
    inside = segments[:, None, :] == slots[:, None]
    assert computed_pairs(inside.argmax(-1), inside.sum(-1), segments.shape[1], TILE) == visited
    assert (found[-1, :, 1] - found[-1, :, 0] == 1).all()  # an empty row


@OURS
def test_segments_in_any_order_are_computed_rightly(name):
    *qkv, weight, segments = case(name)
    order = np.random.default_rng(0).permutation(segments.shape[1])
    shuffled = segments[:, order]
    found, expected = (value_and_grads(one, *qkv, weight[:, order], shuffled) for one in (name, "xla"))
    assert_close(found, expected, shuffled)
