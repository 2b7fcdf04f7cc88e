"""Tables, blocks and charts of comparisons: what is measured, what is not, and documents that stay in step with results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
import gpu
import modes
import table

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run_of(rate: float | None, **more: object) -> dict:
    return {"examples_per_second": rate, "device": "cpu", "load_before": 0.1} | more


def content_of(**runs: list[dict]) -> dict:
    named = {mode.replace("_", "-"): results for mode, results in runs.items()}
    return {"name": "some", "rate": "examples_per_second", "about": {"date": "today"}, "runs": named}


def lines_of(content: dict) -> list[str]:
    return table.markdown(content["runs"], content["about"]).splitlines()


def test_rates_are_medians_and_jaxbert_of_each_precision_is_compared():
    runs = {
        "jaxbert-float32": [run_of(30.0), run_of(10.0), run_of(20.0)],
        "jaxbert-float32-padded": [run_of(1.0)],
        "jaxbert-bfloat16": [run_of(40.0)],
        "peer-max-float32": [run_of(5.0)],
    }
    rows = table.summarize(runs)
    ours = rows["jaxbert-float32"]
    assert (ours["median"], ours["least"], ours["most"], ours["runs"]) == (20.0, 10.0, 30.0, 3)
    assert rows["peer-max-float32"]["ratios"] == {"jaxbert-float32": 4.0, "jaxbert-bfloat16": 8.0}
    assert rows["jaxbert-float32-padded"]["ratios"]["jaxbert-float32"] == 20.0


def test_what_was_not_run_or_failed_is_unmeasured():
    content = content_of(
        jaxbert_float32=[run_of(30.0, real_tokens_per_second=12_345.6), {"error": "boom"}],
        jaxbert_bfloat16=[],
        peer_max_float32=[{"error": "no | <memory>"}],
        legacy_float32=[run_of(None)],
        varlen_float32=[run_of(60.0)],
    )
    lines = lines_of(content)
    assert lines[2] == "| jaxbert, float32 | 30.0 | 30.0-30.0 | 12,346 | 1.00 | UNMEASURED | 1 (1 failed) |"
    assert lines[3] == "| jaxbert, bfloat16 | UNMEASURED |  |  |  |  |  |"
    assert lines[4].startswith("| Trainer, padded, float32 | UNMEASURED (no / (memory)) |")
    assert lines[5].startswith("| legacy Flax class, padded, float32 | UNMEASURED (too few steps to time) |")
    assert lines[6] == "| PyTorch, unpadded, float32 | 60.0 | 60.0-60.0 |  | 0.50 | UNMEASURED | 1 |"
    assert {line.count("|") for line in lines[:7]} == {8}
    assert lines[-1] == "- date: today"


def test_accuracy_has_a_column_where_it_was_measured():
    runs = {"jaxbert-float32": [run_of(1.0, accuracy={"validation": v, "test": None}) for v in (0.0, 0.7, 0.8)]}
    assert "| 0.7000 |" in table.markdown(runs, {})
    assert "accuracy" not in table.markdown({"jaxbert-float32": [run_of(1.0)]}, {})


def test_versions_are_told_apart_by_tool():
    runs = {
        "jaxbert-float32": [run_of(1.0, jax_version="0.1")],
        "legacy-float32": [run_of(1.0, versions={"transformers": "4", "jax": "0.2", "python": "3"})],
        "peer-max-float32": [{"error": "boom"}],
    }
    assert table.versions_of(runs) == "jaxbert: jax 0.1; legacy Flax class: jax 0.2, transformers 4"


def test_a_block_is_replaced_and_nothing_else():
    page = "head\n<!-- compare:a:begin -->\nold\n<!-- compare:a:end -->\n\n<!-- compare:b:begin --><!-- compare:b:end -->\n"
    once = table.replace_block(page, "a", "new \\1\n")
    assert once == page.replace("old", "new \\1")
    assert table.replace_block(once, "a", "new \\1\n") == once
    grown = table.replace_block("text\n", "c", "x")
    assert grown == "text\n\n<!-- compare:c:begin -->\nx\n<!-- compare:c:end -->\n"
    assert table.replace_block(grown, "c", "x") == grown


@pytest.mark.parametrize(
    "page", ["<!-- compare:a:begin -->", "<!-- compare:a:end -->", "<!-- compare:a:begin --><!-- compare:a:end -->" * 2]
)
def test_marks_that_are_no_pair_are_refused(page):
    with pytest.raises(SystemExit, match="do not come in one pair"):
        table.replace_block(page, "a", "x")


def test_results_block_and_chart_are_written_and_written_again(tmp_path):
    (tmp_path / "benchmarks.md").write_text("head\n\n<!-- compare:some:begin -->\n<!-- compare:some:end -->\n\ntail\n")
    content = content_of(jaxbert_float32=[run_of(30.0), run_of(33.0)], peer_max_float32=[{"error": "boom"}])
    table.write_docs(content, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("head\n\n<!-- compare:some:begin -->\n![")
    assert "images/compare-some.png" in page
    assert page.endswith("<!-- compare:some:end -->\n\ntail\n")
    assert (tmp_path / "images" / "compare-some.png").read_bytes().startswith(b"\x89PNG")
    table.write_docs(json.loads((tmp_path / "results" / "some.json").read_text()), tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == page


@pytest.mark.parametrize(
    "path",
    sorted({*(DOCS / "results").glob("*.json")} - {DOCS / "results" / "scaling.json"}),
    ids=lambda path: path.stem,
)
def test_the_documented_tables_are_those_of_their_results(path):
    content = json.loads(path.read_text("utf-8"))
    page = (DOCS / "benchmarks.md").read_text("utf-8")
    block = gpu.block_of(content) if path.stem == "gpu" else table.block_of(content)
    assert table.replace_block(page, path.stem, block) == page
    assert (DOCS / "images" / f"compare-{path.stem}.png").is_file()


def tokens(rate: float) -> list[dict]:
    return [run_of(1.0, real_tokens_per_second=rate)]


def test_the_verdict_names_the_strongest_peers():
    runs = {
        "jaxbert-bfloat16": tokens(390.0),
        "jaxbert-bfloat16-cudnn": tokens(400.0),
        "varlen-bfloat16": tokens(200.0),
        "varlen-bfloat16-compile-nodrop": tokens(250.0),
        "peer-max-bfloat16": tokens(50.0),
        "peer-flat-bfloat16": tokens(150.0),
    }
    lines = gpu.verdict({"runs": runs, "target": 500.0, "floor": 300.0})
    assert lines[0] == "target: 500.0 real tokens/s (floor 300.0); jaxbert's best: 400, 80% of the target"
    assert lines[1] == "strongest peer: PyTorch, unpadded, bfloat16; jaxbert's best is 2.00 times as fast (target 1.3)"
    assert "no attention dropout; jaxbert's best is 1.60 times" in lines[2]
    runs["jaxbert-bfloat16-cudnn-nodrop"] = tokens(500.0)  # not comparable with peers that have dropout
    more = gpu.verdict({"runs": runs, "target": 500.0, "floor": 300.0})
    assert more[:2] == lines[:2]
    assert "no attention dropout; jaxbert's best is 2.00 times" in more[2]
    lines = gpu.verdict({"runs": {"jaxbert-bfloat16": [], "peer-max-bfloat16": []}, "target": 500, "floor": 300})
    assert lines == [
        "target: 500 real tokens/s (floor 300); jaxbert's best: UNMEASURED",
        "strongest peer: UNMEASURED (target: jaxbert 1.3 times as fast)",
    ]


def test_every_part_of_the_gpu_run_is_a_mode_and_the_headlines_come_first():
    listed = list(gpu.parts(gpu.SCENARIOS))
    assert [name for name, _, _ in listed[:8]] == ["base-128"] * 4 + ["large-128"] * 4
    assert listed[:8] == list(gpu.parts(gpu.SCENARIOS, 1))
    assert {mode for _, mode, _ in listed[:8]} == {*gpu.OURS, *gpu.STRONGEST}
    assert len(set(listed)) == len(listed)
    for _, mode, _ in listed:
        modes.split_mode(mode)
    for scenario in gpu.SCENARIOS.values():
        assert scenario.tokens >= 32_000 or scenario.batch_size == 32
