"""XLA's compiler for GPUs that are not here: how it is found, what it accepts, and what it says of whole steps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from runs import LABELS, make_config, small_config

from jaxbert.cli.main import main
from jaxbert.config import Config
from jaxbert.data.packing import Layout
from jaxbert.models.attention.select import backend_of
from jaxbert.plan import gpu
from jaxbert.plan.compile import CompiledStep, compile_step
from jaxbert.plan.gpu import GPUS, cuda_folder, gpu_devices, lacks_compiler, target_text
from jaxbert.plan.options import PlanOptions
from jaxbert.plan.planner import Planner, assumptions
from jaxbert.plan.target import parse_target
from jaxbert.plan.topology import hbm_bytes
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.programs import Program
from jaxbert.train.sharding import make_mesh

LACKS = lacks_compiler("H100 SXM")
compiler = pytest.mark.skipif(LACKS is not None, reason=f"no compiler for GPUs: {LACKS}")

ROWS, TOKENS, SLOTS = 16, 256, 4
WIDTH, WIDE, LAYERS = 128, 256, 3


def thin_program(config: Config, name: str = "H100 SXM", devices: int = 1) -> Program:
    """Few layers, heads as wide as those of BERT, and rows for which attention is fused."""
    bert_config = small_config(
        vocab_size=500,
        hidden_size=WIDTH,
        intermediate_size=WIDE,
        num_hidden_layers=LAYERS,
        max_position_embeddings=TOKENS,
    )
    mesh = make_mesh(config.mesh, gpu_devices(name, devices))
    return Program.of(config, mesh, bert_config, Classification(LABELS), 10)


def compiled(name: str = "H100 SXM", devices: int = 1, **changes: Any) -> CompiledStep:
    """Compile a thin step; `section__key` sets one key."""
    settings: dict[str, Any] = {"precision__compute": "bfloat16"} | changes
    return compile_step(thin_program(make_config(**settings), name, devices), Layout(TOKENS, (ROWS,), SLOTS))


@compiler
@pytest.mark.parametrize("name", GPUS)
def test_the_compiler_takes_every_description(name):
    """The devices have the names, compute capabilities and memory of the table, and this process still runs on the CPU."""
    known = GPUS[name]
    devices = gpu_devices(name, 8)
    assert len(devices) == 8
    assert {(d.platform, d.device_kind) for d in devices} == {("gpu", known.kind)}
    assert {d.compute_capability for d in devices} == {"{}.{}".format(*known.capability)}
    assert hbm_bytes(devices[0]) == known.memory_bytes
    assert jax.default_backend() == "cpu"


@pytest.mark.parametrize(
    ("name", "capability", "optin"),
    [
        ("H100 SXM", "{ major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }", 232448),
        ("A100 80GB SXM", "{ major: 8 minor: 0  }", 166912),
        ("L4", "{ major: 8 minor: 9  }", 101376),
        ("T4", "{ major: 7 minor: 5  }", 65536),
    ],
)
def test_a_description(name, capability, optin):
    text = target_text(GPUS[name])
    assert f"cuda_compute_capability {capability}" in text
    assert f"shared_memory_per_block_optin: {optin}\n" in text
    assert f"device_memory_size: {GPUS[name].memory_bytes}\n" in text


@pytest.fixture
def parts(monkeypatch):
    """A complete compiler, of which tests take parts away."""
    found = {"jax_plugins.xla_cuda13", "jax_cuda13_plugin"}
    versions = {"jaxlib": "1.2.3", "jax-cuda13-plugin": "1.2.3", "jax-cuda13-pjrt": "1.2.3"}
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr(gpu, "version", versions.__getitem__)
    monkeypatch.setattr(gpu, "_version", lambda name: versions.get(name, "not installed"))
    monkeypatch.setattr(gpu, "cuda_folder", lambda: Path("/cuda"))
    gpu._lacks.cache_clear()
    yield SimpleNamespace(found=found, versions=versions)
    gpu._lacks.cache_clear()


def test_a_complete_compiler(parts):
    assert lacks_compiler("H100 SXM") is None
    assert lacks_compiler("H100 PCIe") == "XLA's properties of a H100 PCIe are not in jaxbert's table"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, _: p.found.clear(), "JAX's plugin for CUDA is not installed: pip install 'jaxbert[gpu-compiler]'"),
        (lambda p, _: p.found.remove("jax_cuda13_plugin"), "JAX's plugin for CUDA is not installed"),
        (
            lambda p, _: p.versions.update({"jax-cuda13-plugin": "1.2.2"}),
            "jax-cuda13-plugin is 1.2.2, but it must be 1.2.3 as jaxlib",
        ),
        (lambda p, _: p.versions.pop("jax-cuda13-pjrt"), "jax-cuda13-pjrt is not installed, but it must be 1.2.3"),
        (lambda _, patch: patch.setattr(gpu, "cuda_folder", lambda: None), "no CUDA toolkit with ptxas and libdevice"),
    ],
)
def test_what_is_missing_is_one_line(parts, monkeypatch, change, message):
    change(parts, monkeypatch)
    said = lacks_compiler("H100 SXM")
    assert said.startswith(message)
    assert "\n" not in said


def test_cuda_is_found_where_xla_may_not_look(tmp_path, monkeypatch):
    """First where XLA's own flag says, then in NVIDIA's wheels, then where a variable says; both files must be there."""
    folders = {name: tmp_path / name for name in ("flag", "wheels/cu13", "home")}
    for folder in folders.values():
        for file in ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc"):
            (folder / file).parent.mkdir(parents=True)
            (folder / file).touch()
    monkeypatch.setenv("XLA_FLAGS", f"--xla_a=b --xla_gpu_cuda_data_dir={folders['flag']}")
    monkeypatch.setenv("CUDA_HOME", str(folders["home"]))
    wheels = SimpleNamespace(submodule_search_locations=[str(tmp_path / "wheels")])
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: wheels)
    for folder in folders.values():
        assert cuda_folder() == folder
        (folder / "bin/ptxas").unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder with a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    bert_config = small_config(
        vocab_size=500, hidden_size=WIDTH, intermediate_size=WIDE, max_position_embeddings=TOKENS
    )
    (folder / "config.json").write_text(json.dumps(bert_config.to_dict()))
    return folder


def products(rows: int, layers: int, slots: int, attention: float) -> float:
    """FLOPs of the products of a thin step: three times the forward pass, for attention `attention` times.

    Of the last layer, keys and values alone are needed everywhere, the rest, with pooler and head, at the slots.
    """
    weights, pairs = 4 * WIDTH**2 + 2 * WIDTH * WIDE, 2 * WIDTH * TOKENS
    at_slots = weights + pairs - WIDTH**2 + WIDTH * len(LABELS)
    a_row = TOKENS * ((layers - 1) * (3 * weights + attention * pairs) + 3 * 2 * WIDTH**2) + 3 * slots * at_slots
    return 2 * rows * a_row


PALLAS = (2 + 3 + 4) / 2
"""Products in the kernels of attention, where plain attention has two forward."""
CUDNN = (2 + 5) / 2


@compiler
@pytest.mark.long
def test_a_plan_tells_what_the_compiler_made(folder, capsys):
    """On two GPUs: gradients are summed, attention is a kernel whose products count, and nothing is estimated."""
    words = ("plan", f"--model.name_or_path={folder}", "--topology=h200:2", "--train.batch_size=16", "--kernels=2")
    assert main([*words, f"--lengths=fixed:{TOKENS}", f"--data.row_length={TOKENS}", "--output=-"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["device"], result["estimate"], result["fits"]) == ("H200 SXM", False, True)
    assert (result["attention"], result["precision"]) == ("pallas", "bfloat16")
    flops, memory, kernels = result["flops"], result["memory"], result["kernels"]
    assert (flops["silent_kernels"], flops["unknown_loops"]) == (0, 0)
    assert flops["compiled"] == pytest.approx(products(8, 2, result["slots"], PALLAS), rel=0.001)
    # So small a step leaves gaps between its arrays; that the two agree for larger ones, test_what_a_step_needs... says.
    assert memory["peak_bytes"] <= memory["needed_bytes"] < 1.3 * memory["peak_bytes"]
    gradients = 4 * result["parameters"]  # in float32
    assert 0.9 * gradients < result["collectives"]["result_bytes"]["all-reduce"] < 1.1 * gradients
    assert result["versions"]["jax-cuda13-plugin"] == result["versions"]["jaxlib"]
    # AdamW alone reads and writes 28 bytes a parameter.
    assert kernels["moved_bytes"] > 28 * result["parameters"]
    assert 50 < kernels["runs"] < 500
    assert result["bounds"]["memory_seconds"] == pytest.approx(kernels["moved_bytes"] / 4.8e12)
    assert result["bounds"]["lower_seconds"] < result["bounds"]["predicted_seconds"] < result["bounds"]["upper_seconds"]
    assert any("without a GPU it cannot time products" in line for line in result["assumptions"])
    assert not any("ESTIMATE" in line for line in result["assumptions"])
    assert "largest kernels by bytes" in captured.err
    assert "h200:2: fits, " in captured.err


@compiler
@pytest.mark.parametrize(("fp8", "peak"), [(True, None), (True, 900.0), (False, None)])
def test_the_peak_of_float8_is_told(fp8, peak):
    config, options = make_config(precision__fp8=fp8), PlanOptions(peak_tflops=peak)
    lines = assumptions(Planner(config, parse_target("h200:1"), options), None)
    assert any("twice that of bfloat16" in line for line in lines) == (fp8 and peak is None)


@compiler
@pytest.mark.slow
@pytest.mark.long
def test_attention_of_cudnn_needs_no_gpu_and_no_cudnn():
    changes = {"model__attention": "cudnn", "model__attention_dropout": 0.0}
    program = thin_program(make_config(**changes, precision__compute="bfloat16"))
    assert backend_of(program.call.attention, program.attention_request(TOKENS)) == "cudnn"
    step = compile_step(program, Layout(TOKENS, (ROWS,), SLOTS))
    assert {kernel.kind for kernel in step.kernels} >= {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert step.flops == pytest.approx(products(ROWS, LAYERS, SLOTS, CUDNN), rel=0.001)
    assert step.silent_kernels == 0


@compiler
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (1, {"model__remat": "dots"}),
        (1, {"model__remat": "full", "train__accumulation_steps": 4}),
        (1, {"model__scan_layers": False}),
        (1, {"precision__fp8": True}),
        (4, {"mesh__data": 1, "mesh__fsdp": 4}),
        (8, {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}),
        (4, {"mesh__data": 1, "mesh__fsdp": 4, "train__accumulation_steps": 2, "model__remat": "dots"}),
    ],
)
def test_what_a_step_needs_is_the_compilers_peak(devices, changes):
    step = compiled(devices=devices, **changes)
    assert step.needed_bytes == pytest.approx(step.peak_bytes, rel=0.05)
    assert (step.hbm_bytes, step.counted_flops) == (GPUS["H100 SXM"].memory_bytes, None)
    assert step.to_dict()["kernels"] == step.kernel_runs
    assert (step.silent_kernels, step.unknown_loops) == (0, 0)


@compiler
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "attention"), [("A100 40GB", "pallas"), ("B200", "pallas"), ("L4", "pallas"), ("T4", "xla")]
)
def test_a_step_for_every_generation(name, attention):
    program = thin_program(make_config(precision__compute="bfloat16"), name)
    assert backend_of(program.call.attention, program.attention_request(TOKENS)) == attention
    step = compile_step(program, Layout(TOKENS, (ROWS,), SLOTS))
    assert step.device == GPUS[name].kind
    assert step.flops == pytest.approx(products(ROWS, LAYERS, SLOTS, PALLAS if attention == "pallas" else 3), rel=0.001)
    assert step.needed_bytes == pytest.approx(step.peak_bytes, rel=0.05)
