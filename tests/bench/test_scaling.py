"""Predicted scaling: which points are compiled, what the tables say of made-up ones, and where they are written."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"
DOCUMENT = "# Title\n\n<!-- scaling:begin -->\nold\n<!-- scaling:end -->\n\nrest\n"


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    pytest.importorskip("libtpu")
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("scaling", SCRIPTS / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["scaling"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up(point: Any, chips: int) -> dict[str, Any]:
    """A step takes a millisecond a row of a chip, and one more on 256 chips."""
    seconds = 1e-3 * (point.rows + (chips == 256))
    return {
        "model": point.series.model,
        "chip": point.series.chip,
        "slice": point.slice,
        "chips": chips,
        "fsdp": point.series.fsdp,
        "rows": point.rows,
        "kinds": list(point.kinds),
        "tokens": 512 * point.rows * chips,
        "state_bytes_of_all": 1_310_000_000,
        "peak_bytes": 3 * 2**29,
        "hbm_bytes": 16 * 2**30,
        "compile_seconds": 45.0,
        "lower_seconds": seconds,
        "upper_seconds": 2 * seconds,
        **dict.fromkeys(("compute_seconds", "memory_seconds", "interconnect_seconds"), 0.001),
        "slow_interconnect_seconds": 0.003,
    }


def test_weak_scaling_keeps_the_rows_of_a_chip_and_strong_those_of_a_step(script):
    series = script.Series("base", "v5p", ("4x4x4", "8x8x8", "16x16x16"), rows=64)
    found = [(point.slice, point.rows, point.kinds) for point in script.points_of(series)]
    assert found == [
        ("4x4x4", 64, ("weak", "strong")),
        ("8x8x8", 8, ("strong",)),
        ("16x16x16", 64, ("weak",)),
        ("16x16x16", 1, ("strong",)),
    ]
    names = [point.name for series in script.SERIES for point in script.points_of(series)]
    assert len(set(names)) == len(names)


def test_the_tables_go_between_the_markers_and_points_are_kept(script, tmp_path, monkeypatch, capsys):
    compiled = []

    def run_point(point: Any) -> dict[str, Any]:
        compiled.append(point.name)
        return made_up(point, script.chips_of(point.slice))

    monkeypatch.setattr(script, "run_point", run_point)
    document, results = tmp_path / "doc.md", tmp_path / "scaling.json"
    document.write_text(DOCUMENT)
    arguments = ["--series", "base@v5e", "--document", str(document), "--results", str(results)]
    assert script.main(arguments) == 0
    text = document.read_text()
    assert text.startswith("# Title\n\n<!-- scaling:begin -->\n![PREDICTED")
    assert text.endswith("<!-- scaling:end -->\n\nrest\n")
    assert "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("| BERT-base")]
    assert len(lines) == 2 + 2 + 1
    # 32 rows on 16 chips; then on 256, one millisecond more than 32 and than 2.
    assert (
        "| v5e:4x4 | 16 | weak | 32 | 1.5 of 16 | 1.0 | 1.0 | 1.00-3.00 | 32.0-64.0 | 4.10-8.19 | 100%-100% |"
        in lines[0]
    )
    assert "| 33.0-66.0 | 63.55-127.10 | 97%-97% |" in lines[1]
    assert "| v5e:16x16 | 256 | strong | 2 |" in lines[3]
    assert "| 67%-67% |" in lines[3]
    # 127.1 million tokens a second are 10.3 million rows of 12.3 tokens, at 34.8 and 1.1 processor seconds a million.
    assert "| 127.1 | 360 | 11 | 0.51 | 7.9 | 1.31 | 3.2 |" in lines[4]
    assert "libtpu 0.0.4" in text
    assert "- not compiled yet: base@v6e:4x4 64 rows, base@v6e:16x16 64 rows, " in text
    assert (tmp_path / "images" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out in text
    assert len(compiled) == 3
    assert script.main(arguments) == 0
    assert len(compiled) == 3, "what the results have is not compiled again"
    assert list(json.loads(results.read_text())["points"]) == compiled


def test_a_point_that_does_not_fit_is_said(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "run_point", lambda point: {"error": "needs 20G of 16G"})
    assert script.main(["--series", "base@v5e", "--results", str(tmp_path / "scaling.json")]) == 1
    assert "- base@v5e:4x4 32 rows: needs 20G of 16G" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--series=base@v9"], ["--document=nowhere.md"]])
def test_a_mistake_is_said_before_anything_is_compiled(script, arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main([*arguments, "--results", str(tmp_path / "scaling.json")])
    assert stopped.value.code == 2
    assert arguments[0].split("=")[1] in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.long
def test_a_point_is_compiled_and_bounded(script):
    series = script.Series("tiny", "v5e", ("2x2",), rows=2, fsdp=2)
    result = script.run_point(script.points_of(series)[0])
    assert (result["chips"], result["tokens"]) == (4, 4 * 2 * 512)
    assert 0 < result["lower_seconds"] < result["upper_seconds"]
    assert result["state_bytes"] < result["state_bytes_of_all"]
    assert result["sent_bytes"] > 0
