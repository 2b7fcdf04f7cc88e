"""Packing, devices, sharding and accumulation are choices of speed: the steps of a run stay the same.

Dropout is off, since its random numbers are drawn by position in the batch.
"""

from __future__ import annotations

import itertools

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec
from runs import assert_close_params, make_config, make_program, random_tokens, run_steps, small_config
from tiny import random_params

from jaxbert.config import DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.labels import LabelSet, encode
from jaxbert.data.sources import open_source
from jaxbert.data.store import prepare

STEPS = 50
SHORT = 12


def small_run(devices: int = 8, most: int = SHORT, **changes):
    config = make_config(train__batch_size=16, optimizer__learning_rate=1e-3, **changes)
    program = make_program(config, small_config(num_attention_heads=4), STEPS, devices)
    tokens = random_tokens(150)
    labels = (tokens.ids[tokens.begins + 1] % 2).astype(np.int32)
    return run_steps(program, random_params(program.model), Examples(tokens, labels), most)


@pytest.fixture(scope="module")
def packed():
    return small_run(most=STEPS)


def assert_same_steps(run, expected, atol: float) -> None:
    count = len(run.losses)
    assert run.example_ids == expected.example_ids[:count]
    np.testing.assert_allclose(run.losses, expected.losses[:count], rtol=1e-5)
    if count == len(expected.losses):
        assert_close_params(run.params, expected.params, atol)


def test_fifty_steps_packed_and_padded(packed):
    assert len(packed.losses) == STEPS
    # The model learns, so the parameters move by more than the tolerance.
    assert np.mean(packed.losses[-5:]) < np.mean(packed.losses[:5])
    assert_same_steps(small_run(most=STEPS, data__packing=False), packed, atol=1e-4)


def test_fifty_steps_see_every_epoch_whole(packed):
    per_epoch = 10
    for epoch in range(STEPS // per_epoch):
        steps = packed.example_ids[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(itertools.chain(*steps)) == list(range(150))


VARIANTS = {
    "one device": {"devices": 1},
    "two slices": {"train__accumulation_steps": 2},
    "unrolled": {"model__scan_layers": False},
    "remat": {"model__remat": "full"},
    "fsdp": {"mesh__data": 1, "mesh__fsdp": -1},
    "data, fsdp and tensor": {"mesh__fsdp": 2, "mesh__tensor": 2},
}


_LONG = ("one device", "unrolled", "remat")


@pytest.mark.parametrize("name", [pytest.param(v, marks=[pytest.mark.long] * (v in _LONG)) for v in VARIANTS])
def test_variants_take_the_same_steps(packed, name):
    assert_same_steps(small_run(**VARIANTS[name]), packed, atol=1e-4)


SHARDS = {
    "bert/encoder/layer/attention/self/query/kernel": (2, 32 // 4, 32 // 2),
    "bert/encoder/layer/attention/self/key/bias": (2, 32 // 2),
    "bert/encoder/layer/attention/output/dense/kernel": (2, 32 // 2, 32 // 4),
    "bert/encoder/layer/attention/output/dense/bias": (2, 32),
    "bert/encoder/layer/intermediate/dense/kernel": (2, 32 // 4, 64 // 2),
    "bert/encoder/layer/output/dense/kernel": (2, 64 // 2, 32 // 4),
    "bert/embeddings/word_embeddings/embedding": (72, 32 // 4),
    "bert/embeddings/position_embeddings/embedding": (48, 32),
    "classifier/kernel": (32, 2),
}
"""What one of eight devices holds of a mesh of fsdp 4 and tensor 2."""


def test_shards_are_shards():
    config = make_config(mesh__data=1, mesh__fsdp=4, mesh__tensor=2)
    program = make_program(config, small_config(num_attention_heads=4, vocab_size=72), 10)
    state = program.first_state(random_params(program.model))
    flat = traverse_util.flatten_dict(state["params"], sep="/")
    for name, shape in SHARDS.items():
        assert {shard.data.shape for shard in flat[name].addressable_shards} == {shape}, name
    moments = optax.tree.get(state["opt_state"], "mu"), optax.tree.get(state["opt_state"], "nu")
    for moment in moments:
        assert jax.tree.map(lambda x: x.sharding, moment) == jax.tree.map(lambda x: x.sharding, state["params"])


def test_what_an_axis_does_not_divide_stays_whole():
    program = make_program(make_config(mesh__data=1, mesh__fsdp=8), small_config(hidden_size=36), 10)
    table = program.state_shardings["params"]["bert"]["embeddings"]["word_embeddings"]["embedding"]
    assert table.spec == PartitionSpec(None, None)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, pytest.param(STEPS, marks=pytest.mark.long)])
def test_sst2_packed_and_padded(shared_data, minilm, steps):
    """Real rows, pretrained weights: the loss of each step within 1e-5, the parameters at the end within 1e-4.

    Rows of 64 tokens hold every step in two rows: one program, and compiling it with all optimizations is most of the time.
    """
    from transformers import AutoTokenizer

    from jaxbert.interop.bert_config import read_config
    from jaxbert.interop.load import load_params

    data = DataConfig(text="sentence", quoting="none")
    source = open_source(str(shared_data / "glue_SST-2" / "train.tsv"), data, role="train", labelled=True, limit=400)
    stored = prepare(source, AutoTokenizer.from_pretrained(minilm), 40)
    tokens, labels = stored.tokens, encode(stored.labels, LabelSet(("0", "1")))

    def run(packing: bool):
        config = make_config(train__batch_size=8, data__packing=packing, data__row_length=64 if packing else None)
        program = make_program(config, read_config(minilm), steps, devices=1)
        params, _ = load_params(minilm, program.model, key=jax.random.key(0))
        return run_steps(program, params, Examples(tokens, labels))

    packed, padded = run(True), run(False)
    assert len(packed.losses) == steps
    assert_same_steps(packed, padded, atol=1e-4)
