"""The table of attention compiled for TPUs: its lines, and where it is written."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def test_the_table_goes_between_the_markers(tmp_path, monkeypatch, capsys):
    pytest.importorskip("libtpu")
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("tpu_attention")
    for name, value in {"ROWS": 2, "TOKENS": 128, "CHIPS": ("v5e:1x1",), "CASES": (("mosaic", 0.1),)}.items():
        monkeypatch.setattr(script, name, value)
    document = tmp_path / "doc.md"
    document.write_text(f"# Title\n\n{script.BEGIN}\nold\n{script.END}\n\nrest\n")
    assert script.main(["--document", str(document)]) == 0
    text = document.read_text()
    assert text.startswith(f"# Title\n\n{script.BEGIN}\n| chip | attention |")
    assert text.endswith(f"{script.END}\n\nrest\n")
    assert "old" not in text
    assert capsys.readouterr().out in text
    chip, name, rate, moved, peak, products = text.splitlines()[5].strip("| ").split(" | ")
    assert (chip, name, rate, products) == ("v5e", "mosaic", "0.1", f"{2 * 7 * 2 * 128**2 * 768 / 1e9:.1f}")
    assert float(moved) > 0
    assert float(peak) > 0
