"""Self-training: which texts are added, that the last training is an ordinary one, and runs that were stopped."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from cluster import Cluster, losses
from runs import CrashError, Problem, crash_before, make_config, weights, write_csv
from runs import random_rows as rows_of

import jaxbert
from jaxbert.cli.main import main
from jaxbert.errors import UserError
from jaxbert.understand import self_training

pytestmark = pytest.mark.usefixtures("shared_programs")
THRESHOLD = 0.51


def random_rows(count, seed=0):
    return [*rows_of(count, seed)]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """More texts without labels: 40 new ones, three of the training set and one of the validation set."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    train, dev = random_rows(100), random_rows(37, seed=1)
    texts = [text for text, _ in (*random_rows(40, seed=7), *train[:3], dev[5])]
    write_texts(problem.folder / "more.csv", texts)
    return problem


def write_texts(path, texts):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])


def keys(problem, run, **changes):
    common = {
        "data__validation": problem.folder / "dev.csv",
        "data__test": problem.folder / "dev.csv",
        "data__unlabelled": problem.folder / "more.csv",
        "train__self_training": f"{{rounds: 1, threshold: {THRESHOLD}}}",
        "train__max_steps": 9,
        "optimizer__learning_rate": 3e-3,
        "train__checkpoint_every": 4,
    }
    return common | {"train__output_dir": problem.folder / run} | changes


@pytest.fixture(scope="module")
def whole(problem):
    assert problem.train(**keys(problem, "whole")) == 0
    return problem.folder / "whole"


def added_to(run):
    return [json.loads(line) for line in (run / "added.jsonl").read_text("utf-8").splitlines()]


def test_those_of_which_the_model_is_sure_are_added(problem, whole):
    """The confidence is that of the calibrated model of the round; what other sets have is left out."""
    added, new = added_to(whole), random_rows(40, seed=7)
    model = jaxbert.load(whole / "rounds" / "0" / "export")
    answers = model.predict([text for text, _ in new])
    sure = [place for place, answer in enumerate(answers) if answer["score"] >= THRESHOLD]
    assert 0 < len(sure) < len(new)
    assert [(line["round"], line["row"], line["text"], line["label"]) for line in added] == [
        (1, place + 2, new[place][0], answers[place]["label"]) for place in sure
    ]
    assert [line["confidence"] for line in added] == pytest.approx([answers[p]["score"] for p in sure], abs=2e-6)
    summary = json.loads((whole / "summary.json").read_text())
    record = summary["self_training"]
    assert record["left_out"] == {"validation": 1, "train": 3}
    assert record["unlabelled"] == len(new)
    (one,) = record["rounds"]
    first = json.loads((whole / "rounds" / "0" / "summary.json").read_text())
    assert (one["added"], sum(one["by_label"].values())) == (len(sure), len(sure))
    assert one["value"] == first["eval"]["accuracy"]
    assert one["temperature"] == first["calibration"]["temperature"]
    assert first["test"] is None
    assert summary["test"]["examples"] == 37
    assert f"{len(sure)} further texts, of 40 without labels" in (whole / "export" / "README.md").read_text("utf-8")


def test_the_last_training_is_that_of_a_file_with_the_added_rows(problem, whole):
    """Bit by bit; the first one is that of the labelled rows alone."""
    rows = [*random_rows(100), *((line["text"], line["label"]) for line in added_to(whole))]
    write_csv(problem.folder / "both.csv", rows)
    plain = {"data__unlabelled": None, "train__self_training": None}
    both = keys(problem, "both", **plain, data__train=problem.folder / "both.csv")
    assert problem.train(**both) == 0
    assert weights(problem.folder / "both") == weights(whole)
    alone = keys(problem, "alone", **plain, train__calibration="temperature")
    assert problem.train(**alone) == 0
    assert weights(problem.folder / "alone") == weights(whole / "rounds" / "0")


def test_a_crash_changes_no_bit(problem, whole, monkeypatch, capsys):
    """In the first training, before what it chose is kept, and in the last training."""
    run, more = problem.folder / "stopped", problem.folder / "more.csv"
    with monkeypatch.context() as patch:
        crash_before(patch, 6)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, "stopped"))
    texts = more.read_text()
    more.write_text(texts.replace("\n", "\nthe ", 1))
    assert problem.train(**keys(problem, "stopped")) == 2
    assert "other rows without labels" in capsys.readouterr().err
    more.write_text(texts)
    with monkeypatch.context() as patch:
        patch.setattr(self_training, "_write", crash)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, "stopped"))
    assert (run / "rounds" / "0" / "summary.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(self_training, "_train", crash)  # it is complete
        crash_before(patch, 5)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, "stopped"))
    monkeypatch.setattr(self_training, "_choose", crash)  # it has chosen
    assert problem.train(**keys(problem, "stopped")) == 0
    assert weights(run) == weights(whole)
    assert (run / "added.jsonl").read_bytes() == (whole / "added.jsonl").read_bytes()
    assert not (run / "rounds" / "0" / "checkpoints").exists()


def crash(*_):
    raise CrashError


@pytest.mark.long
def test_packed_and_padded_and_any_mesh_choose_the_same(problem, tmp_path):
    found = []
    for name, changes in {"packed": {}, "padded": {"data__packing": False, "mesh__fsdp": 2, "mesh__tensor": 2}}.items():
        more = {"model__dropout": 0, "train__max_steps": 4, "train__output_dir": tmp_path / name}
        assert problem.train(**keys(problem, name, **more, **changes)) == 0
        found.append(added_to(tmp_path / name))
    packed, padded = ([(line["row"], line["label"]) for line in lines] for lines in found)
    assert packed == padded
    confidence = [[line["confidence"] for line in lines] for lines in found]
    np.testing.assert_allclose(*confidence, atol=1e-4)


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_are_as_one_device(problem, tmp_path):
    """With a moving average, on a mesh with all axes."""

    def arguments(name, **changes):
        own = {"train__output_dir": tmp_path / name, "data__cache_dir": tmp_path / f"tokens-{name}", **changes}
        return problem.arguments(**keys(problem, name, model__dropout=0.0, train__ema=0.8, **own))

    Cluster(1, 1).run(arguments("one"))
    Cluster(2, 4).run(arguments("two", mesh__data=2, mesh__fsdp=2, mesh__tensor=2))
    found, expected = (losses(tmp_path / name) for name in ("two", "one"))
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=1e-5)
    chosen = [[(line["row"], line["label"]) for line in added_to(tmp_path / name)] for name in ("two", "one")]
    assert chosen[0] == chosen[1]
    assert chosen[0]


def test_rounds_choose_anew_and_the_report_tells(problem, whole, capsys):
    """With a threshold that nothing reaches the model is that of the labelled rows alone, and this is said."""
    run = problem.folder / "none"
    changes = {"train__self_training": "{rounds: 2, threshold: 1.0}"}
    assert problem.train(**keys(problem, "none", **changes)) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "round 2 adds nothing: lower the threshold" in said
    assert "2 texts" not in said
    assert "1 texts are also in data.validation: they are left out" in said
    assert added_to(run) == []
    rounds = json.loads((run / "summary.json").read_text())["self_training"]["rounds"]
    assert [one["round"] for one in rounds] == [1, 2]
    assert rounds[0]["value"] == rounds[1]["value"]
    assert weights(run / "rounds" / "1") == weights(whole / "rounds" / "0")
    for folder, worse in ((run, False), (whole, None)):
        assert main(["report", str(folder)]) == 0
        page = (folder / "report.html").read_text("utf-8")
        assert "Texts that the model labelled" in page
        assert "4 texts were left out" not in page
        assert "3 texts were left out: they are also in train." in page
        if worse is not None:
            assert ("is worse on the validation set" in page) is worse


def test_texts_that_all_are_in_other_sets_are_refused(problem, capsys):
    """Before the first step: otherwise nothing is left to label."""
    write_texts(problem.folder / "known.csv", [text for text, _ in random_rows(100)[:4]])
    given = keys(problem, "known", data__unlabelled=problem.folder / "known.csv")
    assert problem.train(**given) == 2
    said = capsys.readouterr().err
    assert "known.csv: all 4 texts are also in data.train, so that none is left to learn from: name other texts" in said
    assert not (problem.folder / "known" / "rounds").exists()


def test_a_worse_model_is_said(caplog):
    rounds = [{"value": 0.9, "round": 1}]
    summary = {"self_training": {"metric": "accuracy", "rounds": rounds}, "eval": {"accuracy": 0.8}}
    self_training._say_result(summary)
    assert "accuracy 0.8000, and 0.9000 with only the labelled rows" in caplog.text
    caplog.clear()
    self_training._say_result(summary | {"eval": {"accuracy": 0.9}})
    assert not caplog.text


VALID = {
    "train__self_training": {"threshold": 0.9},
    "data__unlabelled": "more.txt",
    "data__validation": "dev.csv",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__unlabelled": None}, "data.unlabelled is not: name texts without labels"),
        ({"data__validation": None}, "needs a validation set, on which the confidence is calibrated"),
        ({"train__teacher": "runs/x"}, "train.teacher does not work with train.self_training"),
        ({"train__folds": 3}, "train.folds does not work with train.self_training"),
        ({"train__augment": {"swap": 0.1}}, "train.augment does not work with train.self_training"),
        ({"train__prune": {"layers": 1}}, "train.prune does not work with train.self_training"),
        ({"train__accept_changed_data": True}, "train.accept_changed_data does not work with train.self_training"),
        ({"train__self_training": {"rounds": 0}}, "train.self_training: rounds is 0"),
        ({"train__self_training": {"threshold": 1.5}}, "train.self_training: threshold is 1.5"),
        ({"train__self_training": {"confidence": 1}}, "its settings are rounds, threshold"),
        ({"train__self_training": None}, "set train.teacher, or train.self_training"),
    ],
)
def test_what_cannot_be_done(changes, said):
    with pytest.raises(UserError, match=said):
        make_config(**VALID | changes)


def test_other_tasks():
    with pytest.raises(UserError, match="works with task classification, not with multi_label"):
        make_config("multi_label", **VALID)
    make_config(**VALID | {"data__validation": None, "data__validation_fraction": 0.2})
