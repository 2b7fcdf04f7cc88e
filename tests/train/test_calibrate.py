"""A run and the verb `calibrate` fold the temperature into the export, and keep thresholds there."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Problem, random_rows, write_csv

import jaxbert
from jaxbert.cli.main import main
from jaxbert.config import DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.tasks.base import Evaluation, Outcome, Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.decision import Tuning
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.train.evaluate import average_metrics, calibrate_model
from jaxbert.train.inference import TrainedModel, open_trained
from jaxbert.understand.reopen import reopen

COMPARED = ("loss", "calibration_error", "brier")


@dataclasses.dataclass(frozen=True)
class Noisy:
    """A problem whose labels are the answers of its model, but for every seventh, so that the best temperature is known."""

    problem: Problem
    rows: dict[str, list[tuple[str, str]]]
    """The rows of `dev.csv`, on which a run is calibrated, and of `held_out.csv`."""

    @property
    def dev(self) -> Path:
        return self.problem.folder / "dev.csv"

    @property
    def held_out(self) -> Path:
        return self.problem.folder / "held_out.csv"

    def train(self, name: str, **changes: Any) -> Path:
        """Take one step that changes next to nothing; return the folder of the run."""
        run = self.problem.folder / name
        sets = {"data__validation": self.dev, "data__test": self.held_out, "train__output_dir": run}
        least = {"train__max_steps": 1, "train__epochs": None, "optimizer__learning_rate": 1e-9}
        assert self.problem.train(**sets, **least, **changes) == 0
        return run


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Noisy:
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    model, rows = jaxbert.load(problem.folder / "model"), {}
    for name, seed in (("dev", 1), ("held_out", 5)):
        texts = [text for text, _ in random_rows(60, seed=seed)]
        other = {"bad": "good", "good": "bad"}
        said = [answer["label"] for answer in model.predict(texts)]
        labels = [other[label] if i % 7 == 3 else label for i, label in enumerate(said)]
        rows[name] = list(zip(texts, labels, strict=True))
        write_csv(problem.folder / f"{name}.csv", rows[name])
    return Noisy(problem, rows)


@pytest.fixture(scope="module")
def run(noisy) -> Path:
    """A run with a temperature and a threshold."""
    threshold = {"train__threshold": "recall=0.8", "train__positive_label": "good"}
    return noisy.train("run", train__calibration="temperature", **threshold)


@pytest.fixture(scope="module")
def plain(noisy) -> Path:
    """The same run with neither."""
    return noisy.train("plain")


class Scaled:
    """Stands for a predictor: its predictions are some logits times the kernel of the last layer."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def evaluate(self, params: Any, sets: dict[str, Examples], task: Task) -> Evaluation:
        predictions = self.logits * float(params["classifier"]["kernel"][0])
        outcomes = {name: Outcome(task, examples, predictions) for name, examples in sets.items()}
        return Evaluation(average_metrics({name: outcome.metrics for name, outcome in outcomes.items()}), outcomes)


def too_sure() -> tuple[np.ndarray, Examples]:
    """Return log-odds that are three times too large, and examples with three labels."""
    rng = np.random.default_rng(0)
    log_odds, nothing = rng.normal(-0.5, 1.5, (600, 3)), np.zeros(600, np.int32)
    labels = rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))
    return 3 * log_odds, Examples(Tokens.from_lengths(nothing[:0], nothing, nothing), labels)


KERNEL = {"classifier": {"kernel": np.ones(1, np.float32)}}


def test_several_labels_have_one_temperature_and_a_threshold_each():
    log_odds, examples = too_sure()
    task = MultiLabel(("a", "b", "c"), threshold=0.9)
    tuned = calibrate_model(Scaled(log_odds), KERNEL, task, {"dev": examples}, Tuning(temperature=True, per_label=True))
    temperature = tuned.record["calibration"]["temperature"]
    assert temperature == pytest.approx(3, rel=0.1)
    assert float(tuned.params["classifier"]["kernel"][0]) == pytest.approx(1 / temperature)
    assert tuned.record["calibration"]["after"] == {name: tuned.evaluation.metrics[name] for name in COMPARED}
    assert tuned.record["thresholds"] == tuned.evaluation.metrics["thresholds"]
    assert tuned.task.thresholds == tuple(tuned.record["thresholds"].values())
    assert (tuned.task.temperature, tuned.task.threshold != 0.9) == (temperature, True)
    one = calibrate_model(Scaled(log_odds), KERNEL, task, {"dev": examples}, Tuning(temperature=True))
    assert one.task.thresholds is None
    assert one.evaluation.metrics["threshold"] == one.task.threshold
    assert tuned.evaluation.metrics["f1_macro"] >= one.evaluation.metrics["f1_macro"]


def test_thresholds_that_a_calibration_replaces_are_said(monkeypatch, caplog):
    log_odds, examples = too_sure()
    monkeypatch.setattr(TrainedModel, "_read", lambda *_: examples)
    caplog.set_level("INFO", "jaxbert")
    task = MultiLabel(("a", "b", "c"), threshold=0.9, thresholds=(0.2, 0.3, 0.4))
    model = TrainedModel(task, None, KERNEL, Scaled(log_odds), 64)
    one, _ = model.calibrated("dev", DataConfig(), Tuning(spell="--{}".format))
    assert f"has one of {one.task.threshold:.4f} for all labels now; --thresholds per_label" in caplog.messages[-1]
    caplog.clear()
    again, _ = model.calibrated("dev", DataConfig(), Tuning(per_label=True))
    assert len(again.task.thresholds) == 3
    several = dataclasses.replace(model, task=dataclasses.replace(task, thresholds=None))
    several.calibrated("dev", DataConfig(), Tuning())
    assert caplog.messages[-1] == f"threshold of all labels: {one.task.threshold:.4f}, before 0.9000"


def test_what_is_worse_is_not_folded(monkeypatch, caplog):
    log_odds, examples = too_sure()
    monkeypatch.setattr("jaxbert.train.evaluate.fit_temperature", lambda *_: 0.2)
    task = MultiLabel(("a", "b", "c"))
    tuned = calibrate_model(Scaled(log_odds), KERNEL, task, {"dev": examples}, Tuning(temperature=True))
    calibration = tuned.record["calibration"]
    assert (tuned.params, tuned.task.temperature, calibration["temperature"]) == (KERNEL, 1.0, 1.0)
    assert calibration["after"]["loss"] > calibration["before"]["loss"] == tuned.evaluation.metrics["loss"]
    assert "nothing was changed" in caplog.text


def test_a_diverged_model_is_left_as_it_is(caplog):
    nothing = np.zeros(2, np.int32)
    examples = Examples(Tokens.from_lengths(nothing[:0], nothing, nothing), np.array([0, 1]))
    task, logs = Classification(("ham", "spam")), np.array([[-0.1, -2.4], [np.nan, np.nan]], np.float32)
    tuning = Tuning.make("temperature", "f_beta=1", "spam", "one")
    tuned = calibrate_model(Scaled(logs), KERNEL, task, {"dev": examples}, tuning)
    assert (tuned.params, tuned.task) == (KERNEL, task)
    assert "the model has diverged: some of its outputs on these rows are no finite numbers" in caplog.text
    assert calibrate_model(Scaled(logs), KERNEL, task, {"dev": examples}, Tuning()).record == {}


def read(run: Path, name: str = "summary.json") -> dict:
    return json.loads((run / name).read_text("utf-8"))


def test_the_summary_tells_what_changed_and_on_which_rows(run, plain):
    calibration, before = read(run)["calibration"], read(plain)
    assert calibration["fitted_on"] == ["validation"]
    assert calibration["examples"] == 60
    assert calibration["temperature"] not in (0, 1)
    assert calibration["before"] == pytest.approx({name: before["eval"][name] for name in COMPARED}, rel=1e-5)
    assert calibration["after"] == pytest.approx({name: read(run)["eval"][name] for name in COMPARED}, rel=1e-5)
    assert calibration["after"]["loss"] < calibration["before"]["loss"]
    assert calibration["after"]["calibration_error"] <= calibration["before"]["calibration_error"]
    assert "calibration" not in before


def test_the_last_layer_alone_is_divided(run, plain):
    temperature = read(run)["calibration"]["temperature"]
    for (path, found), (_, expected) in zip(flat(run), flat(plain), strict=True):
        divisor = np.float32(temperature) if path.startswith("classifier") else np.float32(1)
        np.testing.assert_allclose(found, expected / divisor, rtol=1e-6, err_msg=path)
    assert read(run, "export/config.json")["jaxbert"]["temperature"] == temperature


def flat(run: Path) -> list[tuple[str, np.ndarray]]:
    from safetensors.numpy import load_file

    return sorted(load_file(run / "export" / "model.safetensors").items())


def test_the_threshold_is_kept_and_obeyed_everywhere(run, noisy, capsys):
    settings, told = read(run, "export/config.json")["jaxbert"], read(run)["threshold"]
    assert (settings["positive_label"], settings["threshold"]) == ("good", told["threshold"])
    assert told["recall"] >= 0.8
    held_out = noisy.held_out
    answers = predicted(capsys, run, held_out)
    assert [a["label"] == "good" for a in answers] == [a["probabilities"]["good"] >= told["threshold"] for a in answers]
    truth = [label for _, label in noisy.rows["held_out"]]
    accuracy = np.mean([a["label"] == label for a, label in zip(answers, truth, strict=True)])
    assert read(run)["test"]["accuracy"] == pytest.approx(accuracy)
    model = jaxbert.load(run)
    assert model.evaluate(held_out)["accuracy"] == pytest.approx(accuracy)
    assert [a["label"] for a in model.predict(held_out)] == [a["label"] for a in answers]
    outcomes = reopen(run).outcomes
    assert outcomes["test"].metrics["accuracy"] == pytest.approx(accuracy)


def predicted(capsys, model: Path, source: Path, *options: str) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", "--model", str(model), "--input", str(source), *options]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_pipelines_of_transformers_give_the_same_probabilities(run, noisy, capsys):
    pytest.importorskip("torch")
    from transformers import pipeline

    answers = predicted(capsys, run, noisy.held_out)
    classify = pipeline("text-classification", model=str(run / "export"), top_k=None)
    texts = [text for text, _ in noisy.rows["held_out"]]
    for found, answer in zip(classify(texts), answers, strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        assert scores == pytest.approx(answer["probabilities"], abs=1e-5)


def test_export_of_the_same_step_is_the_same(run, plain, tmp_path):
    for number, folder in enumerate((run, plain)):
        out = tmp_path / str(number)
        assert main(["export", "--run", str(folder), "--output", str(out)]) == 0
        for name in ("model.safetensors", "config.json"):
            assert (out / name).read_bytes() == (folder / "export" / name).read_bytes(), name


def test_export_of_another_step_says_that_nothing_was_chosen_for_it(run, plain, tmp_path, capsys):
    for number, (folder, said) in enumerate(((run, True), (plain, False))):
        other = shutil.copytree(folder, tmp_path / f"run-{number}")
        (other / "summary.json").write_text(json.dumps(read(other) | {"exported_step": 99}))
        assert main(["export", "--run", str(other), "--step", "1", "--output", str(tmp_path / str(number))]) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert ("step 1 has neither calibration nor chosen thresholds" in told) == said
        assert "temperature" not in read(tmp_path / str(number), "config.json")["jaxbert"]


def test_answers_with_a_set_and_without_a_label(run, noisy, capsys):
    held_out = noisy.held_out
    plain = predicted(capsys, run, held_out)
    level = sorted(answer["score"] for answer in plain)[30]
    answers = predicted(capsys, run, held_out, "--abstain_below", str(level), "--coverage", "0.8")
    for answer, before in zip(answers, plain, strict=True):
        kept = before["score"] >= level + 1e-6 or answer["label"] is not None
        assert answer["label"] == (before["label"] if kept else None)
        assert {name: answer[name] for name in ("score", "probabilities")} == {
            name: before[name] for name in ("score", "probabilities")
        }
    assert 20 <= sum(answer["label"] is None for answer in answers) <= 31
    truth = [label for _, label in noisy.rows["held_out"]]
    assert np.mean([label in a["label_set"] for a, label in zip(answers, truth, strict=True)]) > 0.6
    curve = read(run)["abstaining"]
    assert curve[0]["answered"] == 1.0
    assert curve[0]["accuracy"] == pytest.approx(read(run)["eval"]["accuracy"])


def test_a_finished_run_is_calibrated_in_place(plain, run, noisy, tmp_path, capsys):
    """On the validation rows it becomes what the run itself would have made."""
    copy, dev = shutil.copytree(plain, tmp_path / "run"), str(noisy.dev)
    assert main(["calibrate", "--model", str(copy), "--data", dev]) == 0
    said = capsys.readouterr()
    assert said.out == f"{copy / 'export'}\n"
    assert "calibration: temperature" in said.err
    assert not (copy / "predictions.npz").exists()
    assert "calibrated on other rows" in (copy / "export" / "README.md").read_text()
    temperature = read(copy, "export/config.json")["jaxbert"]["temperature"]
    expected = read(run)["calibration"]["temperature"]
    assert temperature == pytest.approx(expected, rel=1e-3)
    assert reopen(copy).outcomes["validation"].metrics["loss"] < read(plain)["eval"]["loss"]
    again = tmp_path / "again"
    assert main(["calibrate", "--model", str(copy), "--data", dev, "--output", str(again)]) == 0
    assert open_trained(str(again)).task.decision.temperature == pytest.approx(expected, rel=1e-2)


def test_a_run_whose_export_is_named_forgets_its_predictions(plain, noisy, tmp_path):
    """Else a report would show those of the model before."""
    copy = shutil.copytree(plain, tmp_path / "run")
    assert main(["calibrate", "--model", str(copy / "export"), "--data", str(noisy.dev)]) == 0
    assert not (copy / "predictions.npz").exists()
    assert reopen(copy).outcomes["validation"].metrics["loss"] < read(plain)["eval"]["loss"]


def test_calibrate_in_python(plain, noisy, tmp_path):
    model, rows = jaxbert.load(plain), [{"text": text, "label": label} for text, label in noisy.rows["dev"]]
    before = model.evaluate(rows)
    record = model.calibrate(rows, threshold="precision=0.5", positive_label="bad")
    after = model.evaluate(rows)
    assert record["calibration"]["before"] == pytest.approx({name: before[name] for name in COMPARED})
    assert record["calibration"]["after"] == pytest.approx({name: after[name] for name in COMPARED})
    assert after["per_class"]["bad"]["precision"] == pytest.approx(record["threshold"]["precision"])
    answer, explained = (ask(rows[0]["text"]) for ask in (model.predict, functools.partial(model.explain, steps=1)))
    assert explained["score"] == pytest.approx(answer["probabilities"][explained["label"]], abs=1e-6)
    odds = explained["score"] / (1 - explained["score"])
    assert explained["value"] == pytest.approx(np.log(odds), abs=1e-4)
    texts = [row["text"] for row in rows[:4]]
    labels = [found["label"] for found in model.explain(texts, method="gradient_x_input")]
    assert labels == [given["label"] for given in model.predict(texts)]
    out = model.export(tmp_path / "out")
    assert jaxbert.load(out).evaluate(rows) == after
    assert "results above are those before" in (out / "README.md").read_text()
    good = [row for row in rows if row["label"] == "good"]
    with pytest.raises(UserError, match=r"^threshold: no threshold reaches what is asked on these rows"):
        model.calibrate(good, threshold="precision=1", positive_label="bad")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__threshold": "f_beta=1", "data__validation": "dev.csv"}, "the positive label may be 'bad' or 'good'"),
        ({"train__threshold": "f1"}, "train.threshold is 'f1', but it must be f_beta=BETA"),
        ({"train__calibration": "temperature"}, "need a validation set: give data.validation"),
        ({"train__thresholds": "per_label", "data__validation": "dev.csv"}, "train.thresholds has no meaning"),
    ],
)
def test_mistakes_are_told_before_the_first_step(noisy, tmp_path, capsys, changes, message):
    changes |= {"data__validation": noisy.dev} if "data__validation" in changes else {}
    assert noisy.problem.train(train__output_dir=tmp_path / "run", **changes) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_mistakes_of_the_verb(plain, noisy, tmp_path, capsys):
    dev = str(noisy.dev)
    for options, message in (
        (
            ["--threshold", "f_beta=1"],
            "--threshold: the positive label may be 'bad' or 'good': name it with --positive",
        ),
        (["--positive_label", "good"], "--positive_label is the label that --threshold is for"),
        (["--output", str(noisy.problem.folder)], "has other files than those of a model"),
    ):
        assert main(["calibrate", "--model", str(plain), "--data", dev, *options]) == 2
        assert message in capsys.readouterr().err
    assert "temperature" not in read(plain, "export/config.json")["jaxbert"]
