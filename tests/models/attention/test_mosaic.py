"""The kernels for TPUs compile with no TPU at hand, by libtpu. `test_backends` runs them in the interpreter."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.select import Attention
from jaxbert.plan.hlo_cost import read_cost
from jaxbert.plan.topology import topology_devices

pytest.importorskip("libtpu")

ROWS = 2


def compile_for(topology, dtype, tokens, heads, width, rate):
    """Compile forward and backward pass, from and to [B, T, H * K] as the dense layers have it."""
    device = topology_devices(topology)[0]
    attend, place = Attention(hardware=Hardware.of(device)), SingleDeviceSharding(device)

    def grads(q, k, v, weight, segments, key):
        def mix(*qkv):
            qkv = [x.reshape(ROWS, tokens, heads, width) for x in qkv]
            return attend(*qkv, segments, dropout_rate=rate, key=key).reshape(ROWS, tokens, -1)

        out, pull = jax.vjp(mix, q, k, v)
        return out, pull(weight)

    wide = jax.ShapeDtypeStruct((ROWS, tokens, heads * width), dtype, sharding=place)
    segments = jax.ShapeDtypeStruct((ROWS, tokens), jnp.int32, sharding=place)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=place)
    return jax.jit(grads).lower(wide, wide, wide, wide, segments, key).compile()


@pytest.mark.parametrize(
    ("topology", "dtype", "tokens", "heads", "width", "rate"),
    [
        ("v5e:1x1", "bfloat16", 512, 12, 64, 0.1),
        ("v6e:1x1", "bfloat16", 512, 12, 32, 0.1),
        ("v5p:1x1x1", "float32", 384, 2, 128, 0.1),
        ("v4:1x1x1", "bfloat16", 2944, 2, 64, 0.0),
    ],
    ids=["v5e", "v6e", "v5p", "the longest row"],
)
def test_forward_and_backward_compile(topology, dtype, tokens, heads, width, rate):
    """Two kernels that report their FLOPs; no array of [T, T], and none that is copied to another order of its axes."""
    text = compile_for(topology, dtype, tokens, heads, width, rate).as_text()
    assert re.findall(r"packed_attention_(\w+?)_+\.\d+ = .*tpu_custom_call", text) == ["forward", "backward"]
    cost = read_cost(text)
    assert (cost.flops, cost.silent_kernels) == (2 * 7 * ROWS * tokens**2 * heads * width, 0)
    assert not re.search(rf"\[[\d,]*{tokens},{tokens}\]", text)
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|transpose)\(", text)
    assert all(math.prod(map(int, sizes.split(","))) < ROWS * tokens for sizes in moved)


@pytest.mark.parametrize(("tokens", "heads", "width", "dtype"), [(72, 3, 32, "bfloat16"), (200, 3, 80, "float32")])
def test_what_fills_no_tiles_compiles(tokens, heads, width, dtype):
    text = compile_for("v5e:1x1", dtype, tokens, heads, width, 0.1).as_text()
    assert text.count('"tpu_custom_call"') == 2
