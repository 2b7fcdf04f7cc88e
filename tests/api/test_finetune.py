"""A run in Python is the run of the command line, with rows in memory, callbacks, a loss and metrics of one's own."""

from __future__ import annotations

import json
import os
import signal
import threading

import jax.numpy as jnp
import optax
import pytest
import yaml
from cluster import Cluster
from python_runs import SETTINGS, Recorder, rows_of
from runs import ROOT, CrashError, finish, python, read_metrics, weights

import jaxbert
from jaxbert.cli.main import main
from jaxbert.processes import Interrupt
from jaxbert.train.run import Callbacks

pytestmark = pytest.mark.usefixtures("shared_programs")


def finetune(run, train=None, **keys):
    """Train on the rows of the session's run, in another folder."""
    settings = SETTINGS | {"model": run.problem.folder / "model"} | keys
    return jaxbert.finetune(train=rows_of(100) if train is None else train, **settings)


def test_importing_costs_no_jax():
    code = "import sys, jaxbert; jaxbert.Config(); assert not {'jax', 'jsonargparse'} & sys.modules.keys(); print('ok')"
    process = python("-c", code, anew=True)
    assert process.communicate() == ("ok\n", "")


def test_every_public_name_is_there():
    assert sorted(dir(jaxbert)) == sorted(jaxbert.__all__)
    assert all(getattr(jaxbert, name) is not None for name in jaxbert.__all__)


def test_it_is_the_run_of_the_command_line(run, capfd):
    """To the last bit, whatever the validation set is read from."""
    folder = run.problem.folder
    keys = {"data__validation": folder / "dev.csv", "train__output_dir": folder / "command", "train__keep_best": False}
    assert run.problem.train(**keys) == 0
    assert weights(folder / "command") == weights(run.result.folder)
    summary = json.loads((folder / "command" / "summary.json").read_text())["eval"]
    own = {"share_of_bad", "cost"}
    assert {name: value for name, value in run.result.metrics.items() if name not in own} == summary


def test_its_metrics_are_those_of_the_summary(run):
    summary = json.loads((run.result.folder / "summary.json").read_text())
    assert run.result.metrics == summary["eval"]
    assert run.result.summary["test"] == summary["test"]
    assert summary["test"]["sets"]["one"]["accuracy"] == summary["eval"]["accuracy"]
    assert summary["data"]["leaks"]


def test_its_configuration_says_where_the_rows_were(run):
    data = yaml.safe_load((run.result.folder / "config.yaml").read_text())["data"]
    assert (data["train"], data["validation"]) == ("memory:train", "memory:validation")
    assert data["test"] == {"one": "memory:test.one", "other": "memory:test.other"}


def test_metrics_of_one_s_own(run):
    labels, predicted = run.asked[1]
    assert set(labels) == {"bad", "good"}
    assert len(labels) == len(predicted) == 37
    assert run.result.metrics["share_of_bad"] == predicted.count("bad") / 37
    costs = {line["step"]: line["eval_cost"] for line in read_metrics(run.result.folder) if "eval_cost" in line}
    assert costs == {7: 3.0, 14: 1.0}
    assert run.result.summary["exported_step"] == 14


def test_callbacks_come_in_order(run):
    """Each step once, an evaluation before what it saves, and nothing twice."""
    epoch = [("step", step) for step in range(1, 8)], [("step", step) for step in range(8, 15)]
    ends = [[("evaluate", step), ("save", step)] for step in (7, 14)]
    assert run.recorder.events == [*epoch[0], *ends[0], *epoch[1], *ends[1]]
    losses = {line["step"]: line["train_loss"] for line in read_metrics(run.result.folder) if "train_loss" in line}
    told = zip(run.recorder.events, run.recorder.values, strict=True)
    for (event, step), values in told:
        if event == "step":
            assert values["loss"] == pytest.approx(losses[step])
            assert (type(values["grad_norm"]), values["bad"]) == (float, False)
        elif event == "save":
            assert (values / "state").is_dir() == (step in (7, 14))


def test_a_callback_ends_the_run(run, tmp_path):
    """Behind the next step, with an evaluation, a checkpoint and an export of it; a function can do it too."""
    recorder, told = Recorder(stop_at=2), []
    result = finetune(
        run,
        validation=rows_of(37, seed=1),
        callbacks=(recorder, lambda event, step, values: told.append((event, step))),
        output_dir=tmp_path / "run",
    )
    assert recorder.events == told == [("step", 1), ("step", 2), ("step", 3), ("evaluate", 3), ("save", 3)]
    assert (result.summary["steps"], result.summary["exported_step"]) == (3, 3)
    assert (result.folder / "export" / "model.safetensors").is_file()


def test_a_run_goes_on_after_an_exception_and_after_ctrl_c(run, tmp_path):
    """With the same bits as the run that nothing ended; other rows and another loss are refused before."""

    def crash(event, step, values):
        if step == 2:
            raise CrashError

    def interrupt(event, step, values):
        if (event, step) == ("step", 8):
            signal.raise_signal(signal.SIGINT)

    keys = {"output_dir": tmp_path / "run", "validation": rows_of(37, seed=1), "keep_best": False}
    with pytest.raises(CrashError):
        finetune(run, callbacks=crash, **keys)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(jaxbert.StoppedError, match=r"stopped after step 9, .* output_dir='.*/run' to resume"):
        finetune(run, callbacks=interrupt, **keys)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(
        jaxbert.UserError, match=r"began with other data or another model \(data.train: 100 examples there, 99 now\)"
    ):
        finetune(run, train=rows_of(99), **keys)
    with pytest.raises(jaxbert.UserError, match=r"another loss .the task's own there, .*own_loss now"):
        finetune(run, loss=own_loss, **keys)
    finetune(run, **keys)
    assert weights(tmp_path / "run") == weights(run.result.folder)


def test_rows_that_are_not_here_are_one_line(run, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    content = yaml.safe_load((run.result.folder / "config.yaml").read_text())
    content["train"]["output_dir"] = str(tmp_path / "run")
    config.write_text(yaml.safe_dump(content))
    assert main(["train", "--config", str(config)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith("error: memory:train stands for rows in the memory of a Python program, which are not here")


def test_a_second_ctrl_c_ends_the_call_and_not_the_program():
    with Interrupt():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def own_loss(outputs, batch):
    """The loss of classification, written again."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs["logits"].astype(jnp.float32), batch["labels"])


def test_a_loss_of_a_wrong_shape_is_refused(run, tmp_path):
    with pytest.raises(jaxbert.UserError, match=r"loss: gives an array of shape \(\), but it must give one number for"):
        finetune(run, loss=lambda outputs, batch: own_loss(outputs, batch).mean(), output_dir=tmp_path / "run")


def test_without_a_folder_each_call_is_a_new_run(run, tmp_path, monkeypatch, capfd):
    """The second with twice the loss, in a thread, which cannot have handlers of signals."""
    monkeypatch.chdir(tmp_path)
    found, recorders = [], (Recorder(stop_at=1), Recorder(stop_at=1))
    found.append(finetune(run, callbacks=recorders[0]))

    def again():
        doubled = lambda outputs, batch: 2 * own_loss(outputs, batch)  # noqa: E731
        found.append(finetune(run, loss=doubled, callbacks=recorders[1]))

    thread = threading.Thread(target=again)
    thread.start()
    thread.join()
    assert [str(result.folder) for result in found] == ["runs/classifier", "runs/classifier-2"]
    assert "runs/classifier exists already: this run is in runs/classifier-2" in capfd.readouterr().err
    first, second = (recorder.values[0]["loss"] for recorder in recorders)
    assert second == pytest.approx(2 * first, rel=1e-6)
    assert [result.metrics for result in found] == [{}, {}]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_train_epochs": 3}, r"unknown key num_train_epochs; did you mean epochs \(train.epochs\)\?"),
        ({"epoch": 3}, r"unknown key epoch; did you mean epochs \(train.epochs\)\?"),
        ({"optimizer__rate": 3}, r"unknown key optimizer.rate"),
        ({"optimizer": {"learning_rates": 3}}, r"did you mean learning_rate \(optimizer.learning_rate\)"),
        ({"optimizer": 3}, r"optimizer is a section: give its keys as optimizer=\{KEY: VALUE\}"),
        ({"nothing_like_it": 1}, "unknown key nothing_like_it; `jaxbert train --help` lists all keys"),
        ({"epochs": "three"}, "train.epochs is three, but it must be a whole number"),
        ({"max_length": "long"}, "data.max_length is long, but it must be a whole number or null"),
        ({"epochs": 0}, "train.epochs is 0, which only train.method"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml does not exist"),
        ({"task": "poetry"}, "task is 'poetry', but"),
        ({"train": [("a", "b")]}, "train, row 1: is a tuple"),
        ({"train": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"callbacks": 3}, "callbacks: 3 is not a callback"),
        ({"callbacks": jaxbert.Callback}, "callbacks: .* is not a callback"),
        ({"metrics": {"accuracy": len}}, "'accuracy' is the name of a metric that jaxbert computes"),
        ({"metrics": {"mine": 3}}, "'mine' is not a function"),
        (
            {"metrics": {"mine": len}, "best_metric": "mine"},
            "best_metric is mine, .*say whether larger values are better",
        ),
        ({"loss": 3}, "loss: 3 is not a function"),
    ],
)
def test_a_mistake_is_one_line(run, keys, message, tmp_path):
    with pytest.raises(jaxbert.UserError, match=message) as raised:
        finetune(run, **{"output_dir": tmp_path / "run"} | keys)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_label_in_a_frame_is_refused_with_its_row(run, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([*rows_of(5), {"text": "w1", "label": float("nan")}])
    with pytest.raises(jaxbert.UserError, match=r"^train \(pandas frame\), row 6: column 'label' is empty"):
        finetune(run, train=frame, output_dir=tmp_path / "run")


def test_a_file_of_keys_and_changes_of_it(tmp_path):
    from jaxbert.settings import make_config, place_keys

    path = tmp_path / "run.yaml"
    path.write_text("task: multi_label\ntrain: {epochs: 5, seed: 3}\noptimizer: {learning_rate: 1e-3}\n")
    config = make_config(path, place_keys({"epochs": 2, "mesh": {"data": 1}, "data__label": ("a", "b")}))
    assert (config.task, config.train.epochs, config.train.seed) == ("multi_label", 2, 3)
    assert (config.optimizer.learning_rate, config.mesh.data, config.data.label) == (1e-3, 1, ["a", "b"])
    assert make_config(config, {}) == config


def test_several_sections_with_a_key_are_named(monkeypatch):
    from jaxbert import settings

    monkeypatch.setattr(settings, "KEYS", [*settings.KEYS, "mesh.epochs"])
    with pytest.raises(
        jaxbert.UserError, match="key epochs is in several sections: write train__epochs or mesh__epochs"
    ):
        settings.place_keys({"epochs": 1})


def test_no_callback_is_called_after_one_has_raised():
    """What is still to be read when a run ends by an exception must not raise another one."""
    recorder = Recorder()

    def fail(event, step, values):
        raise CrashError

    told = Callbacks([fail, recorder])
    with pytest.raises(CrashError):
        told.tell("step", 1, {})
    told.tell("step", 2, {})
    assert recorder.events == []


SEVERAL = """
import jaxbert
from jaxbert.processes import is_main
from python_runs import SETTINGS, Recorder, rows_of

recorder = Recorder(stop_at=2)
settings = SETTINGS | {"model": FOLDER + "/model", "validation": rows_of(37, seed=1)}
try:
    jaxbert.finetune(rows_of(100), **settings)
except jaxbert.UserError as error:
    assert "name its folder by output_dir" in str(error)
result = jaxbert.finetune(rows_of(100), callbacks=recorder, output_dir=FOLDER + "/several", **settings)
assert result.model.evaluate(rows_of(37, seed=1)) == result.metrics
print(is_main(), recorder.events)
"""


@pytest.mark.long
@pytest.mark.slow
def test_several_processes(run, monkeypatch):
    """They join as those of the command line do, and a callback ends all of them after the same step."""
    tests = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, tests)))
    program = f"FOLDER = {str(run.problem.folder)!r}\n{SEVERAL}"
    with Cluster(2, 1).start(program=program) as running:
        ended = [finish(process) for process in running]
    assert [code for code, _, _ in ended] == [0, 0], ended
    events = [("step", 1), ("step", 2), ("step", 3), ("evaluate", 3), ("save", 3)]
    assert [out.splitlines()[-1] for _, out, _ in ended] == [f"{main} {events}" for main in (True, False)]
    assert "steps" in ended[0][2]
    assert "steps" not in ended[1][2]
