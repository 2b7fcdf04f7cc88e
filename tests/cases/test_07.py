"""A catalogue of many labels: what is written and kept grows with them, not with their square."""

from __future__ import annotations

import json
import runpy
import sys
import tracemalloc

import numpy as np
from runs import read_metrics, write_model

from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.plain import to_json
from jaxbert.runs.checkpoint import Checkpoints
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.evaluate import numbers_of

LABELS = 100
"""Of the runs; the metrics alone are looked at with more."""
LINE = 2_000
"""Bytes of a line of metrics, and most of what an evaluation adds to a checkpoint."""
PER_LABEL = 150
"""Bytes of a summary."""


def test_files_and_tables(case, run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make.py", str(LABELS), str(tmp_path / "train.csv")])
    runpy.run_path(str(case / "make.py"))
    rows = (tmp_path / "train.csv").read_text().splitlines()
    dev = tmp_path / "dev.csv"
    dev.write_text("\n".join([rows[0], *rows[-60:]]) + "\n")
    trained = run(
        *("train", "--model.name_or_path", write_model(tmp_path / "model"), "--data.train", tmp_path / "train.csv"),
        *("--data.validation", dev, "--data.test", dev, "--data.cache_dir", "null", "--train.max_steps", 1),
        *("--train.output_dir", tmp_path / "run"),
    )
    assert trained.code == 0
    assert "labels: sku00000, sku00001, sku00002, sku00003, sku00004, ... (100)" in trained.err
    assert max(len(json.dumps(line)) for line in read_metrics(tmp_path / "run")) < LINE
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert len(json.dumps(checkpoints.progress(1))) < LINE

    text = (tmp_path / "run" / "summary.json").read_text()
    summary, confused = json.loads(text), json.loads((tmp_path / "run" / "confusion.json").read_text())
    # What does not grow with the labels is left out: the coverage at some scores, the overview of the data.
    growing = {part: summary[part] for part in ("eval", "test")}
    assert len(json.dumps(growing, indent=2)) < 2 * PER_LABEL * LABELS
    assert len(text) < 2 * PER_LABEL * LABELS + 4_000
    for part in ("eval", "test"):
        assert len(summary[part]["per_class"]) == LABELS
        assert summary[part]["confusion"] == "confusion.json"
        assert sum(count for _, _, count in confused[part]) == 60
        assert summary[part]["macro_over"].startswith("all 100 labels; ")

    output = tmp_path / "metrics.json"
    evaluated = run("evaluate", "--model", tmp_path / "run", "--data", dev, "--output", output)
    assert evaluated.code == 0
    metrics = json.loads(output.read_text())
    assert metrics["confusion"] == confused["eval"]
    table = [line for line in evaluated.err.splitlines() if "sku" in line]
    worst = sorted(metrics["per_class"].items(), key=lambda item: (item[1]["f1"], -item[1]["support"]))[:20]
    assert [line.split()[1] for line in table] == [name for name, _ in worst]
    assert f"these are the 20 labels with the lowest F1, of 100; all are in {output}" in evaluated.err


def test_metrics_grow_with_the_labels():
    count, names = 50, tuple(f"sku{i:05d}" for i in range(3000))
    nothing = np.zeros(count, np.int32)
    labels = np.random.default_rng(0).integers(0, len(names), count).astype(np.int32)
    examples = Examples(Tokens.from_lengths(nothing[:0], nothing, nothing), labels)
    predictions = np.random.default_rng(1).normal(size=(count, len(names))).astype(np.float32)
    task = Classification(names)
    tracemalloc.start()
    assert "accuracy" in task.metric_names()
    metrics = task.metrics(predictions, examples)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1000 * len(names)  # a square of bytes has three times as many
    assert len(to_json(metrics)) < PER_LABEL * len(names)
    assert len(json.dumps(numbers_of(metrics))) < LINE
