"""`jaxbert plan`: steps compiled for devices that are not here, and what is said of them."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from runs import ROOT, Problem, command, finish, make_config
from tiny import tiny_config

from jaxbert.cli.main import main
from jaxbert.config import TrainConfig
from jaxbert.errors import UserError
from jaxbert.plan import planner as plan
from jaxbert.plan import target
from jaxbert.plan.options import PlanOptions
from jaxbert.plan.planner import Planner, sharding_rows
from jaxbert.plan.table import kernel_tables
from jaxbert.plan.target import parse_target
from jaxbert.train.sharding import RULES

WIDTH, WIDE, LAYERS, WORDS, POSITIONS, TOKENS = 64, 128, 2, 500, 64, 32
BATCH = 64
KEYS = {
    *("topology", "device", "devices", "estimate", "mesh", "model", "parameters", "lengths", "batch_size", "remat"),
    *("accumulation_steps", "packing", "precision", "attention", "row_length", "rows", "slots", "examples_per_step"),
    *("real_tokens_per_step", "packing_efficiency", "total_steps", "memory", "fits", "change", "flops", "collectives"),
    *("kernels", "bounds", "tokens_per_second", "predicted_tokens_per_second", "examples_per_second", "cost"),
    *("compile_seconds", "sharding", "assumptions", "versions"),
}


@pytest.fixture(autouse=True)
def _own_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan sets the number of stand-ins for its whole process."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")


@pytest.fixture
def stand_ins(monkeypatch) -> None:
    """Plan as where the compiler for GPUs is not installed."""
    monkeypatch.setattr(target, "lacks_compiler", lambda name: f"no compiler for {name}: install it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder with a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    bert_config = tiny_config(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=WIDE,
        num_hidden_layers=LAYERS,
        max_position_embeddings=POSITIONS,
    )
    (folder / "config.json").write_text(json.dumps(bert_config.to_dict()))
    return folder


def arguments(folder: Path, topology: str, *more: str) -> list[str]:
    return [
        *("plan", f"--model.name_or_path={folder}", f"--topology={topology}", f"--train.batch_size={BATCH}"),
        *(f"--lengths=fixed:{TOKENS}", f"--data.row_length={TOKENS}", *more),
    ]


def run_json(folder: Path, capsys: Any, topology: str, *more: str) -> dict[str, Any]:
    assert main(arguments(folder, topology, "--output=-", *more)) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory) -> dict[str, Any]:
    """The plan of eight CPU devices, with peaks and a price."""
    output = tmp_path_factory.mktemp("plan") / "plan.json"
    peaks = ("--peak_tflops=0.5", "--peak_bandwidth=20", "--link_bandwidth=2", "--memory_gb=1", "--cost_per_hour=0.9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        assert main(arguments(folder, "cpu:8", "--train.max_steps=1000", f"--output={output}", *peaks)) == 0
    return json.loads(output.read_text())


def planned(folder: Path, topology: str, lengths: str | None = None, **changes: Any) -> Planner:
    """Return a planner; nothing is compiled. `section__key` sets one key."""
    config = make_config(model__name_or_path=str(folder), train__batch_size=BATCH, **changes)
    return Planner(config, parse_target(topology), PlanOptions(lengths=lengths))


def expected_parameters() -> int:
    embeddings = (WORDS + POSITIONS + 2) * WIDTH + 2 * WIDTH
    layer = 4 * (WIDTH**2 + WIDTH) + 2 * WIDTH * WIDE + WIDE + WIDTH + 4 * WIDTH
    head = WIDTH**2 + WIDTH + WIDTH * 2 + 2
    return embeddings + LAYERS * layer + head


def test_the_command_writes_all_numbers(plain):
    assert set(plain) == KEYS
    assert (plain["devices"], plain["mesh"]) == (8, {"data": 8, "fsdp": 1, "tensor": 1})
    assert plain["parameters"] == expected_parameters()
    assert (plain["fits"], plain["change"], plain["estimate"]) == (True, None, False)
    assert (plain["rows"], plain["row_length"], plain["packing_efficiency"]) == (BATCH, TOKENS, 1.0)
    check_memory(plain["memory"], plain["parameters"])
    check_bounds(plain)


def check_memory(memory: dict[str, Any], parameters: int) -> None:
    """Parameters, two moments and a few counters; the batch is a few kB more."""
    assert 12 * parameters < memory["state_bytes"] < 12 * parameters + 100
    assert memory["state_bytes"] < memory["argument_bytes"] < memory["state_bytes"] + 20_000
    assert memory["needed_bytes"] > memory["argument_bytes"]
    assert memory["available_bytes"] == 1e9


def check_bounds(result: dict[str, Any]) -> None:
    """Times, rates and prices follow from the peaks that were given."""
    bounds, steps = result["bounds"], 1000
    assert bounds["compute_seconds"] == pytest.approx(result["flops"]["compiled"] / 0.5e12)
    assert bounds["interconnect_seconds"] == pytest.approx(result["collectives"]["sent_bytes"] / 2e9)
    assert bounds["memory_seconds"] == pytest.approx(result["kernels"]["moved_bytes"] / 20e9)
    lower = bounds["lower_seconds"]  # of its memory time, the least that any program moves
    compute, memory, interconnect = (bounds[f"{name}_seconds"] for name in ("compute", "memory", "interconnect"))
    assert max(compute, interconnect) <= lower <= max(compute, memory, interconnect)
    assert bounds["upper_seconds"] > 2 * lower
    assert lower < bounds["predicted_seconds"] < bounds["upper_seconds"]
    assert result["predicted_tokens_per_second"] == pytest.approx(BATCH * TOKENS / bounds["predicted_seconds"])
    least, most = result["tokens_per_second"]
    assert most == pytest.approx(BATCH * TOKENS / lower)
    assert least == pytest.approx(BATCH * TOKENS / bounds["upper_seconds"])
    cost = result["cost"]
    assert cost["cost_per_hour"] == pytest.approx(8 * 0.9)
    assert cost["cost_per_million_tokens_least"] == pytest.approx(7.2 / 3600 / most * 1e6, rel=1e-3)
    assert cost["cost_of_run_most"] == pytest.approx(7.2 / 3600 * bounds["upper_seconds"] * steps, rel=1e-3)


def test_gradients_are_summed_over_the_devices_once(plain):
    """Float32 gradients of all parameters but the keys' biases, and some numbers: sent 2 * 7/8 times around."""
    summed = plain["collectives"]["result_bytes"]["all-reduce"]
    gradients = 4 * (plain["parameters"] - LAYERS * WIDTH)
    assert gradients < summed < 1.01 * gradients
    assert plain["collectives"]["sent_bytes"] == pytest.approx(summed * 2 * 7 / 8, rel=0.01)


def test_products_are_counted(plain):
    """As in the formula, but for the last layer, of which most is needed at one token of each example alone."""
    flops = plain["flops"]
    weights, pairs = 4 * WIDTH**2 + 2 * WIDTH * WIDE, 2 * WIDTH * TOKENS
    formula = 6 * LAYERS * (weights + pairs) * BATCH * TOKENS / 8
    assert flops["formula"] == flops["real_tokens"] == pytest.approx(formula)
    assert 0.5 * formula < flops["compiled"] < formula
    assert (flops["silent_kernels"], flops["unknown_loops"]) == (0, 0)


def test_the_largest_kernels_are_shown_with_their_lines(folder, capsys):
    """Each of the two tables has as many rows as were asked for, sorted, with lines of this package."""
    result = run_json(folder, capsys, "cpu:1", "--kernels=3", f"--train.batch_size={BATCH // 8}")
    kernels = result["kernels"]
    for name, size in (("by_bytes", "moved_bytes"), ("by_flops", "flops")):
        sizes = [row[size] for row in kernels[name]]
        assert len(sizes) == 3
        assert sizes == sorted(sizes, reverse=True)
    assert sum(row["flops"] for row in kernels["by_flops"]) <= result["flops"]["compiled"]
    assert kernels["moved_bytes"] > sum(row["moved_bytes"] for row in kernels["by_bytes"])
    assert all(re.match(r"(models|train|tasks)/\w+\.py:\d+ ", row["place"]) for row in kernels["by_flops"])
    assert not any("layers.py" in row["place"] for row in kernels["by_flops"]), "the line that called it says more"


def test_tables_of_kernels_say_what_is_not_known():
    row = {"name": "fusion", "runs": 12, "moved_bytes": 5e9, "flops": None, "kind": "fusion"}
    row |= {"operation": "jit(f)/transpose(jvp())/own_kernel/pallas_call", "place": "models/encoder.py:7 Layer"}
    made = row | {"operation": "", "place": "", "flops": 2e12, "name": "k", "kind": "copy"}
    found = {"kernels": {"moved_bytes": 10e9, "by_bytes": [row], "by_flops": [made]}}
    console = Console(width=160, record=True, file=io.StringIO())
    for table in kernel_tables(found):
        console.print(table)
    said = console.export_text()
    assert "models/encoder.py:7 Layer: own_kernel (backward)" in said
    assert re.search(r"fusion +│ +12 │ 5\.000 │ +50\.0% │ not known", said)
    assert re.search(r"made by the compiler +│ k \(copy\) +│ +12 │ 5\.000 │ +50\.0% │ +2 ", said)
    assert kernel_tables({"kernels": None}) == []


def test_each_parameter_is_placed_by_a_rule(folder):
    planner = planned(folder, "cpu:8", "fixed:32", mesh__fsdp=4, mesh__tensor=2)
    rows = sharding_rows(planner.workload(planner.config).program)
    assert sum(math.prod(row["shape"]) for row in rows) == expected_parameters()
    query = next(row for row in rows if row["parameter"].endswith("attention/self/query/kernel"))
    assert query == {
        "rule": RULES[0][0],
        "parameter": query["parameter"],
        "spec": [None, "fsdp", "tensor"],
        "shape": [LAYERS, WIDTH, WIDTH],
        "device_shape": [LAYERS, WIDTH // 4, WIDTH // 2],
        "device_bytes": 4 * LAYERS * WIDTH**2 // 8,
        "device_bytes_with_moments": 12 * LAYERS * WIDTH**2 // 8,
    }
    order = [row["rule"] for row in rows]
    assert order == sorted(order, key=[pattern for pattern, _ in RULES].index)


@pytest.mark.usefixtures("stand_ins")
def test_gpus_are_estimated_without_their_compiler_and_their_state_is_exact(folder, capsys):
    assert main(arguments(folder, "h200:8", "--output=-", "--mesh.fsdp=8")) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["estimate"], result["device"], result["precision"]) == (True, "H200 SXM", "bfloat16")
    assert any(line.startswith("ESTIMATE: memory and collectives") for line in result["assumptions"])
    assert "the GPUs' own compiler was not used: no compiler for H200 SXM: install it" in result["assumptions"]
    assert (result["kernels"], result["predicted_tokens_per_second"]) == (None, None)
    assert "h200:8: fits (ESTIMATE), " in captured.err
    assert "parameters on the mesh" in captured.err
    held = sum(row["device_bytes_with_moments"] for row in result["sharding"])
    assert held < result["memory"]["state_bytes"] < held + 100
    assert held < 0.3 * 12 * result["parameters"]
    assert result["bounds"]["compute_seconds"] == pytest.approx(result["flops"]["compiled"] / 989.4e12)


@pytest.mark.usefixtures("stand_ins")
def test_stand_ins_make_the_choices_of_gpus(folder):
    planner = planned(folder, "h200:2", "fixed:20", precision__fp8=True, model__attention="cudnn")
    config, work = planner.config, planner.workload(planner.config)
    assert work.layout.row_length % 128 == 0
    assert (config.precision.compute, config.precision.fp8) == ("bfloat16", False)
    assert config.model.attention == "xla"
    assert planned(folder, "cpu:2", "fixed:20", precision__compute="auto").config.precision.compute == "auto"


@pytest.mark.slow
@pytest.mark.long
def test_what_does_not_fit_names_a_change_that_does(folder, tmp_path, capsys):
    """A device has room for a part of the state, and for all temporaries."""
    memory = run_json(folder, capsys, "cpu:8")["memory"]
    available = 0.7 * memory["state_bytes"] + memory["needed_bytes"] - memory["state_bytes"]
    output = tmp_path / "plan.json"
    assert main(arguments(folder, "cpu:8", f"--memory_gb={available / 1e9}", f"--output={output}")) == 2
    result = json.loads(output.read_text())
    assert result["fits"] is False
    assert result["change"]["needed_bytes"] < available < result["memory"]["needed_bytes"]
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: a step of {BATCH} rows on cpu:8 needs")
    changed = [f"--{key}={value}" for key, value in result["change"]["settings"].items()]
    assert " ".join(changed).replace("=", " ") in line
    again = run_json(folder, capsys, "cpu:8", f"--memory_gb={available / 1e9}", *changed)
    assert (again["fits"], again["memory"]["needed_bytes"]) == (True, result["change"]["needed_bytes"])


def test_lengths_are_those_of_the_data(tmp_path):
    problem = Problem.write(tmp_path)
    data = problem.folder / "train.csv"
    planner = planned(problem.folder / "model", "cpu:2", data__train=str(data))
    work = planner.workload(dataclasses.replace(planner.config, train=TrainConfig(batch_size=20, epochs=3)))
    assert planner.material.source == str(data)
    assert (work.examples, work.total_steps) == (20, 15)
    texts = [line.split(",")[0] for line in data.read_text().splitlines()[1:]]
    assert work.tokens / 20 == pytest.approx(np.mean([len(text.split()) + 2 for text in texts]))


@pytest.fixture
def nothing_compiled(monkeypatch) -> None:
    """End a plan where it would compile."""

    def stop(*_: Any, **__: Any) -> None:
        raise UserError("as far as this")

    monkeypatch.setattr(plan, "compile_step", stop)


@pytest.mark.usefixtures("nothing_compiled")
def test_data_that_is_elsewhere_is_replaced_and_said(folder, capsys):
    more = ("--data.train=nowhere.csv", "--topology=cpu:1", "--data.max_length=20")
    assert main(["plan", f"--model.name_or_path={folder}", *more]) == 2
    said = capsys.readouterr().err
    assert "note: lengths of sst2 and not of data.train (--lengths takes others): " in said
    assert said.splitlines()[-1] == "error: as far as this"


@pytest.mark.usefixtures("nothing_compiled")
def test_a_known_checkpoint_needs_no_hub(capsys):
    assert main(["plan", "--model.name_or_path=google-bert/bert-base-chinese", "--topology=cpu:1"]) == 2
    said = capsys.readouterr().err
    assert "note: the Hub gave no config.json of google-bert/bert-base-chinese: the shape that was published" in said
    assert said.splitlines()[-1] == "error: as far as this"
    assert main(["plan", "--model.name_or_path=no/such", "--topology=cpu:1"]) == 2
    assert "(you can also name a size with the same shape, because no weights are needed)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("topology", "more", "message"),
    [
        ("v9:2x2", (), "--topology 'v9:2x2' is not understood: give a slice of TPUs as v5e:16x16"),
        ("h200:2x4", (), "--topology h200:2x4: give the number of devices"),
        ("cpu:16", (), "--topology cpu:16 needs 16 devices, but JAX runs in this process with 8 already"),
        ("cpu:8", ("--mesh.fsdp=3",), "does not fit 8 devices: set one axis to -1"),
        ("h200:6", ("--mesh.data=4",), "does not fit 6 devices"),
        ("cpu:8", ("--train.batch_size=0",), "train.batch_size is 0, but it must be at least 1"),
        ("cpu:8", ("--lengths=fixed:65",), "--lengths fixed:65: 65 tokens are above the longest example (64)"),
        ("cpu:8", ("--lengths=fixed:40",), "data.row_length is 32, but an example has 40 tokens"),
        ("cpu:8", ("--cost_per_hour=-1",), "--cost_per_hour is -1, but it must be above 0"),
        ("cpu:8", ("--utilization=1.5",), "--utilization is 1.5, but it must be above 0 and at most 1"),
        ("cpu:8", ("--output=nowhere/plan.json",), "there is no folder nowhere"),
        ("cpu:8", ("--toplogy=cpu:8",), "unknown option --toplogy; did you mean --topology?"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, topology, more, message):
    assert main(arguments(folder, topology, *more)) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert message in said[-1]


def test_the_devices_must_be_named(folder, capsys):
    assert main(["plan", f"--model.name_or_path={folder}"]) == 2
    assert "error: --topology is missing: name the devices, as v5e:16x16" in capsys.readouterr().err


def test_help_starts_no_jax():
    program = (
        "import sys\nfrom jaxbert.cli.main import main\ntry:\n    main(['plan', '--help'])\n"
        "except SystemExit:\n    print([m for m in ('jax', 'flax', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.long
@pytest.mark.slow
def test_a_process_of_its_own_has_as_many_devices_as_it_plans(folder, tmp_path):
    """`command` starts it with one device."""
    output = tmp_path / "plan.json"
    code, _, err = finish(command(*arguments(folder, "h200:6", f"--output={output}")))
    assert code == 0, err
    result = json.loads(output.read_text())
    assert (result["devices"], result["mesh"]["data"]) == (6, 6)
    assert result["collectives"]["runs"] > 0


def test_a_slice_of_tpus(folder, capsys):
    pytest.importorskip("libtpu")
    more = ("--mesh.fsdp=2", "--data.row_length=128", "--cost_per_hour=1.2")
    result = run_json(folder, capsys, "v5e:2x2", *more)
    assert (result["device"], result["estimate"], result["fits"]) == ("TPU v5e", False, True)
    assert result["memory"]["available_bytes"] == 16 * 2**30
    assert result["bounds"]["lower_seconds"] < result["bounds"]["upper_seconds"]
    assert result["versions"]["libtpu"]
    assert main(arguments(folder, "v5e:3x5")) == 2
    assert "error: libtpu makes no slice v5e:3x5" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_bert_large_on_a_slice(tmp_path, fsdp):
    """Within a tenth of the formula: most of the last layer is left out, and attention computes the logits twice."""
    pytest.importorskip("libtpu")
    more = (f"--mesh.fsdp={fsdp}", "--train.batch_size=32", "--lengths=fixed:512")
    output = tmp_path / "plan.json"
    command_line = ["plan", "--model.name_or_path=large", "--topology=v5e:2x4", "--data.row_length=512", *more]
    assert main([*command_line, f"--output={output}"]) == 0
    result = json.loads(output.read_text())
    assert result["flops"]["compiled"] == pytest.approx(result["flops"]["formula"], rel=0.1)
    assert result["attention"] == "mosaic"
    assert result["memory"]["state_bytes"] == pytest.approx(12 * result["parameters"] / fsdp, rel=0.05)
    assert result["memory"]["needed_bytes"] < result["memory"]["available_bytes"]


@pytest.mark.long
@pytest.mark.slow
def test_a_tpu_that_is_too_small(capsys):
    """The compiler refuses; what it proposes, it has compiled."""
    pytest.importorskip("libtpu")
    more = ("--train.batch_size=8192", "--lengths=fixed:512", "--data.row_length=512")
    assert main(["plan", "--model.name_or_path=mini", "--topology=v5e:2x4", *more]) == 2
    said = capsys.readouterr().err
    line = said.splitlines()[-1]
    assert line.startswith("error: a step of 8192 rows on v5e:2x4 needs ")
    assert " would fit, with " in line
