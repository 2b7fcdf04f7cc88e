"""What is frozen keeps its bits and costs little; the rest is trained as if by parameter groups of PyTorch."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util
from runs import assert_close_params, feed, make_config, make_program, random_tokens, run_steps, small_config
from tiny import random_params

from jaxbert.config import OptimizerConfig
from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.interop.names import unstack_layers
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.plan.hlo_cost import read_cost
from jaxbert.train.optimizer import Backward, choose_trainable, layer_lr_scales, make_optimizer
from jaxbert.train.programs import training_layout
from jaxbert.train.speed import training_flops

LAYERS = 4
BERT = small_config(num_hidden_layers=LAYERS, num_attention_heads=4)
MODEL = make_model(SequenceClassificationHead, BERT)
LAYER = "bert/encoder/layer"


def chosen(*freeze: str, **changes):
    return choose_trainable(OptimizerConfig(freeze=list(freeze), **changes), MODEL.abstract_params)


def flat_layers(params) -> dict[str, np.ndarray]:
    """Return parameters by name, each layer by itself."""
    return traverse_util.flatten_dict(jax.device_get(unstack_layers(params)), sep="/")


def trained_names(trained) -> set[str]:
    """Return the names that a change of the trained part changes."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), MODEL.abstract_params)
    ones = jax.tree.map(lambda x: x + 1, trained.select(jax.tree.map(jax.numpy.asarray, zeros)))
    flat = flat_layers(trained.combine(jax.tree.map(jax.numpy.asarray, zeros), ones))
    assert all(x.min() == x.max() for x in flat.values())
    return {name for name, x in flat.items() if x.max() == 1}


ALL = set(flat_layers(jax.tree.map(lambda x: np.zeros(x.shape), MODEL.abstract_params)))
CHOICES = {
    "a part": (("bert/embeddings",), lambda n: not n.startswith("bert/embeddings/")),
    "lower layers": (("bert/encoder/layer/[0-1]/",), lambda n: f"{LAYER}/0/" not in n and f"{LAYER}/1/" not in n),
    "a layer between": (("layer/1/",), lambda n: f"{LAYER}/1/" not in n),
    "two apart": (("layer/0/", "layer/2/"), lambda n: f"{LAYER}/0/" not in n and f"{LAYER}/2/" not in n),
    "a kind of tensor": (("LayerNorm", "bias$"), lambda n: "LayerNorm" not in n and not n.endswith("bias")),
    "all but the last": (("^(?!classifier)",), lambda n: n.startswith("classifier")),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_names_choose(name):
    freeze, stays = CHOICES[name]
    trained = chosen(*freeze)
    assert trained_names(trained) == {name for name in ALL if stays(name)}
    sizes = {name: x.size for name, x in flat_layers(random_params(MODEL)).items()}
    assert trained.count() == sum(sizes[name] for name in ALL if stays(name))


def test_the_head_is_the_pooler_and_what_follows():
    assert trained_names(chosen(train_only="head")) == {
        f"{part}/{leaf}" for part in ("bert/pooler/dense", "classifier") for leaf in ("kernel", "bias")
    }
    assert trained_names(chosen("pooler", train_only="head")) == {"classifier/kernel", "classifier/bias"}


def test_with_nothing_frozen_the_trained_part_is_the_whole():
    trained, params = choose_trainable(OptimizerConfig(), MODEL.abstract_params), random_params(MODEL)
    assert trained.everything
    assert trained.select(params) is params
    assert trained.combine({}, params) is params
    assert (trained.frozen_layers, trained.backward) == (0, Backward())


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (["bert/embedings"], "'bert/embedings' matches no parameter; the nearest is bert/embeddings"),
        (["bert/encoder/layers/3/"], "matches no parameter; the nearest is bert/encoder/layer/3"),
        (["pooler", "layer/9/"], "'layer/9/' matches no parameter"),
        (["bert/", "classifier"], "leaves nothing to train"),
    ],
)
def test_names_that_choose_nothing_or_everything(freeze, expected):
    with pytest.raises(UserError) as caught:
        chosen(*freeze)
    assert expected in str(caught.value)


SHARES = {"bert/embeddings": 0.5**5, f"{LAYER}/0": 0.5**4, f"{LAYER}/2": 0.5**2, f"{LAYER}/3": 0.5, "bert/pooler": 1.0}


def test_rates_fall_from_the_head_downwards():
    """Layer 1 is frozen: the rates of the others stay theirs."""
    trained = chosen("layer/1/")
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), MODEL.abstract_params)
    shares = jax.tree.map(
        lambda x, share: np.broadcast_to(share, x.shape),
        trained.select(zeros),
        layer_lr_scales(0.5 ** np.arange(LAYERS + 2, dtype=np.float32), trained),
    )
    flat = flat_layers(trained.combine(jax.tree.map(jax.numpy.asarray, zeros), shares))
    for name, found in flat.items():
        expected = next(
            (share for part, share in (SHARES | {f"{LAYER}/1": 0.0}).items() if name.startswith(f"{part}/")), 1.0
        )
        np.testing.assert_array_equal(found, np.float32(expected), err_msg=name)


def test_updates_are_those_of_parameter_groups_in_torch():
    """A group a layer with its own rate, frozen tensors in none, clipping by the norm of what is trained."""
    torch = pytest.importorskip("torch")
    trained = chosen("word_embeddings", "layer/1/", layer_decay=0.5)
    config = OptimizerConfig(
        learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.0, schedule="constant", clip_norm=0.5, layer_decay=0.5
    )
    tx = make_optimizer(config, 10, layer_lr_scales(0.5 ** np.arange(LAYERS + 2, dtype=np.float32), trained))
    ours = jax.tree.map(jax.numpy.asarray, random_params(MODEL))
    start, kept = flat_layers(ours), trained_names(trained)
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items() if name in kept}
    groups = []
    for name, parameter in theirs.items():
        share = next((share for part, share in SHARES.items() if name.startswith(f"{part}/")), 1.0)
        decay = 0.1 if name.endswith(("kernel", "embedding")) else 0.0
        groups.append({"params": [parameter], "lr": 1e-2 * share, "weight_decay": decay})
    optimizer, state, update = torch.optim.AdamW(groups, eps=1e-8), tx.init(trained.select(ours)), jax.jit(tx.update)
    for seed in range(3):
        grads = jax.tree.map(jax.numpy.asarray, random_params(MODEL, seed))
        part = trained.select(ours)
        updates, state = update(trained.select(grads), state, part)
        ours = trained.combine(ours, optax.apply_updates(part, updates))
        for name, grad in flat_layers(grads).items():
            if name in theirs:
                theirs[name].grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        optimizer.step()
    for name, found in flat_layers(ours).items():
        if name in theirs:
            np.testing.assert_allclose(found, theirs[name].detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found, start[name], err_msg=name)


TOKENS = random_tokens(80)
EXAMPLES = Examples(TOKENS, (TOKENS.ids[TOKENS.begins + 1] % 2).astype(np.int32))


def program_of(devices: int = 1, **changes):
    return make_program(
        make_config(**({"train__batch_size": 16, "optimizer__learning_rate": 1e-3} | changes)), BERT, 10, devices
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step without clipping gave."""

    params: dict[str, np.ndarray]
    """By name, each layer by itself."""
    sums: dict[str, np.ndarray]
    flops: float
    """Of the compiled program's products."""


def one_step(**changes) -> Step:
    smooth = {"optimizer__clip_norm": None, "optimizer__warmup_ratio": 0.0, "optimizer__eps": 1e-4}
    program = program_of(**smooth, **changes)
    layout = training_layout(program.config, TOKENS.lengths, program.mesh)
    batch = program.put(next(iter(feed(program, layout, EXAMPLES))))
    step = program.train_step()
    state, sums = step(program.first_state(random_params(program.model)), batch, program.arguments)
    return Step(flat_layers(state["params"]), jax.device_get(sums), read_cost(step.program(batch).as_text()).flops)


START = flat_layers(random_params(MODEL))
STEPS = {
    "embeddings and layers": {"optimizer__freeze": ["embeddings", "layer/[01]/"], "optimizer__layer_decay": 0.5},
    "head": {"optimizer__train_only": "head", "train__accumulation_steps": 2},
}
MORE_STEPS = {
    "embeddings": {"optimizer__freeze": ["embeddings"]},
    "layers, gradients going through": {"optimizer__freeze": ["layer/[01]/"], "model__scan_layers": False},
    "layers apart, remat": {"optimizer__freeze": ["layer/[02]/"], "model__remat": "full"},
    "nothing": {"optimizer__layer_decay": 0.5},
}


@functools.cache
def step_of(name: str) -> Step:
    return one_step(**({} if name == "whole" else (STEPS | MORE_STEPS)[name]))


@pytest.mark.parametrize("name", [*STEPS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_STEPS)])
def test_a_step_of_the_trained_part_is_the_whole_step(name):
    """Without clipping, AdamW moves each number by itself: what is trained moves as if nothing were frozen."""
    found, whole = step_of(name), step_of("whole")
    settings = {key.split("__")[1]: v for key, v in (STEPS | MORE_STEPS)[name].items() if key.startswith("optimizer")}
    kept = trained_names(choose_trainable(OptimizerConfig(**settings), MODEL.abstract_params))
    shares = SHARES | {f"{LAYER}/1": 0.5**3} if "layer_decay" in settings else {}
    for leaf, value in found.params.items():
        if leaf in kept:
            share = next((share for part, share in shares.items() if leaf.startswith(f"{part}/")), 1.0)
            moved = share * (whole.params[leaf] - START[leaf])
            np.testing.assert_allclose(value - START[leaf], moved, rtol=0, atol=1e-6, err_msg=leaf)
        else:
            np.testing.assert_array_equal(value, START[leaf], err_msg=leaf)
    assert (found.params["classifier/kernel"] != START["classifier/kernel"]).any()
    assert (len(kept) < len(ALL)) == (found.sums["grad_norm"] < 0.999 * whole.sums["grad_norm"])
    np.testing.assert_allclose(found.sums["loss"], whole.sums["loss"], rtol=1e-6)


def test_the_backward_pass_below_what_is_trained_is_not_compiled():
    """Forward and backward are about one to two; what is frozen leaves the products of its backward pass out."""
    whole = step_of("whole").flops
    assert step_of("head").flops < 0.4 * whole
    assert 0.55 * whole < step_of("embeddings and layers").flops < 0.75 * whole


@pytest.mark.slow
def test_kernels_that_are_frozen_below_what_is_trained_get_no_gradient():
    whole, half = step_of("whole").flops, step_of("embeddings and layers").flops
    assert half < step_of("layers, gradients going through").flops < 0.92 * whole


FROZEN = {"optimizer__freeze": ["embeddings", "layer/0/", "LayerNorm"], "optimizer__layer_decay": 0.8}
MESHES = {
    "fsdp and slices": {"mesh__data": 2, "mesh__fsdp": 4, "train__accumulation_steps": 2},
    "tensor": {"mesh__fsdp": 2, "mesh__tensor": 2},
}


def frozen_run(devices: int = 8, **changes):
    program = program_of(devices, **FROZEN, **changes)
    return run_steps(program, random_params(program.model), EXAMPLES, 8)


@pytest.fixture(scope="module")
def alone():
    return frozen_run(devices=1)


@pytest.mark.parametrize("name", ["fsdp and slices", pytest.param("tensor", marks=pytest.mark.slow)])
def test_meshes_and_slices_take_the_same_steps(alone, name):
    run = frozen_run(**MESHES[name])
    np.testing.assert_allclose(run.losses, alone.losses, rtol=1e-5)
    assert_close_params(run.params, alone.params, 1e-4)
    for leaf, value in flat_layers(run.params).items():
        frozen = "embeddings" in leaf or f"{LAYER}/0/" in leaf or "LayerNorm" in leaf
        assert frozen == np.array_equal(value, START[leaf]) or leaf.endswith("key/bias"), leaf


def test_moments_are_those_of_the_trained_part():
    program = program_of(8, **FROZEN, mesh__fsdp=2, mesh__data=4)
    state = program.first_state(random_params(program.model))
    moments = traverse_util.flatten_dict(optax.tree.get(state["opt_state"], "mu"), sep="/")
    assert sum(leaf.size for leaf in moments.values()) == program.trainable.count()
    kernel = moments[f"{LAYER}/attention/self/query/kernel"]
    assert kernel.shape == (LAYERS - 1, 32, 32)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(LAYERS - 1, 16, 32)}


def test_the_formula_counts_what_is_needed():
    """Forward, back to the activations and to the kernels: a third each, and of attention one to two."""
    assert chosen(train_only="head").backward == Backward(0.0, 0.0)
    assert chosen("embeddings", "layer/[01]/").backward == Backward(0.5, 0.5)
    assert chosen("layer/[01]/").backward == Backward(1.0, 0.5)
    products, attention = training_flops(BERT, 10.0, 0.0), training_flops(BERT, 0.0, 10.0)
    assert training_flops(BERT, 10.0, 0.0, Backward(0.0, 0.0)) == pytest.approx(products / 3)
    assert training_flops(BERT, 10.0, 0.0, Backward(1.0, 0.5)) == pytest.approx(products * 5 / 6)
    assert training_flops(BERT, 0.0, 10.0, Backward(0.5, 0.5)) == pytest.approx(attention * 2 / 3)
