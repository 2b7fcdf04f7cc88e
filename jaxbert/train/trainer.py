"""The training loop: begin or resume, take the steps, evaluate and save when it is time, export and summarize.

The loop dispatches some steps, then reads the results of the steps before. `step` computes, the run supplies the batches,
`report` prints; the trainer decides when.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxbert.config import Config
from jaxbert.data.batches import Batch, BatchSize, Prefetcher
from jaxbert.data.overview import TRAIN
from jaxbert.errors import DivergedError, StoppedError, UserError
from jaxbert.models.functional import Params
from jaxbert.processes import Interrupt, all_alike, is_main, main_decides, wait_for_all
from jaxbert.runs.checkpoint import Checkpoints, committed_steps
from jaxbert.runs.export import SIZES_OF_LAYERS, model_card, save_start, write_card
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.identity import Identity, go_on, identify, known_labels
from jaxbert.runs.lock import RunLock, owned
from jaxbert.tasks.base import Evaluation, Outcome
from jaxbert.tasks.decision import Tuning
from jaxbert.tasks.metrics import falls, improves, merit, value_of
from jaxbert.tasks.reading import set_name
from jaxbert.terminal import console
from jaxbert.train.evaluate import Calibrated, calibrate_model, numbers_of, with_details
from jaxbert.train.inference import Finished, TrainedModel
from jaxbert.train.programs import CompileLog, group_batches
from jaxbert.train.report import Report, data_notes, data_table, metrics_headline
from jaxbert.train.run import NOTHING, Additions, Run, Stages, open_run
from jaxbert.train.speed import Speed
from jaxbert.train.step import DeviceBatch, State
from jaxbert.versions import say_untested

logger = logging.getLogger("jaxbert")

_NAMED_ROWS = 20

Opener = Callable[[Config, RunFolder, Sequence[str], Additions], Run]
"""`(config, folder, known labels, additions) -> run`, like `open_run`."""
Group = tuple[list[BatchSize], list[np.ndarray], DeviceBatch]
"""Steps that run as one program: the size and the example ids of each step, and the arrays."""


@dataclass
class Progress:
    """The numbers that the trainer keeps besides the state; saved with every checkpoint."""

    step: int = 0
    loss_sum: float = 0.0
    examples: int = 0
    window_loss_sum: float = 0.0
    """Loss sum since the last line of metrics, like `window_examples`; the two above count from the beginning."""
    window_examples: int = 0
    bad_steps: int = 0
    """The number of steps whose loss or gradient was not finite; no other count includes them, except `step`."""
    bad_in_a_row: int = 0
    best_step: int | None = None
    best_value: float | None = None
    """The best value of the metric so far, negated if lower is better: larger is always better."""
    evaluations_since_best: int = 0
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The scalar metrics of the last evaluation."""
    sizes: dict[str, int] = field(default_factory=dict)
    """The sizes of a model that was pruned, by their names in its configuration."""

    @classmethod
    def of(cls, remembered: dict[str, Any], best_metric: str) -> Progress:
        """Read the progress of a checkpoint, also of an older version, which negated `loss` alone and kept all metrics."""
        progress = cls(**remembered)
        if progress.best_value is not None and falls(best_metric):
            progress.best_value = -abs(progress.best_value)  # a metric that falls is never below 0
        progress.evaluation = numbers_of(progress.evaluation)
        return progress


class Trainer:
    """Trains a run from a given state to its end."""

    def __init__(
        self,
        run: Run,
        state: State,
        progress: Progress,
        checkpoints: Checkpoints,
        before_saving: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the trainer; `before_saving` raises if this process does not own the run folder any more."""
        self.run = run
        self.state = state
        self.progress = progress
        self.speed = Speed(run.program.model.config, run.program.trainable.backward)
        self.programs = run.step_programs()
        """The single step, and several steps as one program."""
        self.details: dict[int, Evaluation] = {}
        """The best and the last evaluation by step, if this start made them."""
        self._config = run.config.train
        self._callbacks = run.additions.callbacks
        self._stages = run.additions.stages
        self._arguments = run.program.arguments
        self._checkpoints = checkpoints
        self._before_saving = before_saving
        self._dispatched = progress.step
        self._said_unusable = False
        self._settled = -1
        self._pending: tuple[list[np.ndarray], dict[str, Array]] | None = None

    def train(self, report: Report) -> None:
        """Train until the last step, early stopping or a callback's request, and save the final state.

        Raises:
          StoppedError: if a signal came; the state of the last step is saved.
        """
        with Interrupt() as interrupt:
            while not self._done():
                if self._stages is not None and self._stages.is_due(self._dispatched):
                    self._change_shape(self._stages, report)
                self._take_steps(report, interrupt)
            if self.run.settle is not None:
                self._settle(self.run.settle)
            if self._callbacks.stop and self.run.inputs.validation and self.progress.step not in self.details:
                self._evaluate(report)
        self._save()
        self._checkpoints.wait()

    @property
    def _params(self) -> Params:
        """The parameters that are evaluated and exported: their moving average, if there is one."""
        return self.state["ema"] if "ema" in self.state else self.state["params"]

    def _done(self) -> bool:
        patience, stages, step = self._config.early_stopping_patience, self._stages, self._dispatched
        stale = patience is not None and self.progress.evaluations_since_best >= patience
        if stages is not None and (stages.is_due(step) or stages.next_after(step) is not None):
            stale = False  # the model has not got its last shape yet
        return stale or self._callbacks.stop or step >= self.run.program.total_steps

    def _change_shape(self, stages: Stages, report: Report) -> None:
        """Give the model its next shape; only evaluations from here on can be the best."""
        self.run, self.state = stages.change(self.run, self.state, self._dispatched)
        self.programs = self.run.step_programs()
        program, progress = self.run.program, self.progress
        self.speed.bert_config, self.speed.backward = program.model.config, program.trainable.backward
        progress.best_step = progress.best_value = None
        progress.evaluations_since_best, self.details = 0, {}
        progress.sizes = {name: getattr(program.model.config, name) for name in SIZES_OF_LAYERS}
        report.say(f"step {progress.step}: pruned to {program.parameters:,} parameters")

    def _take_steps(self, report: Report, interrupt: Interrupt) -> None:
        """Take the steps of this shape that are left; the first batches of an epoch are ready when the one before ends."""
        program = self.run.program

        def prepare(batches: list[Batch]) -> Group:
            example_ids = [batch["example_ids"][batch["example_mask"]] for batch in batches]
            return [*map(program.count, batches)], example_ids, program.put(*batches)

        change = None if self._stages is None else self._stages.next_after(self._dispatched)
        until = program.total_steps if change is None else change
        feed = itertools.islice(self.run.batches_from(self._dispatched), until - self._dispatched)
        groups = group_batches(feed, program.steps_per_dispatch, self._dispatched, self._is_milestone)
        with Prefetcher(groups, prepare) as loader:
            self.speed.resume()
            try:
                for group, waited in loader.timed():
                    self._dispatch(group, waited, report)
                    stop = interrupt.agreed()
                    if self._is_milestone(self._dispatched) or stop:
                        self._flush(report)
                        self.speed.pause()
                        self._at_milestone(report)
                        if stop:
                            self._stop()
                        if self._done():
                            return
                        self.speed.resume()
                    elif self._callbacks.stop:
                        return
            finally:
                self._flush(report)
                self.speed.pause()

    def _dispatch(self, group: Group, waited: float, report: Report) -> None:
        """Start the steps of a group, then read the sums of the group before while these run."""
        sizes, example_ids, batch = group
        program = self.programs[len(sizes) > 1]
        if not program.has(batch):
            self._flush(report)
            self.speed.pause()
            report.compiling(batch["input_ids"].shape[-2])
            program.compile(self.state, batch, self._arguments)
            self.speed.resume()
        self.speed.add(sizes, waited)
        with jax.transfer_guard("disallow"):
            self.state, sums = program(self.state, batch, self._arguments)
        previous, self._pending = self._pending, (example_ids, sums)
        self._dispatched += len(sizes)
        if previous is not None:
            self._read(*previous, report)

    def _flush(self, report: Report) -> None:
        """Read the last dispatched group; this waits until it has finished."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._read(*pending, report)

    def _read(self, example_ids: list[np.ndarray], sums: dict[str, Array], report: Report) -> None:
        """Count and report the steps of a group."""
        values = {name: np.ravel(value) for name, value in jax.device_get(sums).items()}
        for step, ids in enumerate(example_ids):
            self._count({name: value[step] for name, value in values.items()}, ids, report)

    def _count(self, values: dict[str, Any], example_ids: np.ndarray, report: Report) -> None:
        """Add the sums of a step to the progress, and report it."""
        progress, bad = self.progress, bool(values["bad"])
        progress.step += 1
        loss, examples = float(values["loss"]), int(values["examples"])
        numbers = {name: float(values[name]) for name in ("learning_rate", "grad_norm")}
        if bad:
            self._count_bad(loss, numbers["grad_norm"], example_ids, report)
        else:
            progress.bad_in_a_row = 0
            progress.loss_sum += loss
            progress.examples += examples
            progress.window_loss_sum += loss
            progress.window_examples += examples
        seconds = max(self.speed.elapsed, 1e-9)
        per_second = self.speed.examples / seconds, self.speed.real_tokens / seconds
        rates = dict(zip(("examples_per_second", "real_tokens_per_second"), per_second, strict=True))
        report.progress(progress.step, loss / examples, *per_second, progress.bad_steps)
        if self._is_time(progress.step, self._config.log_every):
            report.log(progress.step, self._window(numbers, rates))
        epoch = progress.step / self.run.steps_per_epoch
        told = {"loss": loss / examples, **numbers, "bad": bad, "epoch": epoch, **rates}
        self._callbacks.tell("step", progress.step, told)

    def _count_bad(self, loss: float, grad_norm: float, example_ids: np.ndarray, report: Report) -> None:
        """Record a step that changed nothing because its loss or gradient was not finite.

        Raises:
          DivergedError: if there were too many such steps in a row.
        """
        progress, examples = self.progress, self.run.inputs.train
        most = min(self._config.max_bad_steps, self.run.program.total_steps)  # a run that changed nothing is no run
        progress.bad_steps += 1
        progress.bad_in_a_row += 1
        rows = np.sort(examples.source_rows(examples.examples_of(example_ids))).tolist()
        report.log(progress.step, {"bad_step": True, "bad_rows": rows})
        if progress.bad_in_a_row >= most:
            named = ", ".join(map(str, rows[:_NAMED_ROWS])) + (", ..." if len(rows) > _NAMED_ROWS else "")
            raise DivergedError(
                f"loss or gradient was not finite at {most} steps in a row, up to step {progress.step} (loss {loss}, "
                f"norm of the gradient {grad_norm}), whose batch is rows {named} of data.train, counted from 0 (all in "
                "metrics.jsonl): lower optimizer.learning_rate, or look at these rows"
            )

    def _window(self, numbers: dict[str, float], rates: dict[str, float]) -> dict[str, Any]:
        """Return the metrics since the last line, and start the next line."""
        progress = self.progress
        loss = progress.window_loss_sum / progress.window_examples if progress.window_examples else None
        progress.window_loss_sum, progress.window_examples = 0.0, 0
        return {
            "train_loss": loss,
            "epoch": round(progress.step / self.run.steps_per_epoch, 4),
            **numbers,
            "bad_steps": progress.bad_steps,
            **{name: round(rate, 1) for name, rate in rates.items()},
        }

    def _is_time(self, step: int, every: int | None) -> bool:
        return step % (every or self.run.steps_per_epoch) == 0 or step >= self.run.program.total_steps

    def _is_milestone(self, step: int) -> bool:
        return self._is_time(step, self._config.checkpoint_every) or self._is_time(step, self._config.eval_every)

    def _at_milestone(self, report: Report) -> None:
        """Evaluate, then save, so that the checkpoint includes its own evaluation."""
        improved, step = False, self._dispatched
        if self.run.settle is not None:
            self._settle(self.run.settle)
        if self.run.inputs.validation and self._is_time(step, self._config.eval_every):
            improved = self._evaluate(report)
        if improved or self._is_time(step, self._config.checkpoint_every):
            self._before_saving()
            report.flush()
            self._save()

    def _settle(self, fit: Callable[[Run, State], State]) -> None:
        """Fit the head to this state, unless it is fitted already."""
        if self._settled != self._dispatched:
            self.state, self._settled = fit(self.run, self.state), self._dispatched

    def _evaluate(self, report: Report) -> bool:
        """Evaluate; return whether the result is the best so far."""
        assert self.run.inputs.validation
        progress, name = self.progress, self.run.best_metric
        evaluation = self.run.predictor.evaluate(self._params, self.run.inputs.validation)
        metrics = evaluation.metrics
        progress.evaluation = numbers_of(metrics)
        report.log(progress.step, {f"eval_{k}": v for k, v in progress.evaluation.items()})
        value, best = value_of(metrics, name), progress.best_value
        usable = math.isfinite(metrics.get("loss", 0.0))
        if not usable or not math.isfinite(value):
            self._say_unusable(name, value, metrics)
        improved = usable and improves(name, value, None if best is None else merit(name, best))
        if improved:
            progress.best_step, progress.best_value = progress.step, merit(name, value)
        progress.evaluations_since_best = 0 if improved else progress.evaluations_since_best + 1
        self.details = {step: kept for step, kept in self.details.items() if step == progress.best_step}
        self.details[progress.step] = evaluation
        report.say(f"step {progress.step}: {metrics_headline(metrics, name)}{'  (best so far)' if improved else ''}")
        self._callbacks.tell("evaluate", progress.step, metrics)
        return improved

    def _say_unusable(self, name: str, value: float, metrics: dict[str, Any]) -> None:
        """Tell the user once that an evaluation cannot be the best."""
        if not self._said_unusable:
            self._said_unusable = True
            found = f"{name} is {value}" if not math.isfinite(value) else f"the loss is {metrics['loss']}"
            logger.warning("step %d: %s: such an evaluation counts as worse than all others", self.progress.step, found)

    def _save(self) -> None:
        step = self.progress.step
        if self._checkpoints.save(step, self.state, asdict(self.progress), self.progress.best_step):
            self._callbacks.tell("save", step, self._checkpoints.folder / str(step))

    def _stop(self) -> None:
        self._before_saving()
        self._save()
        self._checkpoints.wait()
        raise StoppedError(self.progress.step)

    def _tune(self, params: Params, evaluation: Evaluation | None) -> Calibrated:
        """Choose temperature and thresholds on the validation set, as far as the configuration asks for them."""
        run = self.run
        tuning = Tuning.of(self._config)
        return calibrate_model(run.predictor, params, run.inputs.task, run.inputs.validation, tuning, evaluation)

    def finish(self, log: CompileLog, more: Callable[[], dict[str, Any]] = dict) -> Finished:
        """Export the best parameters (the last ones if those are lost), evaluate the test set, and write the summary.

        `more` returns further entries of the summary.
        """
        run, progress = self.run, self.progress
        exported, evaluation = progress.step, progress.evaluation
        best = progress.best_step
        if self._config.keep_best and best not in (None, exported) and self._checkpoints.is_whole(best):
            exported, self.state = best, {}  # the devices need not hold two states
            self.state, remembered = self._checkpoints.restore(exported, run.program.state_target)
            evaluation = numbers_of(remembered["evaluation"])
        params, task, record = self._params, run.inputs.task, dict[str, Any]()
        outcomes: dict[str, Outcome] = {}
        if run.inputs.validation:
            tuned = self._tune(params, self.details.get(exported))
            params, task, record = tuned.params, tuned.task, tuned.record
            # Calibration and thresholds change the metrics; else those of the checkpoint stay.
            changed = Tuning.of(self._config).anything
            evaluation = tuned.evaluation.metrics if changed else with_details(evaluation, tuned.evaluation.metrics)
            outcomes |= {set_name("validation", name): outcome for name, outcome in tuned.evaluation.outcomes.items()}
        task = run.export(params, evaluation, task)
        tested = run.predictor.evaluate(params, run.inputs.test, task) if run.inputs.test else None
        if tested is not None:
            outcomes |= {set_name("test", name): outcome for name, outcome in tested.outcomes.items()}
        summary = {
            "steps": progress.step,
            "epochs": round(progress.step / run.steps_per_epoch, 4),
            "train_loss": progress.loss_sum / progress.examples if progress.examples else None,
            "bad_steps": progress.bad_steps,
            "parameters": run.program.parameters,
            "trained_parameters": run.program.trainable.count(),
            "exported_step": exported,
            **({"ema": self._config.ema} if self._config.ema else {}),
            "eval": evaluation,
            "test": tested.metrics if tested is not None else None,
            **record,
            **self.speed.summary(),
            "compile_seconds": round(log.seconds, 2),
            "compilations": log.count,
            "compilations_from_cache": log.from_cache,
            "step_programs": sum(step.count for step in (*self.programs, run.predictor.step)),
            "data": run.inputs.overview.to_dict(),
            **run.additions.facts(),
            **more(),
        }
        if is_main():
            write_card(run.folder.export, model_card(run.config, task, summary, run.folder.path.name))
            run.folder.write_predictions({name: outcome.predictions for name, outcome in outcomes.items()})
            run.folder.write_summary(summary)
        length = run.pretrained.tokenizer.model_max_length
        model = TrainedModel(task, run.pretrained.tokenizer, params, run.predictor, length)
        inputs = run.inputs if run.inputs.labelled is None else run.inputs.untaught()
        return Finished(run.config, run.folder, inputs, model, outcomes, summary)


@dataclass
class Started:
    """A run whose folder is made and owned by this process, before its first step."""

    run: Run
    params: Params | None
    """The first parameters, if the folder is new: a damaged model must not leave a folder."""
    log: CompileLog
    lock: RunLock


@contextmanager
def start_training(
    config: Config,
    additions: Additions = NOTHING,
    check: Callable[[Run], None] = lambda run: None,
    opened: Opener = open_run,
) -> Iterator[Started]:
    """Open the run that `config` describes, own its folder while entered, and make the folder if it is new.

    `check` is called with the run before its folder is made, and may raise a UserError. `opened` returns the run.

    Raises:
      UserError: for a mistake in configuration, data or model, or a folder that holds something else.
    """
    folder = RunFolder(config.train.output_dir)
    folder.check(config)
    say_untested()
    with owned(folder) as lock:
        folder.check(config)  # the process that held the lock before may have ended the run
        learned, before = _has_learned(folder), Identity.read(folder.data)
        run = opened(config, folder, known_labels(folder, before) if learned else (), additions)
        check(run)
        if additions.stages is not None:
            additions.stages.check(run)
        pretrained = run.pretrained
        steps = run.program.total_steps
        now = identify(config, pretrained.bert_config, pretrained.tokenizer, pretrained.folder, run.inputs, steps)
        now = replace(now, loss=additions.loss, teacher=run.taught)
        if not all_alike(now.checksum):
            raise UserError("the processes of this run have read different data: give all of them the same files")
        kept = go_on(folder, before, now, learned=learned, accepts=config.train.accept_changed_data)
        begun = folder.config.exists()
        wait_for_all("the run folder is looked at")
        with CompileLog() as log:
            started = Started(run, None if begun else run.first_params(), log, lock)

            def make_folder() -> None:
                with folder.writing():
                    if not learned:
                        save_start(folder, run.bert_config, run.pretrained.tokenizer)
                    kept.write(folder.data)
                folder.create(config)

            main_decides(make_folder)
            yield started


def _has_learned(folder: RunFolder) -> bool:
    """Return whether the run, or one of its folds, has a checkpoint or is complete."""
    parts = [folder, *folder.parts()]
    return any(part.summary.exists() or committed_steps(part.checkpoints) for part in parts)


def run_training(
    config: Config,
    additions: Additions = NOTHING,
    opened: Opener = open_run,
    begins: Callable[[Run, int], None] | None = None,
    more: Callable[[], dict[str, Any]] = dict,
) -> Finished:
    """Train as `config` says, or resume where an earlier start stopped.

    Args:
      config: the configuration.
      additions: the additions of a Python program.
      opened: returns the run.
      begins: called before the first step as in `train_run`; None: announces it.
      more: returns further entries of the summary.

    Raises:
      UserError: for a mistake in configuration, data or model, before the first step.
      StoppedError: if a signal ended the run after saving.
    """
    with start_training(config, additions, opened=opened) as started:

        def first_state() -> State:
            params, started.params = started.params, None
            return started.run.first_state(params)

        return train_run(started.run, first_state, started.log, started.lock, begins or announce, more)


def train_run(
    run: Run,
    first_state: Callable[[], State],
    log: CompileLog,
    lock: RunLock,
    announce: Callable[[Run, int], None],
    more: Callable[[], dict[str, Any]] = dict,
) -> Finished:
    """Take a run, whose folder this process owns, from its last checkpoint to its end.

    Args:
      run: the run.
      first_state: returns the state before the first step, if there is no checkpoint.
      log: the log of compilations, for the summary.
      lock: the lock of the folder.
      announce: prints a few lines before the first step, given the run and the number of steps taken before.
      more: returns further entries of the summary, when the run is complete.
    """
    with Checkpoints(run.folder.checkpoints, run.config.train.keep_checkpoints) as checkpoints:
        if checkpoints.steps:
            last, stages = checkpoints.steps[-1], run.additions.stages
            run = run if stages is None else stages.at(run, last)
            state, remembered = checkpoints.restore(last, run.program.state_target)
            progress = Progress.of(remembered, run.best_metric)
        else:
            state, progress = first_state(), Progress()
        if is_main():
            run.folder.rewind(progress.step)
        trainer = Trainer(run, state, progress, checkpoints, lock.check)
        del state  # the trainer alone holds it, and may free it
        announce(run, progress.step)
        with Report(run.folder, run.program.total_steps, progress.step, writes=is_main()) as report:
            trainer.train(report)
        lock.check()
        return trainer.finish(log, more)


def announce(run: Run, step: int) -> None:
    """Print a few lines about the data and the work that starts after `step`."""
    show_data(run)
    if run.augmenter is not None:
        from jaxbert.train.augment import say_changed_texts

        say_changed_texts(run.augmenter, run.inputs.train, run.config.train.seed, run.pretrained.tokenizer)
    program, devices = run.program, jax.devices()
    if not program.trainable.everything:
        console.print(
            f"{program.trainable.count():,} of {program.parameters:,} parameters are trained, the others are frozen",
            highlight=False,
        )
    if run.config.train.ema:
        said = "evaluations and the export take the moving average of the parameters (train.ema)"
        console.print(said, highlight=False, soft_wrap=True)
    kind = "packed" if run.config.data.packing else "padded"
    begin = f"going on after step {step}" if step else f"{program.total_steps} steps"
    console.print(
        f"{begin}, rows of {run.layout.row_length} tokens ({kind}), {len(devices)} x {devices[0].device_kind}",
        highlight=False,
    )


def show_data(run: Run) -> None:
    """Print the table of the data sets, and the number of examples."""
    inputs = run.inputs
    overview = inputs.overview.to_dict()
    console.print(data_table(overview))
    held_out = sum(map(len, inputs.validation.values()))
    examples = "examples" if run.config.data.text_pair is None else "pairs of texts"
    learned = len(inputs.train) if TRAIN in overview["sources"] else 0
    counted = f"{learned:,} training and {held_out:,} validation {examples}, {inputs.task.describe()}"
    for line in (*data_notes(overview), counted):
        console.print(line, highlight=False, soft_wrap=True)
