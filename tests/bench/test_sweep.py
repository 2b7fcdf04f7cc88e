"""`jaxbert bench --sweep`: what is combined, what a failure looks like, what is written; each row is its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from runs import ROOT, command, finish, write_model

from jaxbert.bench import sweep
from jaxbert.bench.sweep import Row, best_row, combinations, parse_axes, run_row
from jaxbert.cli.main import main
from jaxbert.errors import UserError

BEST_COLOR = (0xD9, 0x82, 0x2B)


def test_axes_are_combined_with_the_last_key_fastest():
    axes = parse_axes(["train.batch_size=32,256", "data.packing=true, false"])
    assert combinations(axes) == [
        {"train.batch_size": "32", "data.packing": "true"},
        {"train.batch_size": "32", "data.packing": "false"},
        {"train.batch_size": "256", "data.packing": "true"},
        {"train.batch_size": "256", "data.packing": "false"},
    ]


def test_a_comma_in_brackets_belongs_to_the_value():
    assert parse_axes(["train.class_weights=[1, 2],balanced"]) == {"train.class_weights": ["[1, 2]", "balanced"]}
    assert parse_axes(["lengths=uniform:4:9,a=b"]) == {"lengths": ["uniform:4:9", "a=b"]}


@pytest.mark.parametrize("specs", [["x"], ["=1"], ["a.b="], ["a.b=1,,2"], ["a.b=1,1"], ["a.b=1", "a.b=2"]])
def test_other_axes_are_refused(specs):
    with pytest.raises(UserError, match=r"^--sweep "):
        parse_axes(specs)


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        (2, "compiling\nerror: the device is out of memory: lower it\n", "the device is out of memory: lower it"),
        (1, "Traceback\nValueError: boom\n", "ValueError: boom"),
        (-signal.SIGKILL, "compiling\n", "killed by SIGKILL: most likely out of memory"),
        (-signal.SIGSEGV, "", "killed by SIGSEGV"),
        (3, "", "ended with exit code 3"),
        (1, "x" * 500, "x" * 200),
    ],
)
def test_a_process_that_fails_is_a_row(monkeypatch, code, said, error):
    monkeypatch.setattr(sweep, "_run", lambda _: (code, said))
    assert run_row({"a.b": "1"}, {}, []) == {"settings": {"a.b": "1"}, "error": error}


@pytest.mark.parametrize("code", [130, -signal.SIGINT])
def test_a_process_that_was_interrupted_ends_the_sweep(monkeypatch, code):
    monkeypatch.setattr(sweep, "_run", lambda _: (code, ""))
    with pytest.raises(KeyboardInterrupt):
        run_row({}, {}, [])


def test_the_best_row_has_the_highest_value():
    rows = [
        {"result": {"m": 3.0}},
        {"error": "x"},
        {"result": {"m": 5.0}},
        {"result": {"m": 5.0}},
        {"result": {"m": None}},
    ]
    assert best_row(rows, "m") == 2
    assert best_row(rows[1:2], "m") is None


def test_options_reach_every_process(monkeypatch):
    runner = Runner()
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", runner)
    flags = [
        *("--bench.steps=7", "--bench.warmup=1", "--bench.measure_compile=true", "--mode=train"),
        *("--peak_tflops=1.5", "--peak_bandwidth=2.5", "--cost_per_hour=3.5"),
    ]
    assert main([*SWEEP, *flags]) == 0
    assert [given for _, given in runner.calls] == [flags] * 4


RESULT: dict[str, Any] = {
    **{"step_ms_p50": 9.5, "real_tokens_per_second": 900.0, "packing_efficiency": 0.9, "tflops_per_second": 0.1},
    **{"mfu": None, "step_memory_bytes": 2**30, "predict_examples_per_second": 400.0, "devices": 1, "device": "cpu"},
    **{"model": "tiny", "lengths": "sst2", "versions": {"jaxbert": "0", "jax": "0", "python": "3"}},
}


class Runner:
    """Stands for the processes: examples/s are batch size times row length, and one combination fails."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.calls: list[tuple[dict[str, Any], list[str]]] = []
        self._interrupt_at = interrupt_at

    def __call__(self, settings: dict[str, str], config: dict[str, Any], flags: list[str]) -> Row:
        if len(self.calls) == self._interrupt_at:
            raise KeyboardInterrupt
        self.calls.append((config, flags))
        size, length = config["train"]["batch_size"], config["data"]["row_length"]
        if (size, length) == (16, 256):
            return {"settings": settings, "error": "the device is out of memory"}
        return {"settings": settings, "result": {**RESULT, "examples_per_second": float(size * length)}}


SWEEP = ["bench", "--model.name_or_path=tiny", "--sweep=train.batch_size=16,32", "--sweep=data.row_length=128,256"]


def image(path: Path) -> np.ndarray:
    """Return the pixels, [height, width, 3], 0 to 255."""
    return (imread(path)[:, :, :3] * 255).round().astype(int)


def test_the_sweep_goes_on_after_a_failure_and_writes_json_and_a_chart(monkeypatch, tmp_path, capsys):
    runner = Runner()
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", runner)
    output = tmp_path / "sweep.json"
    more = [f"--output={output}", "--bench.steps=3", "--optimizer.clip_norm=null", "--lengths=fixed:9"]
    assert main([*SWEEP, *more]) == 0
    content = json.loads(output.read_text())
    assert content["sweep"] == {"train.batch_size": ["16", "32"], "data.row_length": ["128", "256"]}
    assert [row.get("error") for row in content["rows"]] == [None, "the device is out of memory", None, None]
    assert content["rows"][2]["result"]["examples_per_second"] == 32 * 128
    assert (content["metric"], content["combinations"]) == ("examples_per_second", 4)
    assert content["best"] == {"train.batch_size": "32", "data.row_length": "256"}
    config, flags = runner.calls[0]
    assert config["optimizer"]["clip_norm"] is None
    assert {"--bench.steps=3", "--bench.measure_compile=false", "--lengths=fixed:9"} <= set(flags)
    err = capsys.readouterr().err
    assert "2/4  train.batch_size=16, data.row_length=256: failed: the device is out of memory" in err
    assert err.splitlines()[-1] == (
        f"3 of 4 combinations timed, best: train.batch_size=32, data.row_length=256; written: {output}, "
        f"{output.with_suffix('.png')}"
    )
    pixels = image(output.with_suffix(".png"))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 900
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert (pixels == BEST_COLOR).all(axis=2).sum() > 1000


def test_a_key_of_the_examples_is_swept_as_well(monkeypatch, tmp_path):
    runner = Runner()
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", runner)
    plot = tmp_path / "chart.svg"
    arguments = ["bench", "--data.row_length=128", "--sweep=lengths=sst2,fixed:9", f"--plot={plot}"]
    assert main(arguments) == 0
    assert [flags[-1] for _, flags in runner.calls] == ["--lengths=sst2", "--lengths=fixed:9"]
    assert plot.read_text().startswith("<?xml")


def test_what_the_configuration_rules_out_is_a_row_that_starts_nothing(monkeypatch, capsys):
    runner = Runner()
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", runner)
    assert main(["bench", "--data.max_length=64", "--sweep=data.row_length=32,128", "--output=-"]) == 0
    captured = capsys.readouterr()
    first, second = json.loads(captured.out)["rows"]
    assert first["error"].startswith("data.max_length (64) is above data.row_length (32)")
    assert second["result"]["examples_per_second"] == 32 * 128
    assert len(runner.calls) == 1


def test_prediction_alone_is_ranked_by_prediction(monkeypatch, capsys):
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", Runner())
    assert main([*SWEEP, "--mode=predict", "--output=-"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "predict_examples_per_second"


def test_what_was_timed_before_an_interruption_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", Runner(interrupt_at=1))
    output = tmp_path / "sweep.json"
    assert main([*SWEEP, f"--output={output}"]) == 130
    assert len(json.loads(output.read_text())["rows"]) == 1
    err = capsys.readouterr().err
    assert "interrupted: the rows that were timed are kept" in err
    assert "1 of 4 combinations timed" in err.splitlines()[-1]
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", Runner(interrupt_at=0))
    assert main(SWEEP) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: interrupted")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--sweep=train.batchsize=1,2"],
            "--sweep train.batchsize: there is no such key; did you mean train.batch_size?",
        ),
        (["--sweep=bench.steps=1,2"], "--sweep bench.steps: there is no such key"),
        (["--sweep=train.batch_size=8,many"], "train.batch_size is many, but it must be a whole number"),
        (["--sweep=train.batch_size"], "give KEY=VALUE,VALUE"),
        (
            ["--sweep=train.batch_size=0,-1"],
            "no combination could be timed; error of the first one: train.batch_size is 0",
        ),
        (["--sweep=train.seed=1", "--plot=x.txt"], "--plot x.txt must end in .png, .svg, .pdf"),
        (["--sweep=train.seed=1", "--plot=gs://b/x.png"], "--plot gs://b/x.png must be a file on this machine"),
        (["--sweep=train.seed=1", "--plot=/no/such/x.png"], "--plot /no/such/x.png cannot be written"),
        (["--sweep=train.seed=1", "--output=/no/such/x.json"], "--output /no/such/x.json cannot be written"),
        (["--sweep=train.seed=1", "--output=x.png"], "the image of the sweep has that name"),
        (["--sweep=train.seed=1", "--profile=x"], "--profile traces a single run: leave out --sweep or --profile"),
        (["--sweep=train.seed=1", "--cost_per_hour=-2"], "--cost_per_hour is -2"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, more, message):
    monkeypatch.setattr("jaxbert.cli.sweep.run_row", Runner(interrupt_at=0))
    assert main(["bench", *more]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("sweep") / "model", num_hidden_layers=1)


def sweep_command(folder: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    short = ("--bench.steps=3", "--bench.warmup=0", "--lengths=uniform:4:20")
    return command("bench", f"--model.name_or_path={folder}", *short, *more, **options)


@pytest.mark.long
@pytest.mark.slow
def test_four_combinations_of_which_two_do_not_fit(folder, tmp_path):
    output = tmp_path / "sweep.json"
    axes = ("--sweep=train.batch_size=8,16", "--sweep=data.row_length=24,12")
    code, _, err = finish(sweep_command(folder, *axes, f"--output={output}"))
    assert code == 0, err
    content = json.loads(output.read_text())
    timed = [row for row in content["rows"] if "result" in row]
    assert [row["settings"]["data.row_length"] for row in timed] == ["24", "24"]
    assert [row["result"]["batch_size"] for row in timed] == [8, 16]
    assert all(row["result"]["row_length"] == 24 for row in timed)
    assert all(row["result"]["predict_to_train_ratio"] > 0 for row in timed)
    failed = [row["error"] for row in content["rows"] if "error" in row]
    assert len(failed) == 2
    assert all(error.startswith("data.row_length is 12, but an example has 20 tokens") for error in failed)
    assert (image(output.with_suffix(".png")) == BEST_COLOR).all(axis=2).any()


@pytest.mark.long
@pytest.mark.slow
def test_an_interruption_keeps_the_finished_rows_and_leaves_no_process(folder, tmp_path):
    output = tmp_path / "sweep.json"
    axis = "--sweep=train.batch_size=8,16,24"
    process = sweep_command(folder, "--mode=train", axis, f"--output={output}", start_new_session=True)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("1/3"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "Traceback" not in err
    assert "1 of 3 combinations timed" in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert len(json.loads(output.read_text())["rows"]) == 1


@pytest.mark.long
@pytest.mark.slow
def test_the_process_that_sweeps_leaves_the_devices_alone():
    """On a TPU only one process may have them."""
    program = (
        "import sys; from jaxbert.cli.main import main; main(['bench', '--sweep=train.batch_size=0']); "
        "from jax._src import xla_bridge; sys.exit(xla_bridge.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
