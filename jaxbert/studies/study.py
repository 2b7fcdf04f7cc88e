"""A study: trial after trial until there are enough, by one process or by several; killed and started again, it goes on.

`storage` keeps the trials, `workers` knows whose trial is lost, `trial` trains one, and `results` compares them.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxbert.config import Config
from jaxbert.errors import (
    DivergedError,
    InUseError,
    StoppedError,
    UnfitError,
    UserError,
    foreign_errors,
    one_line,
    raised_as,
)
from jaxbert.options import SearchOptions
from jaxbert.plain import read_json
from jaxbert.processes import Interrupt, is_alone
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.identity import identify
from jaxbert.studies.results import (
    ERROR,
    PRUNED_AT,
    SECONDS,
    STEPS,
    Found,
    TrialRecord,
    drop_exports,
    export_best,
    print_found,
    shown_params,
    trials_of,
    write_results,
    write_shared,
)
from jaxbert.studies.space import Dimension, grid, parse_space, with_values
from jaxbert.studies.stopping import Rule, below_median, halving, never
from jaxbert.studies.storage import (
    begin_study,
    check_study,
    is_outside,
    make_sampler,
    need_optuna,
    open_storage,
    without_password,
)
from jaxbert.studies.trial import SPEEDS, Objective, Shapes, TrialWatcher, train_trial
from jaxbert.studies.workers import Worker
from jaxbert.terminal import console
from jaxbert.train.programs import count_steps
from jaxbert.train.run import NOTHING, Additions, Run
from jaxbert.train.trainer import show_data

if TYPE_CHECKING:
    import optuna

_EVALUATIONS = 9
"""Evaluations of a trial of successive halving if `train.eval_every` is not set: its first rung is a ninth of the steps."""
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What a search does, checked."""

    config: Config
    options: SearchOptions
    space: tuple[Dimension, ...]
    objectives: tuple[Objective, ...]
    trials: int
    """The number of trials in all."""
    rule: Rule
    """When a trial is stopped early."""

    @property
    def stopping(self) -> Objective | None:
        """The metric by which trials are stopped early; None if none is."""
        can = len(self.objectives) == 1 and self.objectives[0].name not in SPEEDS and self.config.train.folds is None
        return self.objectives[0] if can and self.rule is not never else None


def run_search(config: Config, options: SearchOptions, additions: Additions = NOTHING) -> dict[str, Any]:
    """Search, or go on with a search that was stopped; return the content of `search.json`.

    Raises:
      UserError: for a mistake in configuration, space, data or model.
      StoppedError: if a signal ended the search; its trials are kept.
    """
    need_optuna()
    space = _check(config, options)
    folder = RunFolder(config.train.output_dir).path
    chosen = dataclasses.asdict(options) | {"storage": without_password(options.storage)}
    settings = {"config": config.to_dict(), "search": chosen}
    check_study(folder, settings)
    shapes = Shapes()
    run = shapes.open(config, RunFolder(folder), (), additions)
    show_data(run)
    plan = _plan(config, options, space, run)
    storage = open_storage(options.storage, folder) if is_outside(options.storage, folder) else None
    name = begin_study(folder, settings | {"content": _identity(config, run)})
    import optuna

    storage = storage or open_storage(options.storage, folder)
    with foreign_errors("search.storage cannot be used"):
        study = optuna.create_study(
            storage=storage,
            sampler=make_sampler(options, space),
            study_name=name,
            directions=["minimize" if one.falls else "maximize" for one in plan.objectives],
            load_if_exists=True,
        )
    with Interrupt() as interrupt, Worker(study) as worker:
        return _Search(plan, additions, study, worker, interrupt, shapes).run()


def _identity(config: Config, run: Run) -> dict[str, Any]:
    """Return what tells whether a study goes on with the same rows and the same model."""
    pretrained, inputs = run.pretrained, run.inputs
    model = pretrained.bert_config, pretrained.tokenizer, pretrained.folder
    found = identify(config, *model, inputs, run.program.total_steps)
    sets = {name: dataclasses.asdict(content) for name, content in found.sets.items()}
    return {"labels": found.labels, "weights": found.model["weights"], **sets}


def _check(config: Config, options: SearchOptions) -> tuple[Dimension, ...]:
    """Check what can be checked without reading data; return the space."""
    if not is_alone():
        raise UserError(
            "a search is not a run of several processes: start it on each machine with launch.distributed off"
        )
    if config.task == "pretraining":
        raise UserError("a search needs a task with labels, but task is pretraining")
    space = parse_space(options.space, config)
    data, train = config.data, config.train
    if not (data.validation or data.validation_fraction or train.folds):
        raise UserError(
            "a search compares trials on held-out rows: give data.validation or data.validation_fraction, or set train.folds"
        )
    if train.self_training is not None:
        raise UserError(
            "train.self_training does not work with a search: search without it, and set it for the best trial"
        )
    if any(dimension.key == "train.seed" for dimension in space) and (data.validation_fraction or train.folds):
        cause = "train.folds" if train.folds else "data.validation_fraction"
        raise UserError(
            f"search.space: train.seed cannot vary with {cause}, because it decides which rows are held out: give "
            "data.validation, or leave it out"
        )
    if options.method == "asha" and train.folds:
        raise UserError("search.method is asha, but trials in folds (train.folds) are not stopped early: use tpe")
    return space


def _plan(config: Config, options: SearchOptions, space: tuple[Dimension, ...], run: Run) -> Plan:
    """Choose what depends on the data: objectives, the number of trials, evaluations for successive halving."""
    known = [*run.inputs.task.metric_names(), *SPEEDS]
    names = (
        [run.best_metric] if options.objectives is None else [name.strip() for name in options.objectives.split(",")]
    )
    for name in names:
        if name not in known or names.count(name) > 1:
            raise UserError(
                f"search.objectives is {options.objectives!r}, but it must be different ones of {', '.join(known)}"
            )
    halves = options.method == "asha"
    if halves and (len(names) > 1 or names[0] in SPEEDS):
        raise UserError(
            "search.method is asha, which stops trials by one metric: name one in search.objectives, or use tpe"
        )
    if halves and config.train.eval_every is None:
        steps = count_steps(config.train, len(run.inputs.train))
        config = with_values(config, {"train.eval_every": max(1, steps // _EVALUATIONS)})
    trials = options.trials
    if options.method == "grid":
        trials = min(trials, len(points := grid(space)))
        if trials < len(points):
            console.print(
                f"the grid has {len(points):,} combinations, of which the first {trials:,} are tried (search.trials)"
            )
    rule = halving if halves else never if options.stopping == "none" else below_median
    return Plan(config, options, space, tuple(map(Objective, names)), trials, rule)


class _Search:
    """A study and this process's part in it."""

    def __init__(
        self,
        plan: Plan,
        additions: Additions,
        study: optuna.Study,
        worker: Worker,
        interrupt: Interrupt,
        shapes: Shapes,
    ) -> None:
        self.plan = plan
        self._additions, self._study, self._worker, self._interrupt = additions, study, worker, interrupt
        self._folder = RunFolder(plan.config.train.output_dir).path
        self._shapes = shapes
        self._begin = time.monotonic()
        self._mine = 0
        """The trials that this process has run."""
        self._busy: set[int] = set()
        """The numbers of trials whose folders another process holds."""

    def run(self) -> dict[str, Any]:
        """Run trials until there are enough, then write what was found."""
        while (trial := self._next()) is not None:
            begin = time.monotonic()
            try:
                self._run(trial, begin)
            except InUseError:  # by a process that took the trial at the same moment
                self._busy.add(trial.number)
                continue
            except StoppedError:
                self._write(self._found())
                self._stop()
            self._mine += 1
            self._after(trial.number, time.monotonic() - begin)
        return self._finish()

    def _next(self) -> optuna.Trial | None:
        """Return a trial that is to be run: one of a lost process, or a new one; None at the end."""
        from optuna.trial import Trial, TrialState

        while True:
            if self._interrupt.agreed():
                self._stop()
            late = self.plan.options.seconds is not None and time.monotonic() - self._begin > self.plan.options.seconds
            trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            for lost in [] if late else running:
                if lost.number not in self._busy and self._worker.take(lost):
                    return Trial(self._study, lost._trial_id)
            if not late and len(trials) < self.plan.trials:
                trial = self._study.ask()
                if trial.number < self.plan.trials:
                    self._worker.own(self._study._storage.get_trial(trial._trial_id))
                    return trial
                # Another process was faster: the number waits for a search with more trials.
                self._study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            elif late or not running:
                return None
            else:
                self._busy.clear()
                time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        """End the search after a signal.

        Raises:
          StoppedError: always.
        """
        done = sum(record.state != "running" for record in trials_of(self._study))
        raise StoppedError(done, what="{} trials, which are")

    def _interrupted(self) -> None:
        if self._interrupt.agreed():
            raise StoppedError(0)

    def _found(self) -> Found:
        return Found(self.plan.objectives, trials_of(self._study))

    def _trial_folder(self, number: int) -> RunFolder:
        return RunFolder(self._folder / "trials" / f"{number:03d}")

    def _run(self, trial: optuna.Trial, begin: float) -> None:
        """Train a trial, and record its result."""
        from optuna.trial import TrialState

        params = {dimension.key: dimension.draw(trial) for dimension in self.plan.space}
        folder = self._trial_folder(trial.number)
        line = f"trial {trial.number} ({trial.number + 1} of {self.plan.trials}): {shown_params(params)}"
        console.print(line, highlight=False, soft_wrap=True)
        try:
            summary = self._summary(trial, params, folder)
            values = [one.value(summary) for one in self.plan.objectives]
            if not all(map(math.isfinite, values)):
                raise DivergedError(f"{self.plan.objectives[0].name} is not a number")
        except Exception as error:
            if not _is_the_trials(error):
                raise
            trial.set_user_attr(ERROR, one_line(error))
            self._study.tell(trial, state=TrialState.FAIL)
            folder.checkpoints.rmtree(missing_ok=True)
            return
        folder.checkpoints.rmtree(missing_ok=True)
        trial.set_user_attr(SECONDS, round(time.monotonic() - begin, 2))
        if (step := summary.get(PRUNED_AT)) is not None:
            trial.set_user_attr(PRUNED_AT, step)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, values)

    def _summary(self, trial: optuna.Trial, params: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """Train a trial, unless that was done before, and return its summary."""
        if folder.summary.exists():
            return read_json(folder.summary)
        with raised_as(UnfitError):
            config = with_values(self.plan.config, params | {"train.output_dir": str(folder.path)})

        def stops(upto: float = math.inf) -> bool:
            found = {record.number: record for record in trials_of(self._study)}
            mine = found.pop(trial.number)
            mine = dataclasses.replace(
                mine, points={step: value for step, value in mine.points.items() if step <= upto}
            )
            objective = self.plan.objectives[0]
            return bool(mine.points) and self.plan.rule(
                mine.course(objective), [r.course(objective) for r in found.values()]
            )

        def keep(step: int, value: float) -> bool:
            if step not in self._study._storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(value, step)
            return stops(step)

        def begins(run: Run, step: int) -> bool:
            trial.set_user_attr(STEPS, run.program.total_steps)
            return self.plan.stopping is not None and step > 0 and stops(step)

        watcher = TrialWatcher(keep, self.plan.stopping, self._interrupted)
        return train_trial(config, self._shapes, self._additions, watcher, begins).summary

    def _after(self, number: int, seconds: float) -> None:
        """Tell how a trial ended, and write what was found so far."""
        found = self._found()
        record = next(record for record in found.records if record.number == number)
        console.print(
            f"{_ended(record, found)} in {seconds:,.1f} s; {self._so_far(found)}", highlight=False, soft_wrap=True
        )
        if self.plan.options.keep == "best":
            drop_exports(found, {record.number: self._trial_folder(record.number) for record in found.records})
        self._write(found)

    def _write(self, found: Found) -> None:
        write_results(self._folder, found)

    def _so_far(self, found: Found) -> str:
        """Return the best value so far, and about how long the rest will take."""
        best, name = found.best, self.plan.objectives[0].name
        said = (
            "none is complete"
            if best is None or best.values is None
            else f"best {name} {best.values[0]:.4f} (trial {best.number})"
        )
        left = self.plan.trials - sum(record.state != "running" for record in found.records)
        each = (time.monotonic() - self._begin) / max(self._mine, 1)
        return f"{said}, {left} left, about {left * each / 60:,.1f} min" if left > 0 else said

    def _finish(self) -> dict[str, Any]:
        """Write page and best run, show the table, and return the content of `search.json`."""
        from jaxbert.studies.page import search_page

        found = self._found()
        if found.best is None:
            errors = [str(record.told[ERROR]) for record in found.records if ERROR in record.told]
            raise UserError(f"no trial is complete{f': {errors[0]}' if errors else ''}: see {self._folder / 'trials'}")
        self._write(found)
        write_shared(self._folder / "search.html", search_page(self._study, self.plan.space, found))
        with foreign_errors(f"{self._folder} cannot be written"):
            best = export_best(self._folder, found, self._trial_folder(found.best.number))
        print_found(found, [dimension.key for dimension in self.plan.space])
        for line in (f"best run: {best}", f"search.json and search.html: {self._folder}"):
            console.print(line, highlight=False, soft_wrap=True)
        return found.content()


def _is_the_trials(error: Exception) -> bool:
    """Return whether an exception is about the values of one trial, so that others may go on."""
    return isinstance(error, DivergedError | UnfitError) or "RESOURCE_EXHAUSTED" in str(error)


def _ended(record: TrialRecord, found: Found) -> str:
    """Return how a trial ended, in words."""
    names = [one.name for one in found.objectives]
    if record.values is not None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in zip(names, record.values, strict=True))
        return f"trial {record.number}: {shown}"
    if record.state == "pruned":
        return f"trial {record.number}: stopped early after step {record.told.get(PRUNED_AT)}"
    return f"trial {record.number}: failed ({record.told.get(ERROR, 'unknown')})"
