"""How a run's settings reach its attention: the backend, its dropout, and what is counted as masked."""

from __future__ import annotations

import dataclasses

import pytest
from runs import Problem, make_config, make_program, random_tokens, small_config
from tiny import tiny_config

from jaxbert.config import MeshConfig, ModelConfig
from jaxbert.data.batches import BatchSize, batch_size_of, batches
from jaxbert.data.examples import Examples
from jaxbert.models.attention.base import Hardware
from jaxbert.train.programs import layer_call, training_layout, with_dropout
from jaxbert.train.sharding import make_mesh
from jaxbert.train.speed import Speed

RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.1, 0.2, 0.3)),
        ({"dropout": 0.5}, (0.5, 0.5, 0.5)),
        ({"attention_dropout": 0.0}, (0.1, 0.0, 0.3)),
        ({"dropout": 0.5, "attention_dropout": 0.0}, (0.5, 0.0, 0.5)),
        ({"dropout": 0.0, "attention_dropout": 0.4}, (0.0, 0.4, 0.0)),
    ],
)
def test_dropout_of_attention_alone(settings, expected):
    checkpoint = tiny_config(**dict(zip(RATES, (0.1, 0.2, 0.3), strict=True)))
    changed = with_dropout(checkpoint, ModelConfig(**settings))
    assert tuple(getattr(changed, name) for name in RATES) == expected
    assert tuple(getattr(checkpoint, name) for name in RATES) == (0.1, 0.2, 0.3)


def test_the_backend_knows_the_mesh():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    attention = layer_call(ModelConfig(attention="splash"), mesh).attention
    assert attention.name == "splash"
    assert attention.hardware == Hardware("cpu")
    assert attention.spread.mesh == mesh
    assert attention.spread.rows == ("data", "fsdp")


def test_a_run_counts_what_its_backend_skips():
    tokens, tile = random_tokens(400), 64
    program = make_program(make_config(train__batch_size=100, data__row_length=8 * tile), small_config(), 4)
    on_gpu = make_program(program.config, program.model.config, 4)
    attention = dataclasses.replace(on_gpu.call.attention, hardware=Hardware("gpu", (9, 0)))
    on_gpu.__dict__["call"] = dataclasses.replace(on_gpu.call, attention=attention)
    layout = training_layout(program.config, tokens.lengths, program.mesh)
    for batch in batches(Examples(tokens), layout, 100, seed=0):
        rows, length = batch["segment_ids"].shape
        assert program.count(batch) == batch_size_of(batch)
        assert program.count(batch).computed_pairs == rows * length**2
        assert on_gpu.count(batch) == batch_size_of(batch, tile)
        assert on_gpu.count(batch).computed_pairs < rows * length**2 / 2


def test_the_masked_fraction():
    speed = Speed(small_config())
    assert speed.summary()["masked_attention_fraction"] is None
    speed.add([BatchSize(2, 6, 8, attended_pairs=20, computed_pairs=32)], 0.0)
    speed.add([BatchSize(2, 7, 8, attended_pairs=25, computed_pairs=32)], 0.0)
    assert speed.summary()["masked_attention_fraction"] == round(1 - 45 / 64, 4)


def test_a_backend_that_is_not_here_is_one_line(tmp_path, capsys):
    """Of a run with two layers, and evaluation in rows of another length."""
    problem = Problem.write(tmp_path)
    changes = {"data__validation": problem.folder / "dev.csv", "data__row_length": 48, "train__max_steps": 1}
    assert problem.train(**changes, model__attention="cudnn") == 0
    err = capsys.readouterr().err
    assert err.count("attention") == 1
    assert "attention is computed by xla and not by cudnn: it needs an NVIDIA GPU of compute capability 9.0" in err
