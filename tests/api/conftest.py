"""One small run in Python, which most tests here look at."""

from __future__ import annotations

import pytest
from python_runs import SETTINGS, Recorder, Run, rows_of
from runs import Problem

import jaxbert


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train on a list, validate on a frame, with a callback and two metrics of our own."""
    pandas = pytest.importorskip("pandas")
    problem = Problem.write(tmp_path_factory.mktemp("api"))
    recorder, seen = Recorder(), []

    def share_of_bad(labels: list[str], predicted: list[str]) -> float:
        seen.append((labels, predicted))
        return predicted.count("bad") / len(predicted)

    def cost(labels: list[str], predicted: list[str]) -> int:
        return 3 if len(seen) == 1 else 1  # the second evaluation is the better one

    result = jaxbert.finetune(
        rows_of(100),
        problem.folder / "model",
        validation=pandas.DataFrame(rows_of(37, seed=1)),
        test={"one": rows_of(37, seed=1), "other": rows_of(37, seed=1)},
        callbacks=[recorder],
        metrics={"share_of_bad": share_of_bad, "cost": jaxbert.Metric(cost, greater_is_better=False)},
        best_metric="cost",
        output_dir=problem.folder / "python",
        **SETTINGS,
    )
    return Run(problem, result, recorder, seen)
