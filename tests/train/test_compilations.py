"""A run compiles a handful of programs, a second start of the same command none, and the step updates its state in place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import Problem, finish, make_config, make_program, python, random_tokens, small_config, write_model
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.train.programs import training_layout
from jaxbert.train.sharding import make_key

MOST = 6
COMPILED = "/jax/core/compile/backend_compile_duration"
ASKED, FOUND = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A checkpoint for three labels, so that the head for two is drawn anew as behind any pretrained encoder."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    names = ("a", "b", "c")
    write_model(
        problem.folder / "encoder", id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    return problem


def keys(problem, run):
    return {
        "model__name_or_path": problem.folder / "encoder",
        "data__validation": problem.folder / "dev.csv",
        "train__output_dir": problem.folder / run,
    }


def read_summary(problem, run):
    return json.loads((problem.folder / run / "summary.json").read_text())


def test_two_epochs_with_evaluation_compile_at_most_six_programs(problem):
    """All that XLA compiles counts: initialization and small programs of the host as well as the steps' shapes."""
    compiled: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == COMPILED:
            compiled.append(event)

    jax.clear_caches()  # else small programs that another test compiled would not count
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert problem.train(**keys(problem, "counted")) == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    summary = read_summary(problem, "counted")
    assert len(compiled) == summary["compilations"] <= MOST
    assert 2 <= summary["step_programs"] <= summary["compilations"] - 1
    assert summary["epochs"] == 2
    assert summary["eval"]


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("mesh", [{}, {"mesh__data": 2, "mesh__fsdp": 4}], ids=["data", "fsdp"])
def test_the_state_is_updated_in_place(mesh, together):
    """Parameters, both moments and counters: XLA writes all of them where the old ones are."""
    program = make_program(make_config(train__batch_size=16, **mesh), small_config(), 10)
    tokens = random_tokens(16)
    labels = np.zeros(len(tokens), np.int32)
    (batch,) = batches(
        Examples(tokens, labels), training_layout(program.config, tokens.lengths, program.mesh), 16, seed=0
    )
    state = program.first_state(random_params(program.model))
    step, group = program.step_programs()[together > 1], program.put(*[batch] * together)
    bytes_of_a_device = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    memory = step.compile(state, group, program.arguments).memory_analysis()
    assert memory.alias_size_in_bytes == bytes_of_a_device
    step(state, group, program.arguments)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


RATES = {
    "model__dropout": 0.1,
    "optimizer__learning_rate": 1e-3,
    "optimizer__warmup_ratio": 0.1,
    "optimizer__weight_decay": 0.01,
    "optimizer__clip_norm": 1.0,
    "optimizer__layer_decay": 0.9,
    "train__label_smoothing": 0.1,
    "train__seed": 0,
}
_MULTIPLIER = str(0x85EBCA6B)
"""A constant of the hash that draws what is dropped."""


def lowered(steps: int, **changes) -> str:
    """Return a step of a run as StableHLO; nothing is compiled."""
    config = make_config(train__batch_size=16, model__scan_layers=True, **{**RATES, **changes})
    program = make_program(config, small_config(), steps, devices=1)
    tokens = random_tokens(16)
    layout = training_layout(config, tokens.lengths, program.mesh)
    (batch,) = batches(Examples(tokens, np.zeros(16, np.int32)), layout, 16, seed=0)
    return program.train_step()._jitted.lower(program.state_target, program.put(batch), program.arguments).as_text()


def test_rates_are_arguments_of_the_step():
    """Runs that differ in them, in seed and in length have the very same program; what is off is not in it."""
    whole = lowered(10)
    others = {key: value / 2 for key, value in RATES.items() if value} | {"train__seed": 7}
    assert lowered(33, **others) == whole
    off = {
        "model__dropout": 0.0,
        "train__label_smoothing": 0.0,
        "optimizer__clip_norm": None,
        "optimizer__layer_decay": None,
    }
    assert _MULTIPLIER in whole
    assert _MULTIPLIER not in lowered(10, model__dropout=0.0)
    sizes = [len(lowered(10, **{key: value}).splitlines()) for key, value in off.items()]
    assert max(sizes) < len(whole.splitlines())
    assert len(lowered(10, **off).splitlines()) < min(sizes)


COUNTING = f"""
import collections, json, sys
import jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: events.update([event]))
from jaxbert.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([events[name] for name in {(COMPILED, ASKED, FOUND)}]))
sys.exit(code)
"""


def start(arguments: list[str], cache: Path) -> Counter[str]:
    """Run a command in a process of its own with one device; return how often JAX told each of the three events."""
    code, out, err = finish(python("-c", COUNTING, *arguments, variables={"JAX_COMPILATION_CACHE_DIR": str(cache)}))
    assert code == 0, err
    return Counter(dict(zip((COMPILED, ASKED, FOUND), json.loads(out.splitlines()[-1]), strict=True)))


@pytest.mark.slow
def test_a_second_start_compiles_nothing_again(problem, tmp_path):
    first, second = (start(problem.arguments(**keys(problem, run)), tmp_path) for run in ("first", "second"))
    assert 0 < first[COMPILED] <= MOST
    assert first[FOUND] == 0
    assert second[ASKED] == second[FOUND] == first[ASKED] == first[COMPILED]
    summaries = [read_summary(problem, run) for run in ("first", "second")]
    assert [s["compilations"] for s in summaries] == [first[COMPILED]] * 2
    assert [s["compilations_from_cache"] for s in summaries] == [0, first[COMPILED]]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32 + 5])
def test_keys_made_on_the_host_are_those_of_jax(seed):
    found, expected = make_key(seed), jax.random.key(seed)
    assert found.dtype == expected.dtype
    assert jax.random.key_data(found).tolist() == jax.random.key_data(expected).tolist()
