"""`jaxbert bench` on thin models and eight devices: what it counts and says, and that it needs no weights and no data."""

from __future__ import annotations

import gzip
import itertools
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import command, finish, ids_of
from tiny import tiny_config

from jaxbert.bench.measure import examples_of_steps, run_bench
from jaxbert.bench.options import BenchOptions
from jaxbert.bench.setup import open_bench
from jaxbert.cli.main import main
from jaxbert.config import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig
from jaxbert.train.programs import Compiled
from jaxbert.train.run import Run

KEYS = {
    *(
        "model",
        "parameters",
        "lengths",
        "batch_size",
        "packing",
        "precision",
        "attention",
        "row_length",
        "row_counts",
        "slots",
    ),
    *("steps_timed", "compile_seconds", "compilations", "step_ms_p50", "step_ms_p90", "examples_per_second"),
    *("real_tokens_per_second", "row_tokens_per_second", "packing_efficiency", "data_wait_fraction"),
    *("tflops_per_second", "mfu", "device", "devices", "jax_version", "peak_memory_bytes", "step_memory_bytes"),
    *("compile_cold_seconds", "compile_warm_seconds", "roofline", "versions", "predict_to_train_ratio"),
    *("predict_examples", "predict_examples_per_second", "predict_real_tokens_per_second", "predict_row_length"),
    *("predict_compile_seconds", "cost_per_hour", "cost_per_million_examples", "cost_per_million_real_tokens"),
    *("cost_per_million_predictions", "host_load"),
    *("masked_attention_fraction", "tuned"),
}
STEPS_ONLY = ("--mode=train", "--bench.measure_compile=false")


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


def run_json(folder: Path, capsys: Any, *more: str) -> dict[str, Any]:
    assert main(arguments(folder, "--output=-", *more)) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_writes_all_numbers(folder, tmp_path, capsys):
    output, trace = tmp_path / "bench.json", tmp_path / "trace"
    price = ("--cost_per_hour=3.6", "--peak_tflops=0.5", "--peak_bandwidth=20")
    assert main(arguments(folder, "--lengths=uniform:4:20", f"--output={output}", f"--profile={trace}", *price)) == 0
    result = json.loads(output.read_text())
    assert set(result) == KEYS
    assert result["steps_timed"] == 4
    assert result["lengths"] == "uniform:4:20"
    assert result["devices"] == 8
    assert result["attention"] == "xla"
    assert 0 < result["step_ms_p50"] <= result["step_ms_p90"]
    assert 0 < result["packing_efficiency"] <= 1
    assert result["real_tokens_per_second"] < result["row_tokens_per_second"]
    assert result["compile_warm_seconds"] > 0
    assert result["compile_cold_seconds"] > 0
    check_predictions_and_prices(result)
    assert result["mfu"] == pytest.approx(result["tflops_per_second"] / 0.5 / 8, abs=1e-4)
    assert result["peak_memory_bytes"] is None
    assert result["step_memory_bytes"] > 4 * result["parameters"]
    check_what_bounds(result)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert check_trace(trace) in captured.err.splitlines()[-1]
    assert f"all numbers: {output}" in captured.err.splitlines()[-2]


def check_predictions_and_prices(result: dict[str, Any]) -> None:
    trained, predicted = result["examples_per_second"], result["predict_examples_per_second"]
    assert result["predict_examples"] % 64 == 0
    assert result["predict_to_train_ratio"] == pytest.approx(predicted / trained, rel=1e-3)
    assert result["cost_per_million_examples"] == pytest.approx(1000 / trained, rel=1e-3)
    assert result["cost_per_million_real_tokens"] == pytest.approx(1000 / result["real_tokens_per_second"], rel=1e-3)
    assert result["cost_per_million_predictions"] == pytest.approx(1000 / predicted, rel=1e-3)


def check_what_bounds(result: dict[str, Any]) -> None:
    """Shares follow from the peaks that were given; on eight devices each has an eighth of the work, and all parameters."""
    roofline, seconds = result["roofline"], 16 / result["examples_per_second"]
    assert roofline["bound"] in ("compute", "memory", "input", "overhead")
    assert roofline["compute_share"] == pytest.approx(roofline["flops_per_step"] / 0.5e12 / seconds, rel=0.01, abs=1e-4)
    assert roofline["memory_share"] == pytest.approx(roofline["bytes_per_step"] / 20e9 / seconds, rel=0.01, abs=1e-4)
    assert roofline["flops_per_step"] * 8 >= result["tflops_per_second"] * 1e12 * seconds * 0.99
    assert roofline["bytes_per_step"] >= 28 * result["parameters"]
    assert roofline["dispatch_share"] is None


def check_trace(folder: Path) -> str:
    """Find the timed steps, and no others, in the trace; return its name."""
    (file,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train" and "args" in event}
    assert {int(step) for step in steps} == {1, 2, 3, 4}
    return str(file)


def test_json_goes_to_standard_output(folder, capsys):
    result = run_json(folder, capsys, "--lengths=fixed:8", "--data.packing=false", *STEPS_ONLY)
    assert result["packing"] is False
    assert (result["row_length"], result["packing_efficiency"], result["masked_attention_fraction"]) == (8, 1.0, 0.0)
    missing = {"compile_cold_seconds", "compile_warm_seconds", "predict_examples_per_second", "cost_per_hour", "mfu"}
    assert {result[name] for name in missing} == {None}
    assert "not known: give --peak_tflops and --peak_bandwidth" in result["roofline"]["reason"]


def test_prediction_alone(folder, capsys):
    result = run_json(folder, capsys, "--lengths=uniform:4:20", "--mode=predict", "--cost_per_hour=3.6")
    assert result["predict_examples_per_second"] > 0
    assert result["predict_real_tokens_per_second"] > 4 * result["predict_examples_per_second"]
    untimed = ("examples_per_second", "step_ms_p50", "roofline", "predict_to_train_ratio", "cost_per_million_examples")
    assert [result[name] for name in untimed] == [None] * len(untimed)
    assert (result["steps_timed"], result["device"]) == (0, "cpu")


def test_predicted_are_the_examples_of_the_timed_steps(folder):
    bench, _ = open_bench(bench_config(folder), "uniform:4:20")
    tokens, everything = examples_of_steps(bench, 3).tokens, bench.inputs.train.tokens
    assert len(tokens) == 48
    chosen = sorted(
        {i for batch in itertools.islice(bench.batches_from(0), 3) for i in batch["example_ids"][batch["example_mask"]]}
    )
    for place, example in enumerate(chosen):
        np.testing.assert_array_equal(ids_of(tokens, place), ids_of(everything, example))


def test_a_small_data_set_is_predicted_once_each(tmp_path):
    """Twenty steps pass over three examples many times."""
    bench, _ = open_bench(bench_config_of_three(tmp_path), None)
    assert examples_of_steps(bench, 20).tokens.lengths.tolist() == [5, 3, 4]


def bench_config_of_three(folder: Path) -> Config:
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\n")
    (folder / "train.csv").write_text("text,label\ngood good good,1\nbad,0\nbad bad,0\n")
    model = ModelConfig(name_or_path="tiny", vocab=str(folder / "vocab.txt"))
    return Config(model=model, data=DataConfig(train=str(folder / "train.csv"), validation="is not read"))


def test_data_gives_its_own_examples(tmp_path):
    config = bench_config_of_three(tmp_path)
    bench, source = open_bench(config, None)
    assert bench.inputs.train.tokens.lengths.tolist() == [5, 3, 4]
    assert source == config.data.train
    assert open_bench(config, "fixed:7")[1] == "fixed:7"


@pytest.mark.long
def test_the_first_run_of_a_shape_is_never_on_the_clock(folder, monkeypatch):
    """Every second batch is given twice the rows, so that a shape appears late; each compilation takes a while."""
    compile_now = Compiled.compile

    def compile_slowly(self: Compiled, *args: Any) -> None:
        time.sleep(3)
        compile_now(self, *args)

    bench, source = open_bench(bench_config(folder), "fixed:9")
    batches = [batch for _, batch in zip(range(8), bench.batches_from(0), strict=False)]

    def feed(*_: Any) -> Any:
        for i, batch in enumerate(batches):
            empty = {name: np.zeros_like(array) for name, array in batch.items()}
            yield {name: np.concatenate([batch[name], empty[name]]) for name in batch} if i % 2 else batch

    monkeypatch.setattr(Compiled, "compile", compile_slowly)
    monkeypatch.setattr(Run, "batches_from", feed)
    result = run_bench(bench, source, BenchOptions(steps=6, warmup=1, mode="train", measure_compile=False))
    assert (result["compilations"], result["steps_timed"]) == (2, 6)
    assert 16 * 6 / result["examples_per_second"] < 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lengths=sst3"], "--lengths sst3 is not a file, and is not understood"),
        (["--lengths=fixed:500"], "500 tokens are above the longest example (40)"),
        (["--bench.steps=0"], "bench.steps is 0, but it must be at least 1"),
        (["--bench.warmup=-1"], "bench.warmup is -1, but it must be at least 0"),
        (["--bench.stepz=3"], "did you mean --bench.steps?"),
        (["--data.max_length=41"], "the model has 40 positions"),
        (["--train.batch_size=0"], "train.batch_size is 0"),
        (["--mesh.data=3"], "does not fit 8 devices"),
        (["--model.name_or_path=no/such-model"], "is neither a size (tiny, mini, small, base, large) nor a folder"),
        (["--data.train=missing.csv", "--model.name_or_path=tiny"], "needs a vocabulary"),
        (["--cost_per_hour=-1"], "--cost_per_hour is -1, but it must be above 0"),
        (["--cost_per_hour=.inf"], "--cost_per_hour is inf, but it must be finite and above 0"),
        (["--peak_tflops=0"], "--peak_tflops is 0, but it must be above 0"),
        (["--peak_bandwidth=x"], "peak_bandwidth is x, but it must be a number or null"),
        (["--mode=training"], "mode is training, but it must be one of train, predict, both"),
        (["--profile=/proc/no/such"], "--profile /proc/no/such cannot be written"),
        (["--plot=x.png"], "--plot draws a sweep: add --sweep"),
        (["--output=/no/such/folder/x.json", "--lengths=fixed:4", "--bench.steps=1"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, more, message):
    assert main(arguments(folder, *more)) == 2
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.mark.parametrize(("load", "said"), [(99_999.5, "busy (load 99999.5 on"), (0.0, "")])
def test_a_busy_machine_is_said(folder, capsys, monkeypatch, load, said):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert main(arguments(folder, "--lengths=uniform:4:20", "--mode=predict", "--output=-")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["host_load"] == load
    assert said in captured.err
    assert ("busy" in captured.err) == bool(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "delay"),
    [
        pytest.param("nothing cached", 1.0, marks=pytest.mark.long),
        ("timing 100000 training steps", 1.0),
    ],
)
def test_an_interruption_is_one_line(said, delay):
    """Also while a program compiles, which jaxlib does not stop at once."""
    process = command("bench", "--model.name_or_path=tiny", "--bench.steps=100000")
    assert process.stderr is not None
    while said not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err.splitlines()[-1] == "error: interrupted; nothing was written"
    assert "Traceback" not in err
