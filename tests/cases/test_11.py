"""A container's user without a home, whose caches cannot be written: it trains and predicts, with a note at most."""

from __future__ import annotations

import os
import subprocess
import sys

import quick
from runs import ROOT, write_model

NOWHERE = "/proc/nowhere"


def test_it_trains(case, train, monkeypatch):
    monkeypatch.setenv("HOME", NOWHERE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache = f"{NOWHERE}/.cache/jaxbert/tokens"
    outcome = train("--data.train", case / "train.csv", "--data.cache_dir", cache, "--train.batch_size", 4)
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if NOWHERE in line]
    assert len(said) == 1
    assert said[0].startswith("note: ")


def test_it_predicts(case, tmp_path):
    """JAX's cache cannot be written either."""
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    environment |= quick.variables() | {"HOME": NOWHERE}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    output = tmp_path / "p.jsonl"
    options = ["--model", write_model(tmp_path / "model"), "--input", case / "train.csv", "--output", output]
    command = [sys.executable, "-m", "jaxbert", "predict", *map(str, options)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    (note,) = [line for line in ended.stderr.splitlines() if NOWHERE in line]
    assert note.startswith(f"note: compiled programs cannot be kept in {NOWHERE}/.cache/jaxbert/xla (")
    assert all(line.startswith("note: ") for line in ended.stderr.splitlines())
    assert len(output.read_text().splitlines()) == 12
