"""Kernels on eight devices, rows and heads spread, give what one device gives, dropout included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from attention_cases import assert_close, by_heads, cube, packed_segments, random_arrays
from jax.sharding import NamedSharding, PartitionSpec

from jaxbert.config import MeshConfig
from jaxbert.models.attention.base import Spread
from jaxbert.models.attention.select import Attention
from jaxbert.models.attention.xla import xla_attention
from jaxbert.train.sharding import ROWS, batch_spread, make_mesh


@pytest.mark.parametrize(
    ("name", "length", "heads", "rate"),
    [("pallas", 40, 4, 0.3), ("pallas", 40, 3, 0.3), ("mosaic", 40, 4, 0.3), ("splash", 128, 4, 0.0)],
    ids=["pallas", "heads that the axis does not divide", "mosaic", "splash"],
)
def test_eight_devices_give_the_same(name, length, heads, rate):
    mesh = cube()
    attend = Attention(name, spread=batch_spread(mesh), interpret=True)
    *qkv, weight = random_arrays((8, length, heads, 8))
    segments, key = packed_segments(8, length), jax.random.key(2)
    weight = weight * (segments > 0)[:, :, None, None]
    tensor = "tensor" if heads % 2 == 0 else None
    wide, rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(ROWS, None, tensor), PartitionSpec(ROWS)))

    def grads(attend, qkv, weight, segments):
        out, pull = jax.vjp(lambda *qkv: by_heads(attend)(*qkv, segments, dropout_rate=rate, key=key), *qkv)
        return out, pull(weight)

    spread = jax.jit(grads, static_argnums=0, in_shardings=(wide, wide, rows))
    found = spread(attend, qkv, weight, segments)
    expected = jax.jit(grads, static_argnums=0)(xla_attention, qkv, weight, segments)
    assert found[0].sharding.is_equivalent_to(wide, 4)
    assert_close(found, expected, segments)


def test_fused_arrays_on_eight_devices_give_the_same():
    """Rows are spread over both axes: each device drops the entries of its own rows."""
    mesh = make_mesh(MeshConfig(4, 2, 1))
    attend = Attention("pallas", spread=batch_spread(mesh), interpret=True)
    *qkv, weight = random_arrays((8, 40, 3, 8))
    segments, key = packed_segments(8, 40), jax.random.key(2)
    weight = weight * (segments > 0)[:, :, None, None]

    def fused(q, k, v, segments, *, dropout_rate, key):
        bias = jnp.zeros((3, *q.shape[2:]), jnp.float32)
        return attend.attend_fused(jnp.stack([k, v, q], 2), bias, segments, dropout_rate=dropout_rate, key=key)

    def grads(attend, qkv, weight, segments):
        out, pull = jax.vjp(lambda *qkv: by_heads(attend)(*qkv, segments, dropout_rate=0.3, key=key), *qkv)
        return out, pull(weight)

    rows = NamedSharding(mesh, PartitionSpec(ROWS))
    found = jax.jit(grads, static_argnums=0, in_shardings=(rows, rows, rows))(fused, qkv, weight, segments)
    assert found[0].sharding.is_equivalent_to(rows, 4)
    assert_close(found, jax.jit(grads, static_argnums=0)(xla_attention, qkv, weight, segments), segments)


@pytest.mark.parametrize("name", ["pallas", "mosaic"])
def test_each_device_computes_its_own_part_alone(name):
    """The compiled program gathers nothing: rows and heads stay where they are."""
    mesh = cube()
    attend = Attention(name, spread=batch_spread(mesh), interpret=True)
    wide, rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(ROWS, None, "tensor"), PartitionSpec(ROWS)))
    qkv = random_arrays((8, 32, 4, 16), 3)
    jitted = jax.jit(lambda q, k, v, ids: attend(q, k, v, ids), in_shardings=(wide, wide, wide, rows))
    text = jitted.lower(*qkv, packed_segments(8, 32)).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_a_choice_is_static():
    one, same, other = (Attention(name, spread=Spread(cube(), ROWS, "tensor")) for name in ("xla", "xla", "pallas"))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
