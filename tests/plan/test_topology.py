"""The training step compiled for TPU slices that are not here."""

from __future__ import annotations

import dataclasses
import os
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from runs import LABELS, make_config, small_config

from jaxbert.config import Config, MeshConfig, ModelConfig, PrecisionConfig
from jaxbert.data.packing import Layout
from jaxbert.errors import UserError
from jaxbert.plan import topology
from jaxbert.plan.compile import CompiledStep, compile_step
from jaxbert.plan.topology import hbm_bytes, topology_devices, topology_mesh
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.programs import Program, compute_dtype, layer_call, training_layout
from jaxbert.train.sharding import make_mesh

pytest.importorskip("libtpu")

ROWS, TOKENS, SLOTS = 16, 128, 4
LAYOUT = Layout(TOKENS, (ROWS,), SLOTS)
WIDTH, WIDE, LAYERS = 128, 256, 3


def thin_program(config: Config, **sizes: int) -> Program:
    """Few layers, and wide enough that matrices are split in whole tiles."""
    mesh = topology_mesh("v5e:2x4", config.mesh)
    usual = {"hidden_size": WIDTH, "intermediate_size": WIDE, "num_hidden_layers": LAYERS}
    bert_config = small_config(vocab_size=500, max_position_embeddings=TOKENS, **(usual | sizes))
    task = Classification(LABELS)
    return Program.of(config, mesh, bert_config, task, 10)


@cache
def cost_of(**changes: Any) -> CompiledStep:
    """Compile a step, variants with the compiler's least effort, which changes no product; `section__key` sets one key."""
    return compile_step(thin_program(make_config(**changes)), LAYOUT, quick=bool(changes))


@pytest.fixture
def own_cache(tmp_path):
    """The folder of compiled programs, with nothing in it."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def products_of_a_device(attention: float) -> float:
    """FLOPs of all matrix products, from the widths: three times the forward pass, where a product costs two a weight.

    `attention` is the same multiple for the attention of the layers but the last.
    """
    weights, pairs = 4 * WIDTH**2 + 2 * WIDTH * WIDE, 2 * WIDTH * TOKENS
    # Of the last layer, keys and values alone are needed everywhere; the rest, pooler and head at the slots.
    at_slots = weights + pairs - WIDTH**2 + WIDTH * len(LABELS)
    a_row = TOKENS * ((LAYERS - 1) * (3 * weights + attention * pairs) + 3 * 2 * WIDTH**2) + 3 * SLOTS * at_slots
    return 2 * ROWS // 8 * a_row


@pytest.mark.parametrize(("backend", "attention"), [("mosaic", 3.5), ("splash", 3.5), ("xla", 3)])
def test_all_products_are_counted(backend, attention):
    """The kernels compute the logits once more in the backward pass."""
    cost = cost_of(model__attention=backend)
    assert cost.flops == pytest.approx(products_of_a_device(attention), rel=0.001)
    assert (cost.silent_kernels, cost.unknown_loops) == (0, 0)


def test_a_step_costs_what_its_products_cost(own_cache):
    before = dict(os.environ)
    cost_of.cache_clear()
    cost = cost_of()
    assert (cost.device, cost.devices, cost.rows, cost.row_length) == ("TPU v5 lite", 8, ROWS, TOKENS)
    assert cost.counted_flops < 0.8 * cost.flops, "the body of the loop over the layers counts once"
    assert cost.argument_bytes < cost.peak_bytes < cost.hbm_bytes == 16 * 2**30
    assert cost.code_bytes > 0
    assert cost.output_bytes - cost.alias_bytes < 4096, "the state is given away, the sums are new"
    assert dict(os.environ) == before
    assert not list(own_cache.glob("jit_train_step*"))


@pytest.mark.slow
def test_fsdp_shares_the_state_and_moves_parameters_only():
    alone, shared = cost_of(), cost_of(mesh__data=1, mesh__fsdp=8)
    params = sum(leaf.size for leaf in jax.tree.leaves(thin_program(make_config()).model.abstract_params))
    assert alone.argument_bytes == pytest.approx(12 * params, rel=0.02)
    assert shared.argument_bytes < 0.25 * alone.argument_bytes
    assert shared.peak_bytes < 0.7 * alone.peak_bytes
    # Were hidden states moved, every product would cost more of both.
    assert shared.flops == alone.flops
    assert sum(shared.collective_bytes.values()) < 4 * 2 * params


@pytest.mark.parametrize(
    ("steps", "changes", "loop"),
    [
        (19_999, {}, True),
        (20_000, {}, False),
        (20_000, {"model__scan_layers": True}, True),
        (10, {"model__scan_layers": False}, False),
        (20_000, {"model__remat": "full"}, True),
    ],
)
def test_only_long_runs_wait_for_unrolled_layers(steps, changes, loop):
    """Evaluations keep the loop, so that they have the same digits in any run."""
    config = make_config(**({"model__scan_layers": None} | changes))
    program = dataclasses.replace(thin_program(config), total_steps=steps)
    assert program.training_call.scan_layers == loop
    assert program.call.scan_layers == changes.get("model__scan_layers", True)


@pytest.mark.slow
def test_products_with_shared_kernels_stay_whole():
    """By itself, XLA makes a loop over the devices of each product with a kernel of BERT-base's size."""
    config = make_config(mesh__data=1, mesh__fsdp=8, model__scan_layers=False)
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 2}
    cost = compile_step(thin_program(config, **sizes), Layout(TOKENS, (64,), SLOTS), quick=True)
    assert cost.collective_bytes["collective-permute"] == 0
    assert sum(kernel.runs for kernel in cost.kernels) < 600


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"model__scan_layers": False}, {"train__accumulation_steps": 2}], ids=["unrolled", "two slices"]
)
def test_how_often_loops_run_is_known(changes):
    """The body of a scan in a scan counts in full, as its unrolled form does."""
    cost = cost_of(**changes)
    assert cost.flops == pytest.approx(cost_of().flops, rel=0.001)
    assert cost.unknown_loops == 0


@pytest.mark.slow
def test_what_does_not_fit_is_one_line():
    with pytest.raises(
        UserError, match=r"of 4194304 rows on 8 x TPU v5 lite .* needs [\d.]+[GT] of 15\.75G: lower train"
    ):
        compile_step(thin_program(make_config()), LAYOUT, 2**22)


@pytest.mark.parametrize(
    ("name", "devices", "gib"), [("v4:2x2x2", 8, 32), ("v5e:1x1", 1, 16), ("v5p:2x2x1", 4, 95), ("v6e:16x16", 256, 32)]
)
def test_a_chip_is_a_device(name, devices, gib):
    found = topology_devices(name)
    assert (len(found), hbm_bytes(found[0])) == (devices, gib * 2**30)
    assert {device.platform for device in found} == {"tpu"}
    assert jax.default_backend() == "cpu"


def test_the_mesh_says_what_the_platform_decides():
    here, there = make_mesh(MeshConfig()), topology_mesh("v5e:2x4", MeshConfig(data=2, fsdp=-1))
    assert dict(there.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert [compute_dtype(PrecisionConfig(), mesh) for mesh in (here, there)] == [jnp.float32, jnp.bfloat16]
    assert [layer_call(ModelConfig(), mesh).scan_layers for mesh in (here, there)] == [False, True]
    lengths = np.array([3, 9, 20])
    assert [training_layout(Config(), lengths, mesh).row_length % 128 == 0 for mesh in (here, there)] == [False, True]


def test_an_axis_may_be_a_part_of_an_axis_of_the_torus():
    assert dict(topology_mesh("v5p:4x4x4", MeshConfig(data=-1, fsdp=8)).shape) == {"data": 8, "fsdp": 8, "tensor": 1}


@pytest.mark.parametrize(
    ("name", "mesh", "message"),
    [
        ("v9:2x2", MeshConfig(), "topology 'v9:2x2' is not understood: give CHIP:SIZES .* one of v4, v5e, v5p, v6e"),
        ("v5e-16", MeshConfig(), "topology 'v5e-16' is not understood"),
        ("v5e:4x4x4", MeshConfig(), "a slice of v5e has 2 sizes from 1 on, as in v5e:4x4"),
        ("v5p:4x4", MeshConfig(), "a slice of v5p has 3 sizes from 1 on, as in v5p:4x4x4"),
        ("v5e:0x4", MeshConfig(), "a slice of v5e has 2 sizes from 1 on"),
        ("v5e:3x5", MeshConfig(), "libtpu makes no slice v5e:3x5"),
        ("v5e:2x4", MeshConfig(fsdp=3), "does not fit 8 devices"),
    ],
)
def test_a_mistake_is_one_line(name, mesh, message):
    with pytest.raises(UserError, match=message) as caught:
        topology_mesh(name, mesh)
    assert "\n" not in str(caught.value)


def test_without_libtpu_the_way_out_is_said(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs libtpu, .* pip install 'jaxbert\[tpu\]'"):
        topology_devices("v5e:2x4")
