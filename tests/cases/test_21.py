"""The metric that chooses the best checkpoint is an error: the smallest wins, and a run goes on while it falls."""

from __future__ import annotations

import json

from runs import read_metrics, write_model

from jaxbert.tasks.pretraining.task import Pretraining


def test_the_smallest_error_wins(case, run, tmp_path):
    outcome = run(
        *("train", "--task", "regression", "--model.name_or_path", write_model(tmp_path / "model")),
        *("--data.train", case / "train.csv", "--data.validation", case / "dev.csv", "--data.label", "score"),
        *("--data.cache_dir", "null", "--optimizer.learning_rate", 1e-2, "--optimizer.warmup_ratio", 0),
        *("--train.max_steps", 3, "--train.eval_every", 1, "--train.early_stopping_patience", 1),
        *("--train.best_metric", "mse", "--train.output_dir", tmp_path / "run"),
    )
    assert outcome.code == 0
    errors = {line["step"]: line["eval_mse"] for line in read_metrics(tmp_path / "run") if "eval_mse" in line}
    assert list(errors) == [1, 2, 3]
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exported_step"] == 3
    assert summary["eval"]["mse"] == errors[3]


def test_perplexity_may_choose_the_best_checkpoint():
    assert "perplexity" in Pretraining().metric_names()
