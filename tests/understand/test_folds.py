"""Folds: each row is predicted by the model that did not see it; all trainings share programs; a stop changes no bit."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath
from runs import FILLERS, TELLING, CrashError, Problem, random_rows, read_metrics, weights, write_csv

import jaxbert
from jaxbert.cli.main import main
from jaxbert.config import Config
from jaxbert.runs.out_of_fold import read_out_of_fold
from jaxbert.train import evaluate
from jaxbert.train.trainer import Trainer
from jaxbert.understand.folds import summarize

FOLDS = 3
KEYS = {"train__folds": FOLDS, "train__epochs": 1, "train__checkpoint_every": 2}


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module")
def run(problem) -> Path:
    """A run in three folds of 100 rows, with a test set and a last model."""
    changes = KEYS | {"data__test": problem.folder / "dev.csv", "train__output_dir": problem.folder / "folds"}
    assert problem.train(**changes) == 0
    return problem.folder / "folds"


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def found_in(folder: Path):
    return read_out_of_fold(epath.Path(folder))


def test_each_row_is_predicted_by_the_model_that_did_not_see_it(run):
    """The model of a fold gives its rows the probabilities of the file, and other rows others."""
    found, rows = found_in(run), list(random_rows(100))
    assert found.rows.tolist() == list(range(100))
    assert found.written_labels() == [label for _, label in rows]
    assert sorted(np.bincount(found.folds)) == [33, 33, 34]
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    for fold in range(FOLDS):
        answers = jaxbert.load(run / "folds" / str(fold) / "export").predict([text for text, _ in rows])
        given = np.array([[answer["probabilities"][name] for name in found.names] for answer in answers])
        same = np.isclose(given, found.probabilities, atol=2e-6).all(1)
        assert same[found.folds == fold].all()
        assert not same[found.folds != fold].any()


def test_the_summary_has_mean_and_deviation_of_every_metric(run):
    summary = summary_of(run)
    folds, found = summary["folds"], found_in(run)
    each = [summary_of(run / "folds" / str(fold))["test"] for fold in range(FOLDS)]
    assert {"accuracy", "f1_macro", "loss", "mcc"} <= folds["mean"].keys() == folds["std"].keys()
    for name in folds["mean"]:
        values = [metrics[name] for metrics in each]
        assert folds["mean"][name] == pytest.approx(np.mean(values))
        assert folds["std"][name] == pytest.approx(np.std(values, ddof=1))
    right = found.probabilities.argmax(1) == found.labels
    assert folds["out_of_fold"]["accuracy"] == pytest.approx(right.mean())
    assert [metrics["accuracy"] for metrics in folds["each"]] == [
        pytest.approx(right[found.folds == fold].mean()) for fold in range(FOLDS)
    ]
    assert folds["rows"] == np.bincount(found.folds).tolist()
    assert summary["eval"] == {}
    assert summary["test"]["examples"] == 37
    assert summary["steps"] == 7  # of the last model, which learns from all rows


def test_a_metric_that_some_folds_leave_out_has_the_value_of_the_one_that_it_equals():
    """A rare label is missing in some folds: only these have `f1_macro_present`; in the others it is `f1_macro`."""
    each = [{"accuracy": 0.5, "f1_macro": 0.25, "f1_macro_present": 0.75}, {"accuracy": 1.0, "f1_macro": 0.5}]
    for metrics in (each, each[::-1]):
        measured = [
            SimpleNamespace(metrics=one, part=SimpleNamespace(held_out=[0]), summary={"steps": 1, "seconds": 1.0})
            for one in metrics
        ]
        folds = summarize(measured, SimpleNamespace(metrics={}))
        assert folds["mean"] == {"accuracy": 0.75, "f1_macro": 0.375, "f1_macro_present": 0.625}
        assert folds["std"]["f1_macro_present"] == pytest.approx(0.125 * 2**0.5)


def test_complete_folds_leave_no_checkpoints(run):
    assert not list((run / "folds").glob("*/checkpoints"))
    assert (run / "checkpoints" / "7").is_dir()


def test_a_crash_in_a_fold_changes_no_bit(problem, run, monkeypatch):
    """A complete fold is not trained again, a begun one goes on from its checkpoint."""
    folder = problem.folder / "crashed"
    changes = KEYS | {"data__test": problem.folder / "dev.csv", "train__output_dir": folder}
    dispatch, dispatched, crashes = Trainer._dispatch, [], [("1", 3), ("crashed", 5)]

    def failing(self, *args):
        name = self.run.folder.path.name
        dispatched.append(name)
        if crashes and (name, self._dispatched) == crashes[0]:
            crashes.pop(0)
            raise CrashError
        dispatch(self, *args)

    monkeypatch.setattr(Trainer, "_dispatch", failing)
    for _ in range(2):
        with pytest.raises(CrashError):
            problem.train(**changes)
    dispatched.clear()
    assert problem.train(**changes) == 0
    assert set(dispatched) == {"crashed"}
    assert len(dispatched) == 7 - 4
    assert weights(folder) == weights(run)
    for fold in range(FOLDS):
        assert weights(folder / "folds" / str(fold)) == weights(run / "folds" / str(fold))
    assert (folder / "out_of_fold.parquet").read_bytes() == (run / "out_of_fold.parquet").read_bytes()
    numbers = [
        {key: summary_of(f)["folds"][key] for key in ("mean", "std", "out_of_fold", "each")} for f in (folder, run)
    ]
    assert numbers[0] == numbers[1]


def compiled(problem: Problem, name: str, **changes: object) -> tuple[int, int]:
    """Return how many programs a run compiled in all, and how many of them are steps of training and prediction."""
    jax.clear_caches()  # else small programs that another run compiled would not count
    assert problem.train(train__epochs=1, train__output_dir=problem.folder / name, **changes) == 0
    summary = summary_of(problem.folder / name)
    return summary["compilations"], summary["step_programs"]


def test_folds_compile_no_more_programs_than_one_run(problem):
    """Neither their number, nor sizes that differ by one, nor the longer last run add any."""
    one = compiled(problem, "one", data__validation_fraction=0.2)
    five = compiled(problem, "five", train__folds=5)
    assert five[0] <= one[0]
    assert five[1] <= one[1]
    rates = [line["learning_rate"] for line in read_metrics(problem.folder / "five")]
    assert rates[0] == 0.0
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-3 / 6, rel=1e-5)  # the last of 7 steps, of which one is warmup


def test_a_model_that_memorises_does_not_know_the_rows_it_has_not_seen(problem):
    """Every row has a word of its own and a label by chance: only who has seen a row can know it."""
    labels = random.Random(3).choices(("bad", "good"), k=len(FILLERS))
    rows = [(f"{word} {word} {word}", label) for word, label in zip(FILLERS, labels, strict=True)]
    data = write_csv(problem.folder / "chance.csv", rows)
    folder = problem.folder / "memory"
    long = {"train__epochs": 25, "train__folds": 2, "train__checkpoint_every": 1000, "train__log_every": 1000}
    long |= {"model__dropout": 0.0, "optimizer__learning_rate": 5e-3}
    assert problem.train(data__train=data, data__test=data, train__output_dir=folder, **long) == 0
    summary = summary_of(folder)
    assert summary["test"]["accuracy"] == 1.0
    assert 0.25 < summary["folds"]["out_of_fold"]["accuracy"] < 0.75


def test_an_ensemble_is_one_model_whose_probabilities_are_the_mean(problem, run, tmp_path, capsys):
    """The models are those of the run with a last model; the ensemble answers and is measured as one."""
    folder = problem.folder / "ensemble"
    changes = KEYS | {
        "data__test": problem.folder / "dev.csv",
        "train__output_dir": folder,
        "train__folds_final": False,
    }
    assert problem.train(**changes) == 0
    capsys.readouterr()
    texts = [text for text, _ in random_rows(37, seed=1)]
    model, parts = jaxbert.load(folder), [jaxbert.load(run / "folds" / str(fold) / "export") for fold in range(FOLDS)]
    given = [[answer["probabilities"]["good"] for answer in m.predict(texts)] for m in (model, *parts)]
    np.testing.assert_allclose(given[0], np.mean(given[1:], axis=0), atol=2e-6)
    assert np.std(given[1:], axis=0).min() > 1e-4  # they are three different models
    summary = summary_of(folder)
    rows = [{"text": text, "label": label} for text, label in random_rows(37, seed=1)]
    found, expected = model.evaluate(rows), summary["test"]
    assert found["accuracy"] == expected["accuracy"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert summary["folds"]["mean"] == summary_of(run)["folds"]["mean"]
    assert main(["export", f"--run={folder}", "--output", str(tmp_path / "one")]) == 2
    assert "is an ensemble of 3 models, and this command needs one model" in capsys.readouterr().err
    with pytest.raises(jaxbert.UserError, match="is an ensemble"):
        model.export(tmp_path / "one")
    dev = problem.folder / "dev.csv"
    for verb in (
        ["calibrate", "--data"],
        ["calibrate", "--output", str(tmp_path / "new"), "--data"],
        ["explain", "--input"],
    ):
        assert main([*verb, str(dev), "--model", str(folder)]) == 2
        assert "is an ensemble of 3 models" in capsys.readouterr().err
    assert not (folder / "export").exists()
    for ask in (lambda: model.calibrate(rows), lambda: model.explain(texts[:1], neighbours=1)):
        with pytest.raises(jaxbert.UserError, match="is an ensemble"):
            ask()
    assert main(["export", f"--run={run}", "--step=last", "--output", str(tmp_path / "last")]) == 0


def test_an_ensemble_decides_by_its_own_probabilities(problem, capsys):
    """Not by the threshold of one of its models: two labels of chance give each model another one."""
    labels = random.Random(3).choices(("bad", "good"), k=40)
    held_out = [(text, label) for (text, _), label in zip(random_rows(40, seed=7), labels, strict=True)]
    dev, folder = write_csv(problem.folder / "chosen.csv", held_out), problem.folder / "decided"
    choice = {"train__threshold": "f_beta=1", "train__positive_label": "good", "train__calibration": "temperature"}
    changes = KEYS | choice | {"data__validation": dev, "data__test": dev, "train__folds_final": False}
    assert problem.train(**changes, train__output_dir=folder) == 0
    summary, model = summary_of(folder), jaxbert.load(folder, coverage=0.8)
    of_one = [summary_of(folder / "folds" / str(fold))["threshold"]["threshold"] for fold in range(FOLDS)]
    threshold = summary["threshold"]["threshold"]
    assert threshold not in of_one
    assert "calibration" not in summary
    answers = model.predict([text for text, _ in held_out])
    assert [a["label"] == "good" for a in answers] == [a["probabilities"]["good"] >= threshold for a in answers]
    right = np.mean([a["label"] == label for a, (_, label) in zip(answers, held_out, strict=True)])
    assert summary["eval"]["accuracy"] == summary["test"]["accuracy"] == pytest.approx(right)
    own = sorted(a["probabilities"][label] for a, (_, label) in zip(answers, held_out, strict=True))
    assert sum(label in a["label_set"] for a, (_, label) in zip(answers, held_out, strict=True)) == 40 - 7, own
    assert main(["calibrate", "--model", str(folder), "--data", str(dev), "--output", str(folder / "new")]) == 2
    assert "is an ensemble of 3 models, and this command needs one model" in capsys.readouterr().err
    with pytest.raises(jaxbert.UserError, match="is an ensemble"):
        model.calibrate(dev)


def test_more_predictions_than_are_kept_are_refused_before_the_first_step(problem, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "_MOST_VALUES", 66)
    changes = KEYS | {"train__output_dir": problem.folder / "many"}
    assert problem.train(**changes) == 2
    assert "train.folds is 3: the 34 rows of a fold have more than 66 predictions" in capsys.readouterr().err
    assert not (problem.folder / "many" / "config.yaml").exists()
    assert problem.train(**changes | {"train__folds": 4, "train__max_steps": 1}) == 0


def write_choices(path: Path, count: int) -> Path:
    """Write questions of two or three choices, two questions to a context."""
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["context", "question", "a", "b", "c", "label"])
        for number in range(count):
            choices = [rng.choice(TELLING["bad"]) for _ in range(2 - number % 2)]
            place = number % (len(choices) + 1)
            choices.insert(place, rng.choice(TELLING["good"]))
            context = f"{FILLERS[number // 2]} {FILLERS[-1 - number // 2]}"
            writer.writerow([context, FILLERS[number], *choices, *[""] * (3 - len(choices)), place])
    return path


@pytest.fixture(scope="module")
def tasks(problem) -> dict[str, dict]:
    """The settings of a small problem for each other task."""
    folder, rows = problem.folder, list(random_rows(24))
    listed = [(text, "bad,good" if number % 3 == 0 else label) for number, (text, label) in enumerate(rows)]
    scores = [(text, f"{len(text) / 10 + (label == 'good'):.2f}") for text, label in rows]
    return {
        "multi_label": {"data__train": write_csv(folder / "listed.csv", listed)},
        "regression": {"data__train": write_csv(folder / "scores.csv", scores)},
        "multiple_choice": {
            "data__train": write_choices(folder / "choices.csv", 24),
            "data__choices": ["a", "b", "c"],
            "data__label": "label",
        },
        "windows": {
            "data__train": write_csv(folder / "long.csv", [(f"{t} {t}", label) for t, label in rows]),
            "data__long_texts": "windows",
            "data__max_length": 8,
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "final"),
    [("multi_label", True), *((task, False) for task in ("multi_label", "regression", "multiple_choice", "windows"))],
)
def test_every_task_that_gives_an_answer_for_a_row(problem, tasks, task, final):
    folder = problem.folder / f"{task}-{final}"
    changes = {"task": "classification" if task == "windows" else task, "train__folds": 2, "train__max_steps": 2}
    assert problem.train(**changes, **tasks[task], train__folds_final=final, train__output_dir=folder) == 0
    found, folds = found_in(folder), summary_of(folder)["folds"]
    assert len(found) == 24
    assert sorted(set(found.folds)) == [0, 1]
    if task == "regression":
        assert found.probabilities is None
        errors = (found.scores - found.labels) ** 2
        assert folds["out_of_fold"]["mse"] == pytest.approx(errors.mean(), rel=1e-5)
    elif task == "multi_label":
        assert found.probabilities.shape == found.labels.shape == (24, 2)
        assert 0 < folds["out_of_fold"]["threshold"] < 1
        settings = json.loads((folder / "export" / "config.json").read_text())["jaxbert"] if final else None
        assert settings is None or settings["threshold"] == folds["out_of_fold"]["threshold"]
    else:
        assert folds["out_of_fold"]["accuracy"] == (found.probabilities.argmax(1) == found.labels).mean()
    if task == "multiple_choice":
        assert [int((row > 0).sum()) for row in found.probabilities] == [3, 2] * 12
        assert (found.folds[::2] == found.folds[1::2]).all()  # the questions of a context
    if not final:
        columns = {"choices": ["a", "b", "c"]} if task == "multiple_choice" else {}
        models = [jaxbert.load(path) for path in (folder, *sorted(folder.glob("folds/*/export")))]
        losses = [model.evaluate(tasks[task]["data__train"], **columns)["loss"] for model in models]
        assert losses[0] < max(losses[1:])


def test_the_rows_of_a_group_stay_together(problem, capsys):
    rows = [(*row, f"p{number % 20}") for number, row in enumerate(random_rows(100))]
    data = write_csv(problem.folder / "groups.csv", rows, ("text", "label", "author"))
    folder = problem.folder / "groups"
    keys = {"data__train": data, "data__group": "author", "train__folds": 4, "train__max_steps": 1}
    assert problem.train(train__output_dir=folder, **keys) == 0
    folds = found_in(folder).folds
    for author in range(20):
        assert len(set(folds[author::20])) == 1
    assert len(set(folds)) == 4
    capsys.readouterr()
    assert problem.train(train__output_dir=problem.folder / "no", **keys | {"train__folds": 21}) == 2
    assert "train.folds is 21, but there are only 20 groups of training rows: lower it" in capsys.readouterr().err
    assert problem.train(train__output_dir=problem.folder / "no", **keys | {"data__group": "writer"}) == 2
    assert "no column 'writer' (data.group)" in capsys.readouterr().err
    write_csv(problem.folder / "gap.csv", [*rows[:12], ("w1", "neutral", "")], ("text", "label", "author"))
    changed = keys | {"data__train": problem.folder / "gap.csv", "train__folds": 2}
    assert problem.train(train__output_dir=problem.folder / "no", **changed) == 2
    said = capsys.readouterr().err
    assert "labels with fewer training rows than folds (2), of which some folds have none: 'neutral'" in said
    assert "gap.csv, row 14: column 'author' (data.group) is empty: fill it in" in said
    assert not (problem.folder / "no" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "token_classification", "train__folds": 2}, "does not work with task token_classification"),
        ({"task": "pretraining", "train__folds": 2}, "does not work with task pretraining"),
        ({"data__group": "author"}, "data.group is set, which is for folds: set train.folds"),
        ({"train__folds_final": False}, "train.folds_final is false, which is for folds"),
        ({"train__folds": 1}, "must be at least 2"),
        ({"train__folds": 3, "data__group": "g", "data__validation_fraction": 0.1}, "are both set"),
        ({"train__folds": 3, "train__accept_changed_data": True}, "does not work with train.folds"),
    ],
)
def test_settings_without_a_meaning_are_refused(problem, changes, message, capsys):
    assert problem.train(**changes, train__output_dir=problem.folder / "refused") == 2
    assert message in capsys.readouterr().err
    assert not (problem.folder / "refused").exists()


def test_predictions_that_were_lost_are_a_line(run, problem, capsys):
    folder = problem.folder / "lost"
    shutil.copytree(run, folder)
    for name in ("summary.json", "folds/1/predictions.npz"):
        (folder / name).unlink()
    changes = KEYS | {"data__test": problem.folder / "dev.csv", "train__output_dir": folder}
    assert problem.train(**changes) == 2
    assert "folds/1 has lost its predictions: remove this folder, and run again" in capsys.readouterr().err
    shutil.rmtree(folder / "folds" / "1")
    assert problem.train(**changes) == 0
    assert found_in(folder).probabilities.tobytes() == found_in(run).probabilities.tobytes()


def test_in_python(problem):
    """Rows in memory, a callback that ends each fold, and the numbers in the result."""
    ends: list[int] = []

    def stop(event, step, values):
        ends.extend([step] if event == "save" else [])
        return jaxbert.STOP if event == "step" and step == 2 else None

    rows = [{"text": text, "label": label} for text, label in random_rows(60)]
    settings = {"model__scan_layers": True, "batch_size": 16, "epochs": 1, "folds": 2, "eval_every": 50}
    result = jaxbert.finetune(
        rows, problem.folder / "model", callbacks=stop, output_dir=problem.folder / "python", **settings
    )
    assert ends == [3, 3, 3] or len(ends) == 3
    assert result.summary["folds"]["count"] == 2
    assert result.metrics == {}
    assert set(result.model.labels) == {"bad", "good"}
    assert Config().train.folds is None
