"""The search for a change that makes a step fit: what it tries, in which order, and that it compiles what it proposes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tiny import tiny_config

from jaxbert.config import Config, MeshConfig, ModelConfig, TrainConfig
from jaxbert.plan.fit import families, find_fit, hopeless, with_changes
from jaxbert.plan.options import PlanOptions
from jaxbert.plan.planner import Attempt, Planner, state_bytes
from jaxbert.plan.target import parse_target
from jaxbert.plan.workload import Workload

ACTIVATIONS = 1_000_000
"""Made-up bytes of a row that is worked on."""
KEPT = {"none": 1.0, "dots": 0.6, "full": 0.3}
"""Made-up share of them that is kept."""


class MadeUp(Planner):
    """Plans for eight devices, whose steps need what a formula says; nothing is compiled."""

    def __init__(self, config: Config, available: float) -> None:
        super().__init__(config, parse_target("cpu:8"), PlanOptions(lengths="fixed:64", memory_gb=available / 1e9))
        self.compiled: list[tuple] = []

    def attempt(self, config: Config, workload: Workload | None = None) -> Attempt:
        workload = workload or self.workload(config)
        fsdp, slices = workload.program.mesh.shape["fsdp"], config.train.accumulation_steps
        self.compiled.append((fsdp, config.model.remat, slices, config.train.batch_size))
        state = state_bytes(workload.program)
        needed = state + ACTIVATIONS * workload.rows / 8 / slices * KEPT[config.model.remat]
        needed += state / 3 if slices > 1 else 0  # gradients are added up
        assert self.memory_bytes is not None
        return Attempt(config, workload, None, needed, fits=needed <= self.memory_bytes)


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> dict[str, Config]:
    """Eight rows of one example a device, and a state of about 8 MB (`big`) or little (`small`)."""
    found = {}
    for name, words in (("big", 20_000), ("small", 120)):
        folder = tmp_path_factory.mktemp(name)
        bert_config = tiny_config(num_hidden_layers=1, vocab_size=words, max_position_embeddings=64)
        (folder / "config.json").write_text(json.dumps(bert_config.to_dict()))
        found[name] = Config(model=ModelConfig(name_or_path=str(folder)), train=TrainConfig(batch_size=64))
    return found


def state_of(config: Config) -> int:
    planner = MadeUp(config, 1.0)
    workload = planner.workload(planner.config)
    assert (workload.rows, workload.layout.row_length) == (64, 64)
    return state_bytes(workload.program)


def search(config: Config, available: float) -> tuple[dict[str, Any] | None, MadeUp]:
    planner = MadeUp(config, available)
    first = planner.attempt(planner.config)
    assert first.fits is False
    found = find_fit(planner, first)
    return (None if found is None else found.settings), planner


@pytest.mark.parametrize(
    ("model", "state", "megabytes", "settings"),
    [
        ("big", 0.6, 8, {"mesh.fsdp": 2}),
        ("big", 0.3, 8, {"mesh.fsdp": 4}),
        ("small", 1, 5, {"model.remat": "dots"}),
        ("small", 1, 3, {"model.remat": "full"}),
        ("small", 1, 1.2, {"train.accumulation_steps": 8}),
        ("big", 0.2, 3, {"mesh.fsdp": 8, "model.remat": "full"}),
        ("big", 0.2, 0.5, {"mesh.fsdp": 8, "model.remat": "full", "train.accumulation_steps": 4}),
        ("big", 0.01, 0, None),
    ],
)
def test_of_what_fits_the_change_is_taken_that_costs_least(configs, model, state, megabytes, settings):
    """There is memory for a share of the state, and some megabytes more."""
    config = configs[model]
    found, planner = search(config, state * state_of(config) + megabytes * 1e6)
    assert found == settings
    assert len(set(planner.compiled)) == len(planner.compiled), "nothing is compiled twice"
    assert {batch for *_, batch in planner.compiled} == {64}, "the run stays the same"
    if settings is None:
        assert len(planner.compiled) == 1, "the state alone is too much, whatever is tried"


def test_what_is_proposed_was_compiled(configs):
    _, planner = search(configs["small"], state_of(configs["small"]) + 3e6)
    assert (1, "full", 1, 64) in planner.compiled


def test_fewer_examples_come_last(configs):
    """Where all else is used up: slices would do, but for the gradients that they add up."""
    config = with_changes(configs["big"], {"mesh.fsdp": 8, "model.remat": "full"})
    found, planner = search(config, 1.17 * state_of(config) + 0.3e6)
    assert found == {"train.batch_size": 8}
    assert (8, "full", 8, 64) in planner.compiled


def test_a_hopeless_change_is_not_compiled(configs):
    planner, state = MadeUp(configs["big"], 1.0), state_of(configs["big"])
    first = planner.attempt(planner.config)

    def left_out(available: float, **changes: Any) -> bool:
        changed = with_changes(planner.config, {k.replace("__", "."): v for k, v in changes.items()})
        return hopeless(first, planner.workload(changed), available)

    assert left_out(6e6, mesh__fsdp=2), "half of the state and the activations, less gradients and updates"
    assert not left_out(0.9 * state + 8e6, mesh__fsdp=8)
    assert left_out(1.2 * state, train__accumulation_steps=4), "two megabytes are left"
    assert not left_out(state + 2e6, train__accumulation_steps=4)
    assert not left_out(state, model__remat="full"), "what it saves is not known"
    assert not hopeless(first, first.workload, None)


def test_a_mesh_with_a_fixed_axis_is_changed_as_a_whole(configs):
    fixed = dataclasses.replace(configs["small"], mesh=MeshConfig(data=4, fsdp=2))
    planner = MadeUp(fixed, 1.0)
    assert families(planner.attempt(planner.config))[0] == [
        {"mesh.data": -1, "mesh.fsdp": 4},
        {"mesh.data": -1, "mesh.fsdp": 8},
    ]
