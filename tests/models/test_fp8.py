"""Products in float8 stay within the format's rounding, forward and backward, and are really float8."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import make_config, make_program, random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.errors import UserError
from jaxbert.models.attention.base import Hardware
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.models.layers import fp8_matmul
from jaxbert.train.programs import check_fp8

ROUNDING = {"float8_e4m3fn": (2**-4, 2**-10, 448.0), "float8_e5m2": (2**-3, 2**-17, 57344.0)}
"""Half a last place relative to the number; half the smallest step; the largest number."""
ACCUMULATION = 1e-5
"""Of float32 sums, relative to the sum of absolute terms."""


def error_of(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return how far each number may be from its quantized one."""
    relative, absolute, limit = ROUNDING[dtype]
    return np.maximum(relative * np.abs(x), absolute * np.abs(x).max() / limit)


def assert_within_rounding(found, a, b, a_dtype: str, b_dtype: str) -> None:
    """Compare with a @ b, where each factor may be off by its rounding."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    da, db = error_of(a, a_dtype), error_of(b, b_dtype)
    bound = da @ np.abs(b) + np.abs(a) @ db + da @ db + ACCUMULATION * (np.abs(a) @ np.abs(b))
    error = np.abs(np.asarray(found, np.float64) - a @ b)
    assert np.all(error <= bound)
    assert error.max() > 1e-3 * np.abs(a @ b).max(), "this is no float8"


def drawn(*shape: int, scale: float) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, scale, shape).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_products_and_their_gradients(scale):
    """The scale of a tensor does not matter: far below and above float8's own range."""
    x, kernel, grad = drawn(6, 10, 32, scale=scale), drawn(32, 48, scale=1 / scale), drawn(6, 10, 48, scale=scale**2)
    y, backward = jax.vjp(fp8_matmul, x, kernel)
    grad_x, grad_kernel = backward(jnp.asarray(grad))
    flat_x, flat_grad = x.reshape(-1, 32), grad.reshape(-1, 48)
    forward, back = "float8_e4m3fn", "float8_e5m2"
    assert_within_rounding(y.reshape(-1, 48), flat_x, kernel, forward, forward)
    assert_within_rounding(grad_x.reshape(-1, 32), flat_grad, kernel.T, back, forward)
    assert_within_rounding(grad_kernel, flat_x.T, flat_grad, forward, back)


def test_zeros_give_zeros():
    y, backward = jax.vjp(fp8_matmul, jnp.zeros((3, 4)), jnp.ones((4, 2)))
    assert not np.any(y)
    assert all(np.all(np.isfinite(grad)) for grad in backward(jnp.zeros((3, 2))))


@pytest.fixture(scope="module")
def gradients():
    """`fp8 -> the gradients of a classifier`, compiled with scanned layers."""
    model = make_model(SequenceClassificationHead, small_config(initializer_range=0.1), jnp.bfloat16)
    params = jax.tree.map(jnp.asarray, random_params(model))
    tokens = random_tokens(24)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 24, row_length=64), 24, seed=None)

    def loss(params, fp8):
        logits = model.apply(params, batch, None, ForwardOptions(fp8=fp8))["logits"].astype(jnp.float32)
        return (jax.nn.log_softmax(logits)[:, :, 0] * batch["example_mask"]).sum()

    return {fp8: jax.jit(jax.grad(lambda p, fp8=fp8: loss(p, fp8)))(params) for fp8 in (False, True)}


def test_gradients_of_a_model_against_bfloat16(gradients):
    """Within 12% of the whole vector's norm, and every tensor of a layer has one."""
    found, expected = (
        np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradients[fp8])]) for fp8 in (True, False)
    )
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0.005 < error < 0.12
    for path, leaf in jax.tree.leaves_with_path(gradients[True]["bert"]["encoder"]):
        name = jax.tree_util.keystr(path)
        assert np.any(leaf) or ("'key'" in name and "'bias'" in name), name


def test_the_step_multiplies_in_float8_where_it_is_asked_to():
    """Six dense products of each of two layers, forward and twice backward; pooler and head stay as they are."""

    def products(fp8: bool) -> list[str]:
        program = make_program(make_config(), small_config(), 4, devices=1)
        # Only now, since the model's check would refuse this device.
        program = dataclasses.replace(program, config=make_config(precision__fp8=fp8))
        tokens = random_tokens(8)
        labels = np.zeros(len(tokens), np.int32)
        (batch,) = batches(Examples(tokens, labels), choose_layout(tokens.lengths, 8, row_length=32), 8, seed=None)
        text = program.train_step()._jitted.lower(program.state_target, program.put(batch), program.arguments).as_text()
        return re.findall(r"stablehlo\.dot_general .*: \(tensor<\S*(f8E\w+)>, tensor<\S*(f8E\w+)>\)", text)

    assert products(False) == []
    kinds = products(True)
    assert len(kinds) == 2 * 18
    assert kinds.count(("f8E4M3FN", "f8E4M3FN")) == 2 * 6
    assert sum("f8E5M2" in kind for kind in kinds) == 2 * 12


@pytest.mark.parametrize(
    ("platform", "capability", "fine"), [("gpu", (9, 0), True), ("gpu", (8, 0), False), ("tpu", None, False)]
)
def test_which_devices_are_refused(platform, capability, fine):
    hardware = Hardware(platform, capability)
    config = make_config(precision__fp8=True).precision
    if fine:
        check_fp8(config, hardware, "this one")
    else:
        with pytest.raises(UserError, match="needs an H100 or H200, but this is this one"):
            check_fp8(config, hardware, "this one")
    check_fp8(make_config().precision, hardware, "this one")
