"""Every optimizer by its name: bad steps, meshes, each layer of a stack by itself, and the bytes of its state."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from runs import make_config, make_program, random_tokens, small_config
from tiny import random_params

from jaxbert.config import OPTIMIZERS, OptimizerConfig
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.interop.names import unstack_layers
from jaxbert.plan.planner import sharding_rows, state_bytes
from jaxbert.plan.roofline import moved_by_optimizer
from jaxbert.tasks.regression.task import LABEL, Regression
from jaxbert.train.optimizer import decay_mask, guarded, make_optimizer, make_schedule
from jaxbert.train.programs import training_layout

BERT = small_config(hidden_size=128, intermediate_size=256, id2label={0: LABEL}, label2id={LABEL: 0})
"""Wide enough that Adafactor factors the layers' kernels."""
MESH = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
FEW = [
    *("LayerNorm", "position", "token_type", "self/(key|value)", "attention/output", "[0-9]/output"),
    "layer/0/attention/self/query/bias",
]
"""Frozen, so that a tensor of each kind is left, and of one stack a layer."""
RATES = {"sgd": 0.01, "lion": 1e-4}


def program_of(name, devices=1, **changes):
    """A regression of eight steps, each of eight rows: a score may be NaN."""
    settings = {
        "optimizer__name": name,
        "optimizer__learning_rate": RATES.get(name, 1e-3),
        "train__batch_size": 8,
        "data__packing": False,
        "data__row_length": 16,
    }
    config = make_config(task="regression", **(settings | changes))
    return make_program(config, BERT, 8, devices, Regression())


@cache
def some_batches():
    """The batches of three steps, and a bad one."""
    tokens = random_tokens(24)
    examples = Examples(tokens, np.random.default_rng(0).normal(size=24).astype(np.float32))
    config = program_of("adamw").config
    found = list(batches(examples, training_layout(config, tokens.lengths, program_of("adamw").mesh), 8, seed=0))
    bad = found[2] | {"labels": np.where(found[2]["example_ids"] == found[2]["example_ids"][0], np.nan, 0.5)}
    return found, bad | {"labels": bad["labels"].astype(np.float32)}


@cache
def gradient():
    """The gradient on one device, which all optimizers share."""
    program = program_of("adamw")

    def loss(params, batch):
        totals = program.task.totals(batch)
        sums = program.task.sums(program.model.apply(params, batch, None, program.call), batch, totals, train=True)
        return sums["loss"] / totals["examples"]

    return program, jax.jit(jax.grad(loss))


class Walk:
    """A compiled program on a mesh, and the states to which its steps lead."""

    def __init__(self, name):
        self.program = program_of(name, 8, **MESH, optimizer__freeze=FEW)
        self.step = self.program.train_step()

    def take(self, *steps):
        """Take steps from the first state; return the last state and the sums of all steps."""
        state, sums = self.program.first_state(random_params(self.program.model)), []
        for batch in steps:
            state, of_step = self.step(state, self.program.put(batch), self.program.arguments)
            sums.append(jax.device_get(of_step))
        return state, sums


@pytest.fixture(scope="module", params=OPTIMIZERS)
def walk(request):
    return Walk(request.param)


def assert_same_bits(found, expected):
    found, expected = (jax.device_get([state["params"], state["opt_state"]]) for state in (found, expected))
    for (path, leaf), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert leaf.tobytes() == other.tobytes(), path


def test_a_bad_step_changes_nothing_but_the_count_of_steps(walk):
    good, bad = some_batches()
    before, _ = walk.take(*good[:2])
    after, sums = walk.take(*good[:2], bad)
    assert [bool(s["bad"]) for s in sums] == [False, False, True]
    assert (int(before["step"]), int(after["step"])) == (2, 3)
    assert_same_bits(after, before)


def test_the_steps_after_it_are_those_of_a_run_without_it(walk):
    good, bad = some_batches()
    found, sums = walk.take(bad, good[0], bad, good[1])
    expected, without = walk.take(*good[:2])
    assert [float(s["learning_rate"]) for s in sums[1::2]] == [float(s["learning_rate"]) for s in without]
    assert float(sums[3]["learning_rate"]) > float(sums[1]["learning_rate"])
    assert_same_bits(found, expected)


def test_a_mesh_takes_the_steps_of_one_device(walk):
    """A hundredth of a percent may differ: where a gradient is nearly zero, the sign of its rounding counts."""
    batches, _ = some_batches()
    found, _ = walk.take(*batches[:2])
    alone, grad = gradient()
    tx, trainable = walk.program.optimizer.tx, walk.program.trainable
    params, update = jax.tree.map(jnp.asarray, random_params(alone.model)), jax.jit(tx.update)
    opt_state = tx.init(trainable.select(params))
    for batch in batches[:2]:
        part = trainable.select(params)
        updates, opt_state = update(trainable.select(grad(params, alone.put(batch))), opt_state, part)
        params = trainable.combine(params, optax.apply_updates(part, updates))
    pairs = zip(
        jax.tree.leaves_with_path([found["params"], found["opt_state"]]),
        jax.tree.leaves([params, opt_state]),
        strict=True,
    )
    for (path, leaf), expected in pairs:
        off = np.abs(np.asarray(leaf) - np.asarray(expected)) > 2e-5 * np.abs(expected).max()
        assert off.mean() <= 1e-4, path
    assert state_bytes(walk.program) == sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(found))


KERNEL = "bert/encoder/layer/intermediate/dense/kernel"
STATISTICS = {"v_row": ((2, 128), ()), "v_col": ((2, 256), ()), "v": ((2, 1), ())}


def test_the_state_lies_where_its_parameter_lies():
    """Factored statistics are whole on every device, and so is what stands for those of other tensors."""
    kernel = ((2, 128, 256), (None, "fsdp", "tensor"))
    for name, expected in {
        "adamw": {"mu": kernel, "nu": kernel},
        "muon": {"mu": kernel},
        "adafactor": STATISTICS,
    }.items():
        found = {}
        for path, leaf in jax.tree.leaves_with_path(program_of(name, 8, **MESH).state_target["opt_state"]):
            if [part.key for part in path if hasattr(part, "key")][-6:] == KERNEL.split("/"):
                field = next(part.name for part in reversed(path) if hasattr(part, "name"))
                found[field] = (leaf.shape, tuple(leaf.sharding.spec))
        assert found == expected, name


BASE = OptimizerConfig(learning_rate=0.01, clip_norm=None, weight_decay=0.0, warmup_ratio=0.0)
SCHEDULE = make_schedule(BASE, 10)


def muon_numbers(tree):
    """Say which tensors of an unstacked tree are matrices of the layers."""
    return jax.tree.map_with_path(
        lambda path, _: (
            optax.contrib.MuonDimensionNumbers()
            if "layer" in [part.key for part in path] and path[-1].key == "kernel"
            else None
        ),
        tree,
    )


OPTAX = {
    "adamw": ({"weight_decay": 0.3}, optax.adamw(SCHEDULE, weight_decay=0.3, mask=decay_mask)),
    "lamb": ({"weight_decay": 0.3}, optax.lamb(SCHEDULE, weight_decay=0.3, mask=decay_mask)),
    "lion": ({"weight_decay": 0.3}, optax.lion(SCHEDULE, weight_decay=0.3, mask=decay_mask)),
    "sgd": ({"momentum": 0.8, "nesterov": True}, optax.sgd(SCHEDULE, 0.8, nesterov=True)),
    "sgd, nothing kept": ({"momentum": 0.0}, optax.sgd(SCHEDULE)),
    "adafactor": ({}, optax.adafactor(SCHEDULE, multiply_by_parameter_scale=False)),
    "adafactor, relative": ({"parameter_scale": True}, optax.adafactor(SCHEDULE)),
    "muon": ({}, optax.contrib.muon(SCHEDULE, consistent_rms=0.2, muon_weight_dimension_numbers=muon_numbers)),
}


@cache
def some_tensors():
    """Parameters and the gradients of two steps; layers whose sizes differ, so that their norms do."""
    rng = np.random.default_rng(0)
    shapes = {
        "encoder/layer/dense/kernel": (2, 128, 160),
        "encoder/layer/dense/bias": (2, 160),
        "embeddings/embedding": (140, 128),
        "classifier/kernel": (128, 3),
    }
    sizes = {name: np.float32([0.2, 2.0]).reshape(2, *[1] * (len(shape) - 1)) for name, shape in shapes.items()}

    def draw():
        flat = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
        layers = {name: leaf * sizes[name] for name, leaf in flat.items() if "layer" in name}
        return traverse_util.unflatten_dict(flat | layers, sep="/")

    return draw(), [draw(), draw()]


@pytest.mark.parametrize("case", OPTAX)
def test_updates_are_those_of_optax_for_each_layer_by_itself(case):
    settings, theirs = OPTAX[case]
    ours = make_optimizer(dataclasses.replace(BASE, name=case.split(",")[0], **settings), 10)
    params, grads = some_tensors()

    def descend(tx, params, grads):
        state, update = tx.init(params), jax.jit(tx.update)
        for of_step in grads:
            updates, state = update(of_step, state, params)
            params = optax.apply_updates(params, updates)
        return params

    found = descend(ours, params, grads)
    expected = descend(theirs, unstack_layers(params), [*map(unstack_layers, grads)])
    flat = traverse_util.flatten_dict(expected, sep="/")
    assert flat.keys() == traverse_util.flatten_dict(unstack_layers(found), sep="/").keys()
    for name, leaf in traverse_util.flatten_dict(unstack_layers(found), sep="/").items():
        np.testing.assert_allclose(leaf, flat[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_stack_of_vectors_is_no_matrix():
    """Not even of 130 layers."""
    tree = {
        "encoder": {"layer": {"bias": np.ones((130, 128)), "kernel": np.ones((130, 128, 140))}},
        "kernel": np.ones((130, 128)),
    }
    tree = jax.tree.map(np.float32, tree)
    state = jax.eval_shape(make_optimizer(dataclasses.replace(BASE, name="adafactor"), 10).init, tree)[0][0]
    shapes = {key: jax.tree.map(lambda leaf: leaf.shape, getattr(state, key)) for key in ("v_row", "v_col", "v")}
    layers = {key: found["encoder"]["layer"] for key, found in shapes.items()}
    assert {key: found["bias"] for key, found in layers.items()} == {
        "v_row": (130, 1),
        "v_col": (130, 1),
        "v": (130, 128),
    }
    assert {key: found["kernel"] for key, found in layers.items()} == {
        "v_row": (130, 128),
        "v_col": (130, 140),
        "v": (130, 1),
    }
    assert {key: found["kernel"] for key, found in shapes.items()} == {"v_row": (128,), "v_col": (130,), "v": (1,)}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("adamw", "lamb")])
def test_decay_is_decoupled_and_by_name(name):
    """With no gradient, what decays is multiplied by 1 - rate * decay; of LAMB, optax says how far it goes."""
    tx = make_optimizer(dataclasses.replace(BASE, name=name, learning_rate=0.1, weight_decay=0.5), 10)
    params = {"encoder": {"layer": {"kernel": np.ones((2, 3, 4), np.float32), "bias": np.ones((2, 4), np.float32)}}}
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    layers = updates["encoder"]["layer"]
    np.testing.assert_allclose(layers["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(layers["bias"], 0.0)


def test_any_transformation_is_guarded():
    tx = guarded(optax.chain(optax.scale_by_adam(), optax.ema(0.9), optax.scale_by_amsgrad(), optax.trace(0.9)))
    params = {"kernel": jnp.ones(3)}
    _, state = tx.update(params, tx.init(params), params, finite=True)
    _, after = tx.update({"kernel": jnp.full(3, jnp.nan)}, state, params, finite=jnp.bool_(False))
    for found, expected in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


WIDTH, WIDE = BERT.hidden_size, BERT.intermediate_size
KERNELS = 2 * (4 * WIDTH**2 + 2 * WIDTH * WIDE)
FACTORED = (KERNELS + WIDTH**2) - 2 * (4 * 2 * WIDTH + 2 * (WIDTH + WIDE)) - 2 * WIDTH
"""How many numbers fewer Adafactor keeps: of the layers' kernels and the pooler's, rows and columns."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bytes_of_the_state_are_counted(name):
    program = program_of(name)
    size = sum(leaf.size for leaf in jax.tree.leaves(program.model.abstract_params))
    kept = {"adamw": 2 * size, "lamb": 2 * size, "lion": size, "sgd": size, "muon": 2 * size - KERNELS}
    kept["adafactor"] = size - FACTORED
    spare = 200 if name == "adafactor" else 0
    moved = moved_by_optimizer(program)
    assert 12 * size + 8 * kept[name] <= moved <= 12 * size + 8 * (kept[name] + spare)
    assert 0 < state_bytes(program) - 4 * size - (moved - 12 * size) // 2 < 100
    held = sum(row["device_bytes_with_moments"] for row in sharding_rows(program))
    assert held == 4 * size + (moved - 12 * size) // 2


def test_what_is_frozen_is_not_moved():
    program = program_of("adamw", optimizer__freeze=["embeddings", "layer/0/"])
    assert moved_by_optimizer(program) == 28 * program.trainable.count()
    spread, whole = (program_of("adamw", 8, **mesh) for mesh in (MESH, {}))
    assert moved_by_optimizer(spread) < 0.5 * moved_by_optimizer(whole)


def test_a_setting_that_an_optimizer_has_not_is_refused():
    for name, settings in OPTIMIZERS.items():
        for key in {key for others in OPTIMIZERS.values() for key in others}:
            value = 0.5 if key not in ("nesterov", "parameter_scale") else True
            if key in settings:
                assert OptimizerConfig(name=name, **{key: value}).own == settings | {key: value}
                continue
            with pytest.raises(UserError) as caught:
                OptimizerConfig(name=name, **{key: value})
            assert str(caught.value).startswith(f"optimizer.{key} is {value!r}, but optimizer.name is {name}, ")
