"""When the loop evaluates, saves, keeps and stops; the step is a counter, so that only the loop is tested."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from runs import small_config

from jaxbert.config import Config, TrainConfig
from jaxbert.data.batches import batch_size_of
from jaxbert.errors import StoppedError, UserError
from jaxbert.runs.checkpoint import Checkpoints
from jaxbert.tasks.base import Evaluation
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.optimizer import Backward
from jaxbert.train.programs import Compiled
from jaxbert.train.run import NOTHING, Run, _check_chosen
from jaxbert.train.step import make_group_step
from jaxbert.train.trainer import Progress, Trainer

STEPS_PER_EPOCH = 5
EXAMPLES = 3


class Recorder:
    """Stands for the report."""

    def __init__(self):
        self.lines, self.said, self.steps, self.compiled, self.bad_steps = [], [], [], [], 0

    def progress(self, step, loss, examples_per_second, tokens_per_second, bad_steps):
        self.steps.append(step)
        self.bad_steps = bad_steps

    def compiling(self, rows):
        self.compiled.append(rows)

    def say(self, line):
        self.said.append(line)

    def log(self, step, values):
        self.lines.append((step, values))

    def flush(self):
        self.flushed = len(self.lines)

    def losses(self):
        return {step: values["train_loss"] for step, values in self.lines if "train_loss" in values}

    def evaluated(self):
        return [step for step, values in self.lines if "eval_accuracy" in values]


def count_step(state, batch, key):
    """Add one to the step and to the parameter; the loss of step i is i for each example; token 7 makes a step bad."""
    step = state["step"] + 1
    bad = (batch["input_ids"] == 7).any()
    examples = batch["example_mask"].sum()
    sums = {
        "loss": step * examples.astype(jnp.float32),
        "examples": examples,
        "grad_norm": jnp.float32(0),
        "learning_rate": jnp.float32(0.5),
        "bad": bad,
    }
    return {"step": step, "params": {"w": state["params"]["w"] + 1.0}}, sums


def first_state():
    return {"step": jnp.int32(0), "params": {"w": jnp.zeros(4)}}


def feed(epoch, first_step=0, bad=()):
    for step in range(first_step, STEPS_PER_EPOCH):
        tokens = np.ones((EXAMPLES, 2), np.int32)
        yield {
            "input_ids": tokens * (7 if epoch * STEPS_PER_EPOCH + step + 1 in bad else 1),
            "segment_ids": tokens,
            "example_mask": np.ones((EXAMPLES, 1), bool),
            "example_ids": np.arange(EXAMPLES)[:, None] + step * EXAMPLES,
        }


def put(*batches):
    """As `Program.put` does on a mesh."""
    return jax.device_put(batches[0] if len(batches) == 1 else jax.tree.map(lambda *arrays: np.stack(arrays), *batches))


def measured(score, loss):
    """Return the metrics of an evaluation; a score that is a dictionary is some of them."""
    found = score if isinstance(score, dict) else {"accuracy": score}
    return {"accuracy": 0.5, "loss": loss, "per_class": {"a": {"f1": 0.25}}, "confusion_matrix": [[1]]} | found


def make_loop(folder, scores=None, total_steps=10, first=None, bad=(), **config):
    """Return a loop whose evaluations give `scores` one after another, and its checkpoints; steps in `bad` are bad."""
    config = TrainConfig(**{"log_every": 1, **config})
    left = iter(scores or ())
    steps = [Compiled(fn, donate_argnums=0) for fn in (count_step, make_group_step(count_step))]
    program = SimpleNamespace(
        model=SimpleNamespace(config=small_config()),
        trainable=SimpleNamespace(backward=Backward()),
        total_steps=total_steps,
        steps_per_dispatch=config.steps_per_dispatch or 1,
        step_programs=lambda: steps,
        put=put,
        count=batch_size_of,
        arguments=jax.random.key(0),
    )
    examples = SimpleNamespace(examples_of=lambda ids: ids, source_rows=lambda documents: documents + 100)
    run = SimpleNamespace(
        config=Config(train=config),
        program=program,
        step_programs=lambda: steps,
        inputs=SimpleNamespace(train=examples, validation={} if scores is None else {"validation": None}),
        predictor=SimpleNamespace(
            evaluate=lambda params, sets: Evaluation(measured(next(left), float(params["w"][0])), {})
        ),
        epoch_batches=partial(feed, bad=bad),
        steps_per_epoch=STEPS_PER_EPOCH,
        best_metric=config.best_metric or "accuracy",
        additions=NOTHING,
        settle=None,
    )
    run.batches_from = partial(Run.batches_from, run)
    checkpoints = Checkpoints(folder, config.keep_checkpoints)
    state, progress = first or (first_state(), Progress())
    return Trainer(run, state, progress, checkpoints), checkpoints


def run(folder, *args, **kwargs):
    loop, checkpoints = make_loop(folder, *args, **kwargs)
    report = Recorder()
    with checkpoints:
        loop.train(report)
        return loop, report, checkpoints.steps


def test_every_step_is_reported_once_and_in_order(tmp_path):
    loop, report, _ = run(tmp_path)
    assert report.steps == list(range(1, 11))
    assert report.losses() == {step: float(step) for step in range(1, 11)}
    assert int(loop.state["step"]) == loop.progress.step == 10
    assert loop.progress.examples == 10 * EXAMPLES
    assert loop.progress.loss_sum == EXAMPLES * sum(range(1, 11))


@pytest.mark.parametrize("together", [1, 2, 4])
def test_bad_steps_are_counted_and_left_out_of_the_loss(tmp_path, together):
    loop, report, _ = run(tmp_path, bad=(3, 4, 8), max_bad_steps=3, steps_per_dispatch=together)
    assert report.steps == list(range(1, 11))
    assert loop.progress.bad_steps == report.bad_steps == 3
    assert loop.progress.bad_in_a_row == 0
    assert loop.progress.examples == 7 * EXAMPLES
    assert loop.progress.loss_sum == EXAMPLES * (sum(range(1, 11)) - 3 - 4 - 8)
    assert report.losses() == {step: None if step in (3, 4, 8) else float(step) for step in range(1, 11)}
    noted = {step: values["bad_rows"] for step, values in report.lines if "bad_step" in values}
    assert noted == {3: [106, 107, 108], 4: [109, 110, 111], 8: [106, 107, 108]}


def test_too_many_bad_steps_in_a_row_stop_the_run_and_name_the_rows(tmp_path):
    with pytest.raises(UserError, match=r"at 3 steps in a row, up to step 8 .* rows 106, 107, 108 of data\.train"):
        run(tmp_path, bad=(2, 3, 6, 7, 8), max_bad_steps=3)


def test_a_run_of_which_every_step_is_bad_is_not_complete(tmp_path):
    """It has fewer steps than `max_bad_steps`, and would export the weights with which it began."""
    with pytest.raises(UserError, match="was not finite at 2 steps in a row, up to step 2"):
        run(tmp_path, total_steps=2, bad=(1, 2))
    assert run(tmp_path / "one", total_steps=2, bad=(2,))[0].progress.bad_steps == 1


@pytest.mark.parametrize("together", [2, 3, 4, 100])
@pytest.mark.parametrize("intervals", [{}, {"eval_every": 3, "checkpoint_every": 4}, {"log_every": 4}], ids=str)
def test_steps_that_are_dispatched_together_change_nothing_else(tmp_path, together, intervals):
    """The last step, 12, lies within an epoch."""

    def facts(folder, **config):
        scores = [0.5, 0.4, 0.6, 0.2]
        loop, report, steps = run(folder, scores, total_steps=12, keep_checkpoints=9, **intervals, **config)
        lines = [
            (step, {name: value for name, value in values.items() if "per_second" not in name})
            for step, values in report.lines
        ]
        return lines, report.steps, steps, loop.progress, int(loop.state["step"])

    assert facts(tmp_path / "together", steps_per_dispatch=together) == facts(tmp_path / "alone")


def test_steps_are_dispatched_together(tmp_path):
    loop, report, _ = run(tmp_path, total_steps=12, checkpoint_every=12, eval_every=12, steps_per_dispatch=2)
    # Two by two, across the end of an epoch too: one program.
    assert report.compiled == [EXAMPLES]
    assert [program.count for program in loop.programs] == [0, 1]


def test_tuned_steps_are_dispatched_together(tmp_path):
    """The program says how many: the configuration has no number of its own."""
    loop, checkpoints = make_loop(tmp_path, total_steps=12, checkpoint_every=12, eval_every=12)
    loop.run.program.steps_per_dispatch = 2
    with checkpoints:
        loop.train(Recorder())
    assert [program.count for program in loop.programs] == [0, 1]


def test_a_line_is_the_mean_since_the_last_one(tmp_path):
    _, report, _ = run(tmp_path, log_every=4)
    assert report.losses() == {4: np.mean([1, 2, 3, 4]), 8: np.mean([5, 6, 7, 8]), 10: 9.5}, "and of the last step"


def test_a_window_goes_on_behind_a_checkpoint(tmp_path):
    run(tmp_path, total_steps=6, checkpoint_every=3, log_every=4)
    with Checkpoints(tmp_path) as checkpoints:
        first = checkpoints.restore(3, first_state())
    first = first[0], Progress(**first[1])
    _, report, _ = run(tmp_path / "other", first=first, total_steps=8, log_every=4)
    assert report.losses() == {4: np.mean([1, 2, 3, 4]), 8: np.mean([5, 6, 7, 8])}


def test_without_intervals_it_evaluates_and_saves_after_each_epoch(tmp_path):
    _, report, steps = run(tmp_path, [0.1, 0.2, 0.3], total_steps=12, keep_checkpoints=9)
    assert report.evaluated() == [5, 10, 12]
    assert steps == [5, 10, 12]


def test_intervals(tmp_path):
    scores = [0.5, 0.4, 0.3, 0.2]
    _, report, steps = run(tmp_path, scores, total_steps=11, eval_every=3, checkpoint_every=4, keep_checkpoints=9)
    assert report.evaluated() == [3, 6, 9, 11]
    # 3 was the best so far, so it was saved as well.
    assert steps == [3, 4, 8, 11]


@pytest.mark.parametrize(("keep", "kept"), [(1, [4, 12]), (2, [4, 10, 12]), (3, [4, 8, 10, 12])])
def test_the_last_checkpoints_and_the_best_are_kept(tmp_path, keep, kept):
    scores = [0.1, 0.9, 0.2, 0.3, 0.9, 0.4]
    loop, _, steps = run(tmp_path, scores, total_steps=12, eval_every=2, checkpoint_every=2, keep_checkpoints=keep)
    assert steps == kept
    assert (loop.progress.best_step, loop.progress.best_value) == (4, 0.9)
    with Checkpoints(tmp_path, keep) as checkpoints:
        state, progress = checkpoints.restore(4, first_state())
    assert state["params"]["w"].tolist() == [4.0] * 4
    assert progress["evaluation"]["accuracy"] == 0.9


def test_a_better_one_replaces_the_best(tmp_path):
    scores = [0.1, 0.2, 0.3, 0.25, 0.2, 0.1]
    _, _, steps = run(tmp_path, scores, total_steps=12, eval_every=2, checkpoint_every=2, keep_checkpoints=1)
    assert steps == [6, 12]


def test_the_best_is_kept_by_a_run_that_goes_on(tmp_path):
    run(tmp_path, [0.9, 0.1], total_steps=4, eval_every=2, checkpoint_every=2, keep_checkpoints=1)
    with Checkpoints(tmp_path, 1) as checkpoints:
        state, progress = checkpoints.restore(4, first_state())
    first = state, Progress(**progress)
    _, _, steps = run(tmp_path, [0.2] * 9, first=first, eval_every=2, checkpoint_every=2, keep_checkpoints=1)
    assert steps == [2, 10]


def test_the_loss_is_minimized(tmp_path):
    """It grows with every step here, so the first is the best."""
    loop, _, _ = run(tmp_path, [0.1, 0.2], best_metric="loss")
    assert loop.progress.best_step == 5


@pytest.mark.parametrize("metric", ["mse", "mae", "perplexity"])
def test_an_error_is_minimized_and_does_not_stop_the_run_while_it_falls(tmp_path, metric):
    values = [{metric: value} for value in (6.5, 6.0, 4.0, 2.5, 3.0, 2.75)]
    options = {"best_metric": metric, "early_stopping_patience": 2, "eval_every": 2, "checkpoint_every": 99}
    loop, report, steps = run(tmp_path, values, total_steps=100, keep_checkpoints=1, **options)
    assert (loop.progress.best_step, loop.progress.best_value) == (8, -2.5)
    assert loop.progress.step == 12
    assert steps == [8, 12]
    assert ["best so far" in line for line in report.said] == [True] * 4 + [False] * 2


def test_an_evaluation_that_is_no_number_is_never_the_best(tmp_path, caplog):
    for name, scores in {"accuracy": [math.nan, 0.2, math.inf, 0.1], "mse": [math.nan, 4.0, -math.inf, 5.0]}.items():
        caplog.clear()
        values = [{name: score} for score in scores]
        loop, report, _ = run(tmp_path / name, values, best_metric=name, total_steps=8, eval_every=2)
        assert loop.progress.best_step == 4
        assert loop.progress.evaluations_since_best == 2
        assert ["best so far" in line for line in report.said] == [False, True, False, False]
        assert [record.getMessage() for record in caplog.records] == [
            f"step 2: {name} is nan: such an evaluation counts as worse than all others"
        ]


def test_a_good_score_of_a_model_whose_loss_is_no_number_is_not_the_best(tmp_path, caplog):
    values = [{"accuracy": 0.3}, {"accuracy": 0.9, "loss": math.nan}]
    loop, _, _ = run(tmp_path, values, total_steps=4, eval_every=2)
    assert loop.progress.best_step == 2
    assert "step 4: the loss is nan" in caplog.text


@pytest.mark.parametrize(
    ("metric", "stored", "worse", "better"),
    [("loss", -3.0, 3.5, 2.5), ("mse", 3.0, 3.5, 2.5), ("mse", -3.0, 3.5, 2.5), ("accuracy", 0.5, 0.4, 0.6)],
)
def test_the_best_of_a_checkpoint_counts_whatever_its_sign(tmp_path, metric, stored, worse, better):
    """Older versions negated the loss alone."""
    remembered = dataclasses.asdict(Progress(step=2, best_step=2, best_value=stored, evaluation={"per_class": {}}))
    progress = Progress.of(remembered, metric)
    assert progress.evaluation == {}
    first = {"step": jnp.int32(2), "params": {"w": jnp.full(4, 2.0)}}, progress
    values = [{metric: worse}, {metric: better}]
    loop, report, _ = run(tmp_path, values, first=first, total_steps=6, eval_every=2, best_metric=metric)
    assert ["best so far" in line for line in report.said] == [False, True]
    assert loop.progress.best_step == 6


def test_lines_and_checkpoints_hold_single_numbers(tmp_path):
    loop, report, _ = run(tmp_path, [{"sets": {"en": {"loss": 0.5, "per_class": {}}}}], total_steps=2)
    numbers = {"accuracy": 0.5, "loss": 2.0, "sets": {"en": {"loss": 0.5}}}
    assert loop.progress.evaluation == numbers
    (line,) = (values for _, values in report.lines if "eval_loss" in values)
    assert line == {f"eval_{name}": value for name, value in numbers.items()}
    assert set(loop.details[2].metrics) == {*numbers, "per_class", "confusion_matrix"}


def test_early_stopping(tmp_path):
    scores = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]
    loop, report, steps = run(tmp_path, scores, total_steps=100, eval_every=2, early_stopping_patience=3)
    assert report.evaluated() == [2, 4, 6, 8, 10]
    assert loop.progress.step == 10
    assert loop.progress.best_step == 4
    assert steps[-1] == 10
    assert 4 in steps


@pytest.mark.parametrize("sets", [{}, {"validation": None}])
def test_early_stopping_without_evaluations_is_told(sets, caplog):
    config = Config(train=TrainConfig(early_stopping_patience=1))
    inputs = SimpleNamespace(validation=sets, task=Classification(("bad", "good")))
    _check_chosen(config, inputs)
    said = [
        record.message for record in caplog.records if "train.early_stopping_patience has no effect" in record.message
    ]
    assert len(said) == (not sets)


def test_early_stopping_counts_on_behind_a_stop(tmp_path):
    progress = Progress(step=4, best_step=2, best_value=0.9, evaluations_since_best=1)
    first = {"step": jnp.int32(4), "params": {"w": jnp.full(4, 4.0)}}, progress
    loop, _, _ = run(tmp_path, [0.1] * 9, first=first, total_steps=100, eval_every=2, early_stopping_patience=2)
    assert loop.progress.step == 6


def test_the_state_is_donated(tmp_path):
    loop, checkpoints = make_loop(tmp_path, total_steps=3)
    before = loop.state["params"]["w"]
    with checkpoints:
        loop.train(Recorder())
    assert before.is_deleted()


@pytest.mark.parametrize(("number", "together"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_the_step_and_stops(tmp_path, number, together):
    handler = signal.getsignal(number)
    loop, checkpoints = make_loop(tmp_path, total_steps=1000, steps_per_dispatch=together)
    report = Recorder()
    report.log = lambda step, values: os.kill(os.getpid(), number) if step == 7 else None
    with checkpoints, pytest.raises(StoppedError, match="run the same command to resume"):
        loop.train(report)
    step = loop.progress.step
    assert 7 <= step <= 9
    assert checkpoints.folder.joinpath(str(step)).is_dir()
    assert int(loop.state["step"]) == step
    assert signal.getsignal(number) is handler


def test_saving_does_not_ask_whether_to_stop(tmp_path, monkeypatch):
    """JAX's service counts by what it was asked last: a save that asked too would put off the stop, or lose it."""
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step)))
    _, _, steps = run(tmp_path, [0.1] * 6, total_steps=6, checkpoint_every=1, keep_checkpoints=9)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert asked == []


def test_the_next_epoch_is_prepared_before_this_one_ends(tmp_path):
    loop, checkpoints = make_loop(tmp_path, total_steps=10, checkpoint_every=100)
    begun, epochs = threading.Event(), []

    def watched(epoch, first_step=0):
        epochs.append(epoch)
        if epoch == 1:
            begun.set()
        yield from feed(epoch, first_step)

    class Waiting(Recorder):
        def progress(self, step, *rest):
            super().progress(step, *rest)
            assert step != STEPS_PER_EPOCH or begun.wait(10), "the last step of an epoch ended first"

    loop.run.epoch_batches = watched
    report = Waiting()
    with checkpoints:
        loop.train(report)
    assert report.steps == list(range(1, 11))
    assert epochs == [0, 1]


def test_an_error_of_the_data_ends_the_run(tmp_path):
    loop, checkpoints = make_loop(tmp_path)

    def broken(epoch, first_step=0):
        yield from feed(epoch, 3)
        raise OSError("the disk is gone")

    loop.run.epoch_batches = broken
    with checkpoints, pytest.raises(OSError, match="the disk is gone"):
        loop.train(Recorder())


def test_an_error_of_the_next_epoch_comes_after_this_one(tmp_path):
    """Its batches are prepared ahead: what the steps before it did is kept."""
    loop, checkpoints = make_loop(tmp_path)

    def broken(epoch, first_step=0):
        if epoch == 1:
            raise OSError("the disk is gone")
        yield from feed(epoch, first_step)

    loop.run.epoch_batches = broken
    report = Recorder()
    with checkpoints, pytest.raises(OSError, match="the disk is gone"):
        loop.train(report)
    assert report.steps == list(range(1, STEPS_PER_EPOCH + 1))


def test_a_save_that_fails_in_the_background_ends_the_run(tmp_path, monkeypatch):
    """The files of the step are written by threads; what goes wrong there must not be lost."""
    from orbax.checkpoint import JsonCheckpointHandler

    def broken(self, *args, **kwargs):
        raise OSError("no space left on device")

    loop, checkpoints = make_loop(tmp_path, checkpoint_every=2)
    monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", broken)
    with pytest.raises(Exception, match="no space left on device"), checkpoints:
        loop.train(Recorder())
