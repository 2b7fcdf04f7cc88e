"""`jaxbert bench` on thin models and eight devices: what it counts and says, and that it needs no weights and no data."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_config

from jaxbert.bench.measure import run_bench
from jaxbert.bench.options import BenchOptions
from jaxbert.bench.setup import open_bench
from jaxbert.cli.main import main
from jaxbert.config import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig
from jaxbert.train.compiled import Compiled

KEYS = {
    *("model", "parameters", "lengths", "batch_size", "packing", "precision", "row_length", "row_counts", "slots"),
    *("steps_timed", "compile_seconds", "compilations", "step_ms_p50", "step_ms_p90", "examples_per_second"),
    *("real_tokens_per_second", "row_tokens_per_second", "packing_efficiency", "data_wait_fraction"),
    *("tflops_per_second", "mfu", "device", "devices", "jax_version", "peak_memory_bytes"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder with a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(tiny_config(num_hidden_layers=1).to_dict()))
    return folder


def bench_config(folder: Path, **data: Any) -> Config:
    return Config(
        model=ModelConfig(name_or_path=str(folder), scan_layers=True),
        data=DataConfig(**data),
        train=TrainConfig(batch_size=16),
        mesh=MeshConfig(data=8),
    )


def arguments(folder: Path, *more: str) -> list[str]:
    return ["bench", f"--model.name_or_path={folder}", "--train.batch_size=16", "--bench.steps=4", *more]


def test_the_command_writes_all_numbers(folder, tmp_path, capsys):
    output = tmp_path / "bench.json"
    assert main(arguments(folder, "--lengths=uniform:4:20", f"--output={output}")) == 0
    result = json.loads(output.read_text())
    assert set(result) == KEYS
    assert result["steps_timed"] == 4
    assert result["lengths"] == "uniform:4:20"
    assert result["devices"] == 8
    assert 0 < result["step_ms_p50"] <= result["step_ms_p90"]
    assert 0 < result["packing_efficiency"] <= 1
    assert result["real_tokens_per_second"] < result["row_tokens_per_second"]
    assert (result["mfu"], result["peak_memory_bytes"]) == (None, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "examples" in captured.err


def test_json_goes_to_standard_output(folder, capsys):
    assert main(arguments(folder, "--lengths=fixed:8", "--output=-", "--data.packing=false")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["packing"] is False
    assert (result["row_length"], result["packing_efficiency"]) == (8, 1.0)


def test_data_gives_its_own_examples(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\n")
    (tmp_path / "train.csv").write_text("text,label\ngood good good,1\nbad,0\nbad bad,0\n")
    model = ModelConfig(name_or_path="tiny", vocab=str(tmp_path / "vocab.txt"))
    data = DataConfig(train=str(tmp_path / "train.csv"), validation="is not read")
    bench = open_bench(Config(model=model, data=data), None)
    assert bench.examples.tokens.lengths.tolist() == [5, 3, 4]
    assert bench.source == data.train
    assert open_bench(Config(model=ModelConfig(name_or_path="tiny"), data=data), "fixed:7").source == "fixed:7"


def test_the_first_run_of_a_shape_is_never_on_the_clock(folder, monkeypatch):
    """Every second batch is given twice the rows, so that a shape appears late; each compilation takes a while."""
    compile_now = Compiled.compile

    def compile_slowly(self: Compiled, *args: Any) -> None:
        time.sleep(3)
        compile_now(self, *args)

    bench = open_bench(bench_config(folder), "fixed:9")
    batches = [batch for _, batch in zip(range(8), bench.feed(), strict=False)]

    def feed(_: Any) -> Any:
        for i, batch in enumerate(batches):
            empty = {name: np.zeros_like(array) for name, array in batch.items()}
            yield {name: np.concatenate([batch[name], empty[name]]) for name in batch} if i % 2 else batch

    monkeypatch.setattr(Compiled, "compile", compile_slowly)
    monkeypatch.setattr(type(bench), "feed", feed)
    result = run_bench(bench, BenchOptions(steps=6, warmup=1))
    assert (result["compilations"], result["steps_timed"]) == (2, 6)
    assert 16 * 6 / result["examples_per_second"] < 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lengths=sst3"], "--lengths sst3 is no file and not understood"),
        (["--lengths=fixed:500"], "500 tokens are above the longest example (40)"),
        (["--bench.steps=0"], "bench.steps is 0, but it must be at least 1"),
        (["--bench.warmup=-1"], "bench.warmup is -1, but it must be at least 0"),
        (["--bench.stepz=3"], "did you mean --bench.steps?"),
        (["--data.max_length=41"], "the model has 40 positions"),
        (["--train.batch_size=0"], "train.batch_size is 0"),
        (["--mesh.data=3"], "does not fit 8 devices"),
        (["--model.name_or_path=no/such-model"], "is no size (tiny, mini, small, base, large) and no folder"),
        (["--data.train=missing.csv", "--model.name_or_path=tiny"], "needs a vocabulary"),
        (["--output=/no/such/folder/x.json", "--lengths=fixed:4", "--bench.steps=1"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, more, message):
    assert main(arguments(folder, *more)) == 2
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
