"""Several validation and test sets by name: each is measured by itself, and the mean of them decides."""

from __future__ import annotations

import contextlib
import io
import json
import re

import numpy as np
import pytest
from runs import Problem, random_rows, read_metrics, write_csv
from sklearn.metrics import accuracy_score

from jaxbert.cli.main import main
from jaxbert.runs.folder import RunFolder
from jaxbert.train.evaluate import average_metrics, numbers_of

pytestmark = pytest.mark.usefixtures("shared_programs")

OTHER = {"good": "bad", "bad": "good"}
ODD = "[/turned]"
"""A name that rich would take for markup."""
VALIDATION = {"dev": 37, ODD: 23, "few": 11}
TEST = {"en": 37, "zh": 23}
"""Sets and their rows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Add sets of other sizes, of which one has its labels turned round, and train for an epoch; `said` is the terminal."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    write_csv(problem.folder / "few.csv", random_rows(11, seed=2))
    write_csv(problem.folder / "turned.csv", ((text, OTHER[label]) for text, label in random_rows(23, seed=3)))

    def named(**files: str) -> str:
        return json.dumps({name: str(problem.folder / f"{file}.csv") for name, file in files.items()})

    changes = {
        "data__validation": named(dev="dev", **{ODD: "turned"}, few="few"),
        "data__test": named(en="dev", zh="turned"),
        "train__eval_every": 1,
        "train__epochs": 1,
        "train__best_metric": "loss",
    }
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert problem.train(**changes) == 0
    (problem.folder / "said").write_text(said.getvalue())
    return problem.folder


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "run" / "summary.json").read_text())


@pytest.fixture(scope="module")
def evaluations(folder):
    """The metrics of every evaluation by its step."""
    lines = [line for line in read_metrics(folder / "run") if "eval_loss" in line]
    prefix = "eval_"
    return {
        line["step"]: {k.removeprefix(prefix): v for k, v in line.items() if k.startswith(prefix)} for line in lines
    }


def assert_means(metrics: dict, sizes: dict[str, int]) -> None:
    """Check that all numbers are means over the sets, each set counting the same whatever its size."""
    assert {name: part["examples"] for name, part in metrics["sets"].items()} == sizes
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    for name, value in numbers.items():
        assert value == pytest.approx(np.mean([part[name] for part in metrics["sets"].values()])), name
    assert {"accuracy", "f1_macro", "loss"} <= numbers.keys()


def test_every_evaluation_has_the_sets_and_their_mean(evaluations):
    assert list(evaluations) == [1, 2, 3, 4, 5, 6, 7]
    for metrics in evaluations.values():
        assert_means(metrics, VALIDATION)


def test_the_summary_has_the_sets_and_their_mean(summary):
    assert_means(summary["eval"], VALIDATION)
    assert_means(summary["test"], TEST)
    assert {"per_class", "confusion_matrix"} <= summary["test"]["sets"]["zh"].keys()


def test_the_mean_chooses_the_best(summary, evaluations):
    best = min(evaluations, key=lambda step: evaluations[step]["loss"])
    assert summary["exported_step"] == best
    assert numbers_of(summary["eval"]) == evaluations[best]  # the details of each label are in the summary alone
    assert {"per_class", "confusion_matrix"} <= summary["eval"]["sets"]["dev"].keys()


def test_a_set_is_measured_as_if_it_were_alone(folder, summary, tmp_path):
    """By another command, on its predictions."""
    turned, answers = folder / "turned.csv", tmp_path / "answers.jsonl"
    assert main(["predict", f"--model={folder / 'run' / 'export'}", f"--input={turned}", f"--output={answers}"]) == 0
    predicted = [json.loads(line)["label"] for line in answers.read_text().splitlines()]
    true = [line.rsplit(",", 1)[1] for line in turned.read_text().splitlines()[1:]]
    assert summary["test"]["sets"]["zh"]["accuracy"] == pytest.approx(accuracy_score(true, predicted))


def test_the_terminal_shows_a_line_a_set(folder, summary):
    said = (folder / "said").read_text()
    for part, title in (("eval", "validation"), ("test", "test")):
        assert re.search(rf"{title} set .*accuracy .*examples", said)
        for name, metrics in summary[part]["sets"].items():
            assert re.search(rf"{re.escape(name)} .*{metrics['accuracy']:.4f}.* {metrics['examples']} ", said), name
        assert re.search(rf"{title}, mean .*accuracy {summary[part]['accuracy']:.4f}", said)


def test_a_mean_that_a_set_lacks_is_that_over_all_its_labels():
    metrics = average_metrics({"en": {"f1_macro": 0.5}, "zh": {"f1_macro": 0.25, "f1_macro_present": 1.0}})
    assert metrics["f1_macro_present"] == 0.75
    assert metrics["f1_macro"] == 0.375


def test_pairs_of_confused_labels_lie_beside_the_summary(tmp_path):
    pairs = {"en": [["a", "b", 1]], "zh": [["b", "b", 2]]}
    sets = {name: {"loss": 0.5, "confusion": part} for name, part in pairs.items()}
    run = RunFolder(tmp_path)
    run.write_summary({"steps": 1, "eval": {"loss": 0.5, "sets": sets}, "test": {"confusion": pairs["en"]}})
    assert json.loads(run.confusion.read_text()) == {"eval": pairs, "test": pairs["en"]}
    summary = json.loads(run.summary.read_text())
    assert [part["confusion"] for part in summary["eval"]["sets"].values()] == ["confusion.json"] * 2
    assert summary["test"] == {"confusion": "confusion.json"}


def test_one_named_set_is_like_one_without_a_name():
    assert average_metrics({"en": {"accuracy": 0.5, "examples": 3}}) == {"accuracy": 0.5, "examples": 3}
