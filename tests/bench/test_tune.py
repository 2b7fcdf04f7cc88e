"""`jaxbert bench --tune`: candidates race fairly, failures are rows, and what it keeps is what a run then uses."""

from __future__ import annotations

import json
import math

import pytest
from etils import epath
from runs import make_config, make_program, random_tokens, small_config
from tiny import tiny_config

from jaxbert.bench import tune as tuning
from jaxbert.bench.setup import open_bench
from jaxbert.bench.table import tuning_table
from jaxbert.bench.tune import KERNEL_AXES, Race, choose, make_kernel_pass, rows_of, tune_kernels
from jaxbert.cli.main import main
from jaxbert.config import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.errors import UserError
from jaxbert.models.attention.pallas import KernelSettings, usual_settings
from jaxbert.models.attention.select import Attention
from jaxbert.train import tuned


class Device:
    """A clock, and work that takes the time that it is told; remembers the order of the work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float):
        """Return a candidate whose calls take these seconds, the last one again and again."""
        left = list(seconds)

        def call() -> None:
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return lambda: call


def broken(*_):
    raise RuntimeError("RESOURCE_EXHAUSTED: too much shared memory\nat line 1")


def test_candidates_alternate_and_their_medians_count():
    device = Device()
    race = Race(rounds=3, warmup=1, clock=device.clock)
    times = race.time({"a": device.work("a", 9.0, 0.004, 7.0, 0.002), "b": device.work("b", 0.004)}, units=2)
    assert times == pytest.approx({"a": 2.0, "b": 2.0})
    assert "".join(device.order) == "baabbaab"


def test_failures_are_lines_and_stop_nothing():
    device = Device()

    def dies():
        return broken

    race = Race(rounds=2, clock=device.clock)
    times = race.time({"a": device.work("a", 0.001), "b": broken, "c": dies})
    assert times == {"a": pytest.approx(1.0)} | dict.fromkeys("bc", "RESOURCE_EXHAUSTED: too much shared memory")
    rows = rows_of("part", times, "a")
    assert [row["error"] for row in rows] == [None, *[times["b"]] * 2]
    assert [row["ratio"] for row in rows] == [1.0, None, None]
    assert tuning_table(rows).row_count == 3


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({"a": 100.0, "b": 99.0}, "a"),
        ({"a": 100.0, "b": 97.0, "c": 98.0}, "b"),
        ({"a": "no memory", "b": 99.0}, "b"),
        ({"a": 100.0, "b": "no memory"}, "a"),
    ],
)
def test_a_default_is_replaced_by_what_is_clearly_faster(times, best):
    assert choose(times, "a") == best


def test_nothing_that_could_be_timed_is_an_error():
    with pytest.raises(UserError, match=r"no candidate could be timed; error of the default: no memory"):
        choose({"a": "no memory", "b": "other"}, "a")


def test_kernels_are_varied_one_setting_after_another():
    """The fastest is found although it differs in three settings; no program is compiled twice."""
    device, compiled = Device(), []

    def prepare(settings: KernelSettings):
        compiled.append(settings)
        if settings.stages == 3:
            broken()
        cost = 0.01 * (1 + (settings.tile != 128) + (settings.warps != 8) + (settings.stages != 1))
        return device.work("", cost)()

    best, rows = tune_kernels(prepare, "bfloat16", 64, Race(3, 0, device.clock))
    assert best == KernelSettings(128, 32, 8, 1)
    worked = [settings for settings in compiled if settings.stages != 3]
    assert len(worked) == len(set(worked))
    assert [row["best"] for row in rows].count(True) == [row["default"] for row in rows].count(True) == 1
    (chosen,) = (row for row in rows if row["best"])
    assert (chosen["ms"], chosen["ratio"]) == (pytest.approx(1.0), pytest.approx(0.25))
    assert [row["error"] for row in rows if "3 stages" in row["candidate"]] == [
        "RESOURCE_EXHAUSTED: too much shared memory"
    ]
    assert len(rows) < math.prod(map(len, KERNEL_AXES.values())) / 3


def test_the_pass_of_a_kernel_runs_with_its_settings(monkeypatch):
    config = make_config(train__batch_size=4, precision__compute="bfloat16")
    program = make_program(config, small_config(), steps=2, devices=1)
    tokens = random_tokens(4)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 4, row_length=24), 4, seed=None)
    prepare = make_kernel_pass(program, Attention("pallas", interpret=True), batch)
    attend, used = Attention.attend_fused, []

    def attend_and_note(self, *args, **options):
        used.append(self.kernel)
        return attend(self, *args, **options)

    monkeypatch.setattr(Attention, "attend_fused", attend_and_note)
    candidates = [KernelSettings(16, 16), usual_settings("bfloat16", 16)]
    for settings in candidates:
        prepare(settings)()
    assert used == candidates


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(tiny_config(num_hidden_layers=2).to_dict()))
    return folder


@pytest.fixture
def kept(tmp_path, monkeypatch) -> epath.Path:
    path = epath.Path(tmp_path / "xla" / "tuned.json")
    monkeypatch.setattr(tuned, "tuned_file", lambda: path)
    monkeypatch.setattr(tuning, "TOGETHER", (1, 2))
    monkeypatch.setattr(tuning, "LONG_STEP_MS", float("inf"))
    return path


def arguments(folder, *more: str) -> list[str]:
    sizes = ["--train.batch_size=16", "--lengths=uniform:4:20", "--bench.steps=3", "--bench.warmup=1", "--output=-"]
    return ["bench", f"--model.name_or_path={folder}", *sizes, *more]


def open_again(folder, **train):
    config = Config(
        model=ModelConfig(name_or_path=str(folder)),
        data=DataConfig(),
        train=TrainConfig(batch_size=16, **train),
        mesh=MeshConfig(),
    )
    return open_bench(config, "uniform:4:20")[0].program


def test_a_real_run_is_tuned_and_the_next_one_obeys(folder, kept, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "choose", lambda times, default: list(times)[-1])  # whatever is fast on this machine
    assert main(arguments(folder, "--tune")) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    parts = {"layers, a step": ["unrolled", "as one compiled loop"], "steps sent at once, a step": ["1", "2"]}
    assert {part: [row["candidate"] for row in result["rows"] if row["part"] == part] for part in parts} == parts
    assert all(row["error"] is None and row["ms"] > 0 and row["ratio"] > 0 for row in result["rows"])
    assert result["tuned"] == "model.scan_layers true, train.steps_per_dispatch 2"
    for words in ("median ms", "as one compiled loop", f"kept in {kept}: {result['tuned']}"):
        assert words in " ".join(captured.err.split())
    content = json.loads(kept.read_text())
    assert content["steps"][0]["candidates"] == result["rows"]
    assert content["steps"][0]["place"] == result["place"]
    program = open_again(folder)
    assert program.call.scan_layers
    assert program.steps_per_dispatch == 2
    assert f"tuned settings are used ({kept}): {result['tuned']}" in capsys.readouterr().err
    assert open_again(folder, steps_per_dispatch=1).steps_per_dispatch == 1


def test_what_is_given_is_not_varied(folder, kept, capsys):
    given = ("--model.scan_layers=true", "--train.steps_per_dispatch=2")
    assert main(arguments(folder, "--tune", *given)) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["rows"], result["tuned"]) == ([], "")
    assert f"nothing was tuned, {kept} is as before" in captured.err
    assert "note: layers are not tuned: model.scan_layers or model.remat is set" in captured.err
    assert not kept.exists()


def test_long_steps_are_sent_alone(folder, kept, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "LONG_STEP_MS", 0.0)
    assert main(arguments(folder, "--tune", "--model.scan_layers=true")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"] == []
    assert "note: the steps sent at once are not tuned: a step takes" in captured.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sweep=train.batch_size=1,2"], "leave out --tune or --sweep"),
        (["--profile=trace"], "leave out --tune or --profile"),
        (["--mode=predict"], "--mode predict does not run"),
    ],
)
def test_a_mistake_is_one_line(folder, kept, capsys, more, message):
    assert main(arguments(folder, "--tune", *more)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_was_timed_is_written_also_where_it_cannot_be_kept(folder, kept, capsys, monkeypatch):
    kept.parent.write_text("a file, not a folder")
    assert main(arguments(folder, "--tune", "--train.steps_per_dispatch=1")) == 2
    captured = capsys.readouterr()
    assert "tuned.json cannot be written" in captured.err.splitlines()[-1]
    assert len(json.loads(captured.out)["rows"]) == 2


def test_without_a_folder_nothing_is_timed(folder, capsys, monkeypatch):
    monkeypatch.setattr(tuned, "tuned_file", lambda: None)
    assert main(arguments(folder, "--tune")) == 2
    assert "set JAX_COMPILATION_CACHE_DIR" in capsys.readouterr().err.splitlines()[-1]
