"""The moving average of the parameters: its values, on any mesh, and that evaluations, exports and resumed runs have it."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest
from runs import (
    CrashError,
    Problem,
    assert_close_params,
    crash_before,
    feed,
    make_config,
    make_program,
    random_tokens,
    small_config,
    weights,
)
from safetensors.numpy import load_file
from tiny import random_params

from jaxbert.cli.main import main
from jaxbert.data.examples import Examples
from jaxbert.plan.planner import state_bytes
from jaxbert.runs.checkpoint import Checkpoints
from jaxbert.train.programs import training_layout
from jaxbert.train.sharding import optimizer_bytes

pytestmark = pytest.mark.usefixtures("shared_programs")
TOKENS = random_tokens(24)
EXAMPLES = Examples(TOKENS, (TOKENS.ids[TOKENS.begins + 1] % 2).astype(np.int32))
DECAY = 0.3
"""The ramp (1 + t) / (10 + t) passes it after three steps."""
STEPS = 6


def make(devices=1, **changes):
    keys = {"train__batch_size": 8, "optimizer__learning_rate": 1e-2, "train__ema": DECAY}
    config = make_config(**keys | changes)
    return make_program(config, small_config(num_attention_heads=4, num_hidden_layers=1), STEPS, devices)


def states(program):
    """Return parameters and average before the first step and after each one."""
    layout = training_layout(program.config, TOKENS.lengths, program.mesh)
    state, step = program.first_state(random_params(program.model)), program.train_step()
    found = [jax.device_get(state)]
    for batch in feed(program, layout, EXAMPLES):
        state, _ = step(state, program.put(batch), program.arguments)
        found.append(jax.device_get(state))
    return found


@pytest.fixture(scope="module")
def packed():
    return states(make())


def test_its_values(packed):
    """Computed by hand while the ramp rules; afterwards as `optax.ema` computes it, which begins at 0."""
    average = jax.tree.map(np.float64, packed[0]["params"])
    for number, state in enumerate(packed[1:]):
        decay = min(DECAY, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state["params"])
        assert_close_params(state["ema"], average, 1e-6)
    shift = lambda params: jax.tree.map(np.subtract, params, packed[3]["ema"])  # noqa: E731
    optax_ema = optax.ema(DECAY, debias=False)
    kept = optax_ema.init(packed[0]["params"])
    for state in packed[4:]:
        moved, kept = optax_ema.update(shift(state["params"]), kept)
        assert_close_params(shift(state["ema"]), jax.device_get(moved), 1e-6)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), packed[-1]["ema"], packed[-1]["params"])
    assert max(jax.tree.leaves(gap)) > 1e-3


def test_training_itself_is_as_without_it(packed):
    plain = states(make(train__ema=0.0))
    assert "ema" not in plain[-1]
    assert_close_params(packed[-1]["params"], plain[-1]["params"], 1e-6)


@pytest.mark.parametrize(
    ("devices", "changes"),
    [(1, {"data__packing": False}), (8, {"mesh__fsdp": 2, "mesh__tensor": 2, "train__accumulation_steps": 2})],
)
def test_packed_and_padded_and_any_mesh(packed, devices, changes):
    found = states(make(devices, **changes))
    for one, other in zip(found, packed, strict=True):
        assert_close_params(one["ema"], other["ema"], 1e-4)


def test_what_is_frozen_keeps_its_bits_and_memory_is_counted():
    program = make(optimizer__freeze=["embeddings"])
    first, *_, last = states(program)
    names = "word_embeddings", "position_embeddings"
    for name in names:
        one, other = (state["ema"]["bert"]["embeddings"][name]["embedding"] for state in (first, last))
        assert one.tobytes() == other.tobytes()
    whole, plain = make(8, mesh__fsdp=2), make(8, mesh__fsdp=2, train__ema=0.0)
    params = jax.tree.leaves(whole.state_target["params"])
    held = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * 4 for leaf in params)
    assert state_bytes(whole) == state_bytes(plain) + held
    counted = [sum(optimizer_bytes(program.state_target).values()) for program in (whole, plain)]
    assert counted[0] == counted[1] + held
    same = jax.tree.map(lambda p, e: p.sharding == e.sharding, whole.state_target["params"], whole.state_target["ema"])
    assert all(jax.tree.leaves(same))


def test_decays_share_a_program():
    """A search over decays compiles once; whether there is an average is a part of the program."""
    kinds = [jax.tree.structure(make(train__ema=decay).numbers) for decay in (0.5, 0.9, 0.0)]
    assert kinds[0] == kinds[1] != kinds[2]


def test_a_run_evaluates_and_exports_it_and_goes_on_with_the_same_bits(tmp_path, monkeypatch, capsys):
    problem = Problem.write(tmp_path)
    keys = {
        "data__validation": tmp_path / "dev.csv",
        "train__checkpoint_every": 3,
        "train__max_steps": 8,
        "train__ema": 0.8,
    }
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert problem.train(**keys, train__output_dir=whole) == 0
    assert "moving average of the parameters" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        crash_before(patch, 5)
        with pytest.raises(CrashError):
            problem.train(**keys, train__output_dir=run)
    assert problem.train(**keys, train__output_dir=run) == 0
    assert weights(run) == weights(whole)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ema"] == 0.8
    assert "moving averages, decay 0.8" in (run / "export" / "README.md").read_text("utf-8")
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = summary["exported_step"]
        state = checkpoints._manager.restore(step)["state"]
    kept = load_file(run / "export" / "model.safetensors")
    np.testing.assert_array_equal(kept["classifier.weight"], np.asarray(state["ema"]["classifier"]["kernel"]).T)
    assert (kept["classifier.weight"] != np.asarray(state["params"]["classifier"]["kernel"]).T).any()
    assert main(["export", "--run", str(run), "--step", str(step), "--output", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights(run)
    assert main(["report", str(run)]) == 0
    assert "parameters: moving averages with decay 0.8" in (run / "report.html").read_text("utf-8")
    measured = tmp_path / "measured.json"
    evaluate = ["evaluate", "--model", str(run), "--data", str(tmp_path / "dev.csv"), "--output", str(measured)]
    assert main(evaluate) == 0
    assert json.loads(measured.read_text())["loss"] == pytest.approx(summary["eval"]["loss"], rel=1e-5)
