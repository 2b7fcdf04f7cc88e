"""Every task in several processes gives what it gives in one: the course, the scores and the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import Cluster, losses
from runs import Problem, random_rows, write_csv
from token_tasks import write_problem

pytestmark = pytest.mark.slow

CLUSTERS = {"one": Cluster(1, 1), "two": Cluster(2, 2)}


def write_texts(folder: Path, change: Callable[[str, str], tuple[str, str]], **settings: Any) -> dict[str, Any]:
    """Write texts with what a task learns of them; return its settings."""
    folder.mkdir()
    parts = {"train": 60, "dev": 23}
    train, dev = (
        write_csv(folder / f"{name}.csv", [change(*row) for row in random_rows(count, seed=count)])
        for name, count in parts.items()
    )
    return {"data.train": train, "data.validation": dev} | {k.replace("__", "."): v for k, v in settings.items()}


def write_tokens(folder: Path, task: str) -> dict[str, Any]:
    folder.mkdir()
    return write_problem(folder, task, count=60)


def both(text: str, label: str) -> tuple[str, str]:
    return text, "bad,good" if "w1" in text else label


def score(text: str, label: str) -> tuple[str, str]:
    return text, str(len(text) / 10 + (label == "good"))


def long(text: str, label: str) -> tuple[str, str]:
    return f"{text} {text} {text}", label


def settings_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the data of every task; return what is set for each."""
    windows = {"data__long_texts": "windows", "data__max_length": 12, "data__window_stride": 3}
    return {
        "multi_label": write_texts(folder / "multi", both, task="multi_label"),
        "regression": write_texts(folder / "scores", score, task="regression"),
        "documents": write_texts(folder / "long", long, **windows),
        "token_classification": write_tokens(folder / "tags", "token_classification"),
        "question_answering": write_tokens(folder / "answers", "question_answering"),
    }


def commands(problem: Problem, run: Path, settings: dict[str, Any]) -> list[list[str]]:
    """Train, evaluate and predict."""
    keys = problem.options(model__dropout=0.0, train__output_dir=run) | {"data.cache_dir": run.parent / "cache"}
    data = str(settings["data.validation"])
    return [
        ["train", *(f"--{name}={value}" for name, value in (keys | settings).items())],
        ["evaluate", f"--model={run}", f"--data={data}", f"--output={run / 'scores.json'}"],
        ["predict", f"--model={run}", f"--input={data}", f"--output={run / 'answers.jsonl'}"],
    ]


GROUPS = [
    pytest.param(("documents",), id="documents", marks=pytest.mark.long),
    pytest.param(
        ("multi_label", "regression", "token_classification", "question_answering"), id="others", marks=pytest.mark.long
    ),
]


@pytest.fixture(scope="module", params=GROUPS)
def runs(request, tmp_path_factory):
    """The folder with the runs of some tasks in both clusters, as `CLUSTER/TASK`, and the tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    problem, settings = Problem.write(folder), settings_of(folder)
    settings = {task: settings[task] for task in request.param}
    for name, cluster in CLUSTERS.items():
        cluster.run(
            *(line for task, set_ in settings.items() for line in commands(problem, folder / name / task, set_))
        )
    return folder, request.param


def assert_close(found: Any, expected: Any) -> None:
    """Compare the numbers of nested values within rounding, and the rest exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-5) if isinstance(expected, float) else expected)


def test_two_processes_do_as_one(runs):
    folder, tasks = runs
    for task in tasks:
        compare(folder, task)


def compare(folder: Path, task: str) -> None:
    """Compare course, scores and answers of a task in both clusters."""
    one, two = (folder / name / task for name in CLUSTERS)
    assert len(losses(one)) > 5
    np.testing.assert_allclose([x for _, x in losses(two)], [x for _, x in losses(one)], rtol=1e-5)
    for name in ("summary.json", "scores.json"):
        found, expected = (json.loads((run / name).read_text()) for run in (two, one))
        if name == "summary.json":
            found, expected = found["eval"], expected["eval"]
        assert_close(found, expected)
    answers, wanted = (
        [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()] for run in (two, one)
    )
    assert len(wanted) == 23
    assert_close(answers, wanted)
