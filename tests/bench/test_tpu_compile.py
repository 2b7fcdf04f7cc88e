"""The table of steps compiled for TPU slices: its lines, and where it is written."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"
DOCUMENT = "# Title\n\n<!-- tpu-compile:begin -->\nold\n<!-- tpu-compile:end -->\n\nrest\n"
RESULT = {
    "peak_bytes": 3 * 2**29,
    "hbm_bytes": 16 * 2**30,
    "argument_bytes": 2**30,
    "temp_bytes": 2**28,
    "flops": 2.2e12,
    "formula_flops": 2e12,
    "collective_bytes": {"all-gather": 10**9, "all-reduce": 5 * 10**8},
    "compile_seconds": 12.4,
    "processor_seconds": 20.6,
}


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    pytest.importorskip("libtpu")
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("tpu_compile", SCRIPTS / "tpu_compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["tpu_compile"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_goes_between_the_markers(script, tmp_path, monkeypatch, capsys):
    results = {"base@v5e:2x4": RESULT, "large@v5e:2x4": {"error": "needs 20G | of 16G"}}
    monkeypatch.setattr(script, "run_case", lambda case: results[case.name])
    document, output = tmp_path / "doc.md", tmp_path / "out.json"
    document.write_text(DOCUMENT)
    arguments = ["--cases", ",".join(results), "--document", str(document), "--output", str(output)]
    assert script.main(arguments) == 1
    text = document.read_text()
    assert text.startswith("# Title\n\n<!-- tpu-compile:begin -->\n| model |")
    assert text.endswith("<!-- tpu-compile:end -->\n\nrest\n")
    assert "old" not in text
    lines = text.splitlines()
    assert "| 1.50 | 16 | 1.00 | 0.25 | 2.20 | 1.100 | 1.50 | 12 | 21 |" in lines[5]
    assert "UNMEASURED (needs 20G / of 16G)" in lines[6]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "libtpu 0.0.4" in text
    assert json.loads(output.read_text())["steps"] == results
    assert capsys.readouterr().out in text


@pytest.mark.parametrize("arguments", [["--cases=base@v9:1x1"], ["--document=nowhere.md"]])
def test_a_mistake_is_said_before_anything_is_compiled(script, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(arguments)
    assert stopped.value.code == 2
    assert arguments[0].split("=")[1] in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_a_line(script):
    result = script.run_case(script.Case("large", "v5e:2x4", rows=512))
    assert "does not fit" in result["error"]
