"""A search: its trials are ordinary runs that share programs; killed or shared by processes, it has the same trials."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from postgres import lacks_postgres, postgres
from python_runs import SETTINGS, rows_of
from runs import CrashError, Problem, command, finish, random_rows, read_metrics, weights, write_csv

import jaxbert
from jaxbert.cli.main import main
from jaxbert.errors import UserError
from jaxbert.processes import Interrupt
from jaxbert.train.trainer import Trainer

SPACE = (
    "optimizer.learning_rate=log:1e-4:1e-2",
    "optimizer.weight_decay=lin:0:0.1",
    "optimizer.warmup_ratio=lin:0:0.3",
    "model.dropout=lin:0.05:0.3",
    "train.label_smoothing=lin:0.01:0.1",
    "train.seed=int:0:3",
)
TRIALS, STEPS = 5, 14


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    return Problem.write(tmp_path_factory.mktemp("problem"))


def arguments(problem, name, *flags, space=SPACE, trials=TRIALS, **changes) -> list[str]:
    """Return the command line of a search."""
    places = {"data__validation": problem.folder / "dev.csv", "train__output_dir": problem.folder / name}
    keys = {**places, "model__head": "new", **changes}
    spaces = [word for one in space for word in ("--search.space", one)]
    return ["search", *problem.arguments(**keys)[1:], *spaces, f"--search.trials={trials}", *flags]


def search(problem, name, *flags, **options) -> dict:
    """Search in this process; return `search.json`."""
    assert main(arguments(problem, name, *flags, **options)) == 0
    return read(problem, name)


def read(problem, name) -> dict:
    return json.loads((problem.folder / name / "search.json").read_text())


def trials_of(found: dict) -> list[dict]:
    """Return the trials without their times."""
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in found["trials"]]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def trial_folder(problem, name, number) -> Path:
    return problem.folder / name / "trials" / f"{number:03d}"


@pytest.fixture(scope="module")
def whole(problem) -> dict:
    """A search of five trials that was left alone."""
    return search(problem, "whole", "--search.keep=all")


def test_the_trials_are_told(problem, whole):
    """All values lie in the space, all trials differ, and the best is the one with the largest accuracy."""
    assert [trial["number"] for trial in whole["trials"]] == list(range(TRIALS))
    assert {trial["state"] for trial in whole["trials"]} == {"complete"}
    for trial in whole["trials"]:
        params = trial["params"]
        assert 1e-4 <= params["optimizer.learning_rate"] <= 1e-2
        assert params["train.seed"] in (0, 1, 2, 3)
        assert trial["value"] == summary_of(problem.folder / "whole" / trial["folder"])["eval"]["accuracy"]
    assert len({trial["params"]["model.dropout"] for trial in whole["trials"]}) == TRIALS
    values = [trial["value"] for trial in whole["trials"]]
    assert whole["best"] == whole["trials"][int(np.argmax(values))]
    assert len({weights(trial_folder(problem, "whole", number)) for number in range(TRIALS)}) == TRIALS


def test_nothing_is_compiled_after_the_first_trial(problem, whole):
    counts = [summary_of(trial_folder(problem, "whole", number))["compilations"] for number in range(TRIALS)]
    assert counts[0] > 0
    assert counts[1:] == [0] * (TRIALS - 1)


@pytest.mark.parametrize("number", [1, 4])
def test_its_configuration_trains_a_trial_again_bit_for_bit(problem, whole, number):
    """With programs of its own, by `jaxbert train`."""
    folder = trial_folder(problem, "whole", number)
    again = problem.folder / f"again-{number}"
    assert main(["train", f"--config={folder / 'config.yaml'}", f"--train.output_dir={again}"]) == 0
    assert weights(again) == weights(folder)
    kept = [line["train_loss"] for line in read_metrics(folder) if "train_loss" in line]
    assert [line["train_loss"] for line in read_metrics(again) if "train_loss" in line] == kept


def test_the_best_is_a_run_folder(problem, whole):
    best, folder = problem.folder / "whole" / "best", problem.folder / "whole" / whole["best"]["folder"]
    assert weights(best) == weights(folder)
    assert (best / "config.yaml").read_bytes() == (folder / "config.yaml").read_bytes()
    texts = [row["text"] for row in rows_of(5)]
    assert len(jaxbert.load(best).predict(texts)) == 5
    assert not (folder / "checkpoints").exists()


def test_an_interrupted_search_goes_on_with_the_same_trials(problem, whole, monkeypatch, capsys):
    """A crash within a trial, then a signal between two; a trial that had begun goes on from its checkpoint."""
    options = {"train__checkpoint_every": 3}
    with monkeypatch.context() as patch:
        calls = iter(range(1000))
        dispatch = Trainer._dispatch

        def failing(self, *args):
            if next(calls) == 2 * STEPS + 8:
                raise CrashError
            dispatch(self, *args)

        patch.setattr(Trainer, "_dispatch", failing)
        with pytest.raises(CrashError):
            main(arguments(problem, "killed", "--search.keep=all", **options))
    assert (trial_folder(problem, "killed", 2) / "checkpoints").exists()
    with monkeypatch.context() as patch:
        asked = iter([False] * 30)
        patch.setattr(Interrupt, "agreed", lambda self: next(asked, True))
        assert main(arguments(problem, "killed", "--search.keep=all", **options)) == 75
    said = capsys.readouterr().err
    assert "trials, which are saved; run the same command to resume" in said.replace("\n", " ")
    found = search(problem, "killed", "--search.keep=all", **options)
    assert trials_of(found) == trials_of(whole)
    for number in range(TRIALS):
        assert weights(trial_folder(problem, "killed", number)) == weights(trial_folder(problem, "whole", number))


def test_more_trials_are_added(problem, whole):
    """The first ones stay; another space is another search."""
    shutil.copytree(problem.folder / "whole", problem.folder / "more")
    found = search(problem, "more", trials=TRIALS + 1, **{"train__output_dir": problem.folder / "more"})
    assert [*trials_of(found)[:TRIALS]] == trials_of(whole)
    assert len(found["trials"]) == TRIALS + 1
    exports = [trial_folder(problem, "more", number).joinpath("export").exists() for number in range(TRIALS + 1)]
    assert [number for number, there in enumerate(exports) if there] == [found["best"]["number"]]


def test_a_search_keeps_to_its_data(problem, whole, capsys):
    """The same rows from another file are the same data."""
    shutil.copytree(problem.folder / "whole", problem.folder / "moved")
    options = {"trials": TRIALS, "train__output_dir": problem.folder / "moved"}
    for name, rows in (("same", random_rows(37, seed=1)), ("other", random_rows(37, seed=2))):
        write_csv(problem.folder / f"{name}.csv", rows)
    assert trials_of(search(problem, "moved", data__validation=problem.folder / "same.csv", **options)) == trials_of(
        whole
    )
    assert main(arguments(problem, "moved", data__validation=problem.folder / "other.csv", **options)) == 2
    assert "a search with other settings or other data (content.data.validation.checksum" in capsys.readouterr().err


def test_halving_stops_most_trials_early(problem, capsys):
    """The rest of the steps is not taken, and a stopped trial says so."""
    found = search(problem, "halving", "--search.method=asha", space=SPACE[:2], trials=6)
    stopped = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    assert stopped
    assert found["best"]["state"] == "complete"
    for trial in stopped:
        summary = summary_of(problem.folder / "halving" / trial["folder"])
        assert summary["pruned_at"] == trial["pruned_at"] == summary["steps"] < STEPS
        assert trial["value"] is None
    assert f"stopped early after step {stopped[0]['pruned_at']}" in capsys.readouterr().err


def test_a_stop_that_was_decided_before_a_kill_is_carried_out(problem, monkeypatch):
    """Killed after an evaluation was kept and before the trial was ended, the search ends the trial at the same step."""
    options = {"space": SPACE[:2], "trials": 3}
    flags = ("--search.method=asha",)
    whole = search(problem, "decided", *flags, **options)
    (number, *_) = (trial["number"] for trial in whole["trials"] if trial["state"] == "pruned")
    finish_run, finished = Trainer.finish, iter(range(100))

    def failing(self, *args):
        if next(finished) == number:
            raise CrashError
        return finish_run(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", failing)
        with pytest.raises(CrashError):
            main(arguments(problem, "decided-twice", *flags, **options))
    assert trials_of(search(problem, "decided-twice", *flags, **options)) == trials_of(whole)


def test_a_trial_without_a_result_does_not_end_the_search(problem, capsys):
    """Where all of them have none, the search has no best."""
    flags = ("--search.method=grid", "--train.max_bad_steps=1")
    space = ["optimizer.learning_rate=1e30,1e-3"]
    found = search(problem, "diverging", *flags, space=space, optimizer__warmup_ratio=0.0)
    assert [trial["state"] for trial in found["trials"]] == ["failed", "complete"]
    assert "not finite" in found["trials"][0]["error"]
    assert found["best"]["number"] == 1
    space = ["optimizer.learning_rate=1e30,2e30"]
    assert main(arguments(problem, "hopeless", *flags, space=space, optimizer__warmup_ratio=0.0)) == 2
    assert "no trial is complete" in capsys.readouterr().err


def test_values_that_do_not_go_together_fail_their_trial_alone(problem):
    """Each is allowed by itself: only one of the four trials has settings that fit each other and the model."""
    space = ["optimizer.name=sgd,adamw", "optimizer.momentum=0.5", "data.max_length=12,100000"]
    flags = ("--search.method=grid",)
    found = search(problem, "unfit", *flags, space=space, optimizer__name="sgd", train__max_steps=3)
    assert [trial["state"] for trial in found["trials"]] == ["complete", "failed", "failed", "failed"]
    errors = [trial["error"] for trial in found["trials"][1:]]
    assert "data.max_length is 100000" in errors[0]
    assert all("optimizer.momentum" in error for error in errors[1:])


def test_folds_are_an_objective(problem):
    changes = {"train__folds": 2, "train__epochs": 1, "data__validation": None, "train__folds_final": False}
    flags = ("--search.method=grid",)
    found = search(problem, "folds", *flags, space=["optimizer.learning_rate=1e-3,1e-2"], **changes)
    summaries = [summary_of(trial_folder(problem, "folds", number)) for number in range(2)]
    assert [trial["value"] for trial in found["trials"]] == [each["folds"]["mean"]["accuracy"] for each in summaries]
    assert summaries[1]["compilations"] == 0


def test_several_objectives_have_a_front(problem):
    found = search(
        problem,
        "front",
        "--search.objectives=accuracy,examples_per_second",
        space=["optimizer.learning_rate=log:1e-4:1e-2"],
        trials=3,
    )
    values = {trial["number"]: tuple(trial["values"].values()) for trial in found["trials"]}
    beaten = {
        mine
        for mine, own in values.items()
        for other in values.values()
        if other != own and all(a >= b for a, b in zip(other, own, strict=True))
    }
    assert sorted(found["front"]) == sorted(values.keys() - beaten)
    assert found["best"]["value"] == max(accuracy for accuracy, _ in values.values())
    assert "Compromises" in (problem.folder / "front" / "search.html").read_text()


def test_from_python(problem, tmp_path):
    """Rows in memory; another batch size is compiled anew, and the page holds each trial."""
    folder = tmp_path / "study"
    found = jaxbert.search(
        rows_of(40),
        problem.folder / "model",
        rows_of(20, seed=1),
        space={"train.batch_size": [8, 16], "optimizer.clip_norm": [0.5, 1.0]},
        method="grid",
        output_dir=str(folder),
        **{**SETTINGS, "epochs": 1, "batch_size": 8},
    )
    assert [list(trial["params"].values()) for trial in found["trials"]] == [[8, 0.5], [8, 1.0], [16, 0.5], [16, 1.0]]
    assert [summary_of(folder / trial["folder"])["compilations"] > 0 for trial in found["trials"]] == [True, False] * 2
    assert json.loads((folder / "search.json").read_text()) == found
    page = (folder / "search.html").read_text()
    assert page.count("<polyline") == 4
    assert all(name in page for name in ("train.batch_size", "Importance of the keys", "Trials side by side"))
    with pytest.raises(UserError, match="options has 'stoping'"):
        jaxbert.search(rows_of(4), "tiny", space={"train.batch_size": [8]}, options={"stoping": "none"})


@pytest.mark.parametrize(
    ("flags", "changes", "said"),
    [
        ((), {"data__validation": None}, "give data.validation or data.validation_fraction, or set train.folds"),
        (
            ("--search.objectives=acuracy",),
            {},
            "search.objectives is 'acuracy', but it must be different ones of accuracy",
        ),
        (("--search.method=asha", "--search.objectives=accuracy,loss"), {}, "stops trials by one metric"),
        (
            (),
            {"data__validation": None, "data__validation_fraction": 0.2},
            "train.seed cannot vary with data.validation_",
        ),
        ((), {"task": "pretraining", "model__head": None}, "needs a task with labels"),
        (
            (),
            {"train__self_training": "{threshold: 0.9}", "data__unlabelled": "more.csv"},
            "train.self_training does not work with a search",
        ),
        (("--search.trials=0",), {}, "search.trials is 0, but it must be at least 1"),
        (("--search.storage=nowhere/journal.log",), {}, "search.storage nowhere/journal.log cannot be opened"),
        (("--search.storage=nothing://me:secret@there",), {}, "search.storage nothing://...@there cannot be opened"),
    ],
)
def test_mistakes_are_said_and_leave_nothing(problem, capsys, flags, changes, said):
    assert main(arguments(problem, "wrong", *flags, **changes)) == 2
    assert said in capsys.readouterr().err
    assert not (problem.folder / "wrong").exists()


def test_a_trial_too_many_waits_for_a_longer_search(problem, monkeypatch):
    """Another process asks at the same moment and dies: its trial is taken up; the one too many runs when there is room."""
    ask = optuna.Study.ask

    def late(self, *given):
        trial = ask(self, *given)
        return ask(self, *given) if trial.number == 1 else trial

    changes = {"space": SPACE[:1], "train__epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", late)
        found = search(problem, "many", trials=2, **changes)
    assert [(trial["number"], trial["state"]) for trial in found["trials"]] == [(0, "complete"), (1, "complete")]
    found = search(problem, "many", trials=3, **changes)
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2]


def run_two(problem, name, *flags) -> None:
    """Let two processes share a search; each of its trials is to be run once."""
    words = arguments(problem, name, *flags, space=SPACE[:1], trials=6, train__epochs=1)
    ends = [finish(process) for process in [command(*words), command(*words)]]
    assert [code for code, _, _ in ends] == [0, 0], ends
    said = [[line for line in err.splitlines() if "of 6): learning_rate" in line] for _, _, err in ends]
    begun = sorted(line.split()[1] for lines in said for line in lines)
    assert begun == [str(number) for number in range(6)], begun
    trials = read(problem, name)["trials"]
    assert [(trial["number"], trial["state"]) for trial in trials] == [(number, "complete") for number in range(6)]


def test_two_processes_run_each_trial_once(problem):
    """On one journal; both end when all trials are there."""
    run_two(problem, "shared")


@pytest.mark.skipif(lacks_postgres() is not None, reason=str(lacks_postgres()))
def test_two_processes_share_a_database(problem):
    """A real PostgreSQL."""
    with postgres() as url:
        run_two(problem, "database", f"--search.storage={url}")


@pytest.mark.long
def test_the_trial_of_a_killed_process_is_taken_up_by_another(problem):
    """A process dies within its second trial; one that runs beside it ends that trial too."""
    words = arguments(problem, "lost", space=SPACE[:1], trials=4, train__epochs=20, train__checkpoint_every=5)
    victim = command(*words, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (trial_folder(problem, "lost", 1) / "checkpoints").exists():
        assert time.monotonic() < deadline
        assert victim.poll() is None
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    code, _, err = finish(command(*words))
    victim.communicate()
    assert code == 0, err
    assert "going on after step" in err or "trial 1 (2 of 4)" in err
    assert [trial["state"] for trial in read(problem, "lost")["trials"]] == ["complete"] * 4
