"""The kernels lower to Triton without a GPU. They run on NVIDIA GPUs alone, and in the interpreter elsewhere."""

from __future__ import annotations

import contextlib
import re
import warnings

import jax
import jax.numpy as jnp
import pytest

from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.pallas import tile_of
from jaxbert.models.attention.select import Attention


def lower_for_cuda(jitted, *args):
    """Lower for CUDA; later versions of JAX ask for the kind of GPU, and say that their Triton backend will go one day."""
    kind = contextlib.nullcontext()
    if hasattr(jax.sharding, "AbstractDevice"):
        device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
        auto = (jax.sharding.AxisType.Auto,)
        kind = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), auto, abstract_device=device))
    with kind, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        return jitted.trace(*args).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(
    ("length", "width", "dtype"), [(384, 64, "bfloat16"), (72, 32, "float32"), (200, 80, "float16")]
)
def test_forward_and_backward_lower_for_cuda(length, width, dtype, rate):
    attend = Attention("pallas", Hardware("gpu", (9, 0)))
    shape = jax.ShapeDtypeStruct((4, length, 12, width), dtype)

    def loss(q, k, v, segments, key):
        return attend(q, k, v, segments, dropout_rate=rate, key=key).astype(jnp.float32).sum()

    segments = jax.ShapeDtypeStruct((4, length), jnp.int32)
    text = lower_for_cuda(jax.jit(jax.grad(loss, (0, 1, 2))), shape, shape, shape, segments, jax.random.key(0))
    calls = re.findall(
        r'grid_x = (\d+) : i32, grid_y = (\d+) : i32, grid_z = (\d+) .*?name = "\w*?(forward|query|key)', text
    )
    grid = str(-(-length // tile_of(dtype, width))), "12", "4"
    assert calls == [(*grid, kernel) for kernel in ("forward", "query", "key")]
