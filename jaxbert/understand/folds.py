"""Folds: models that are each trained on a part of the training rows and answer for rows that they did not see.

All trainings are in one run folder and share the tokens, the first parameters, one layout and the compiled programs. Each
has a folder of its own (`RUN/folds/0`, ...) with its checkpoints, and one that is complete is not trained again. `Trainings`
takes any parts of the rows; `run_folds` makes K parts, gathers the out-of-fold predictions, and trains the last model.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.bucket import fetched
from jaxbert.config import TUNING_KEYS, Config
from jaxbert.data.examples import Examples
from jaxbert.data.sources import name_of, open_source
from jaxbert.data.split import make_folds
from jaxbert.data.table import Facts, Row, at_row, is_missing
from jaxbert.errors import UserError, quoted
from jaxbert.interop.load import load_params
from jaxbert.plain import read_json
from jaxbert.processes import is_main, main_decides, on_host
from jaxbert.runs.export import save_start
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.out_of_fold import OutOfFold, write_out_of_fold
from jaxbert.tasks.base import Inputs, Outcome, Task, count_predictions
from jaxbert.tasks.decision import Tuning
from jaxbert.tasks.metrics import value_of
from jaxbert.tasks.multiple_choice.read import open_choice_questions
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.reading import TextTask, set_name, training_spec
from jaxbert.tasks.regression.task import Regression
from jaxbert.terminal import console
from jaxbert.train.evaluate import Ensemble, calibrate_model
from jaxbert.train.inference import Finished, TrainedModel
from jaxbert.train.programs import count_steps, training_layout
from jaxbert.train.report import metrics_headline
from jaxbert.train.run import NOTHING, Additions, Run, SharedPrograms, open_run
from jaxbert.train.sharding import place
from jaxbert.train.trainer import Opener, Started, show_data, start_training, train_run

_HELD_OUT = "held_out"
_NAMED = 10
_OF_ONE_MODEL = (*TUNING_KEYS, "abstaining")
"""The entries of a summary about what was chosen for its model on held-out examples."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Part:
    """One training: the rows to learn from, and the rows on which the model is measured."""

    name: str
    """Its name in messages, such as `fold 1 of 5`."""
    folder: RunFolder
    learned: np.ndarray
    """The examples of the training set to learn from, int64, rising."""
    held_out: np.ndarray
    """The examples that the model does not see, int64, rising."""


@dataclass(frozen=True)
class Measured:
    """The result of one training."""

    part: Part
    outcome: Outcome
    """The predictions for the rows that were held out."""
    summary: dict[str, Any]
    """The content of its `summary.json`."""

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics on the rows that were held out, those that are single numbers; NaN for one that is not finite."""
        return numbers_in(self.summary["test"])


class Trainings:
    """Trains one model on several parts of the rows; all trainings share what is read, loaded and compiled."""

    def __init__(self, started: Started, parts: Sequence[Part]) -> None:
        whole = started.run
        self._log, self._lock = started.log, started.lock
        self._first_params = on_host(whole.first_params() if started.params is None else started.params)
        started.params = None
        program = whole.program
        shared = whole.shared or SharedPrograms(program.step_programs(), whole.predictor, program.first_state)
        train = whole.inputs.train
        learned = [*(part.learned for part in parts), np.arange(len(train))]
        lengths, longest = train.tokens.lengths, 0
        if whole.augmenter is not None:
            from jaxbert.train.augment import planned_lengths

            lengths, longest = planned_lengths(whole.augmenter, train)
        layout = training_layout(
            whole.config, lengths, program.mesh, windows=train.windows, parts=learned, longest=longest
        )
        self.whole = dataclasses.replace(whole, layout=layout, shared=shared)
        """The run on all rows."""
        distinct = {part.held_out.tobytes(): part.held_out for part in parts}
        self._held_out = {key: train.take(held_out) for key, held_out in distinct.items()}
        if parts:
            whole.predictor.share_layout([*self._held_out.values()])

    def measure(self, part: Part) -> Measured:
        """Train on a part and measure the model, unless that was done before."""
        if part.folder.summary.exists():
            found = self._read(part)
        else:
            main_decides(part.folder.make)
            held_out = self._held_out[part.held_out.tobytes()]
            inputs = self.whole.inputs
            inputs = dataclasses.replace(inputs, train=inputs.train.take(part.learned), test={_HELD_OUT: held_out})
            finished = self.train(inputs, part.folder, part.name)
            found = Measured(part, finished.outcomes[f"test.{_HELD_OUT}"], finished.summary)
        main_decides(lambda: part.folder.checkpoints.rmtree(missing_ok=True))
        console.print(f"{part.name}: {metrics_headline(found.metrics)}", highlight=False, soft_wrap=True)
        return found

    def train(
        self,
        inputs: Inputs,
        folder: RunFolder,
        name: str,
        more: dict[str, Any] | None = None,
        run: Run | None = None,
    ) -> Finished:
        """Train on the training examples of `inputs`.

        `more` are further entries of the summary; `run` is `whole` with other settings that change no program.
        """
        whole, begin = run or self.whole, time.perf_counter()
        whole.additions.callbacks.stop = False  # asked for in the training before
        steps = count_steps(whole.config.train, len(inputs.train))
        program = dataclasses.replace(whole.program, total_steps=steps)

        def announce(run: Run, step: int) -> None:
            begins = f"going on after step {step} of {steps}" if step else f"{steps} steps"
            console.print(
                f"{name}: {len(inputs.train):,} rows to learn from, {begins}", highlight=False, soft_wrap=True
            )

        return train_run(
            dataclasses.replace(whole, folder=folder, inputs=inputs, program=program),
            lambda: whole.first_state(self._first_params),
            self._log,
            self._lock,
            announce,
            lambda: {"seconds": round(time.perf_counter() - begin, 2), **(more or {})},
        )

    def _read(self, part: Part) -> Measured:
        """Read the result of a training that is complete."""
        summary, predictions = read_json(part.folder.summary), part.folder.read_predictions()
        task, held_out = self.whole.inputs.task, self._held_out[part.held_out.tobytes()]
        found = predictions.get(f"test.{_HELD_OUT}")
        if found is None or len(found) != count_predictions(task, held_out):
            raise UserError(f"{part.folder.path} has lost its predictions: remove this folder, and run again")
        return Measured(part, Outcome(task.learned(summary["test"]), held_out, found), summary)


@contextmanager
def start_divided(
    config: Config,
    additions: Additions = NOTHING,
    check: Callable[[Run, Division], None] = lambda run, division: None,
    opened: Opener = open_run,
) -> Iterator[tuple[Started, Division]]:
    """Open a run as `start_training` does, with its training examples divided into folds, and show its data if they are new.

    `check` is called before the folder is made, and may raise a UserError. `opened` returns the run.

    Raises:
      UserError: for a mistake in configuration, data or model, or a folder that holds something else.
    """
    found: list[Division] = []

    def prepare(run: Run) -> None:
        found.append(division := divide(config, run.inputs))
        most = division.held_out(int(np.bincount(division.folds).argmax()))
        if not run.predictor.keeps(run.inputs.train.take(most)):
            raise UserError(
                f"train.folds is {division.count}: the {len(most):,} rows of a fold have more than "
                f"{run.predictor.most_kept:,} predictions, which are not kept: raise it"
            )
        check(run, division)

    with start_training(config, additions, prepare, opened) as started:
        if started.run.shared is None:
            show_data(started.run)
        yield started, found[0]


def run_folds(config: Config, additions: Additions = NOTHING, opened: Opener = open_run) -> Finished:
    """Train in folds as `config` says, then the last model; or resume where an earlier start stopped.

    `additions` are the additions of a Python program, and `opened` returns the run.

    Raises:
      UserError: for a mistake in configuration, data or model, before the first step.
      StoppedError: if a signal ended the run after saving.
    """
    with start_divided(config, additions, opened=opened) as (started, division):
        run, count = started.run, division.count
        parts = [
            Part(f"fold {k + 1} of {count}", run.folder.fold(k), division.learned(k), division.held_out(k))
            for k in range(count)
        ]
        trainings = Trainings(started, parts)
        measured = [trainings.measure(part) for part in parts]
        together = gather(run.inputs.task, run.inputs.train, measured)
        if is_main():
            with run.folder.writing():
                write_out_of_fold(run.folder.path, _out_of_fold(together, division.folds))
        summary = summarize(measured, together)
        if not config.train.folds_final:
            return _finish_ensemble(run, started, measured, summary)
        last = _with_task(run, run.inputs.task.learned(together.metrics))
        if is_main():  # also a checkpoint that is exported later has what the folds have tuned
            save_start(run.folder, last.bert_config, run.pretrained.tokenizer)
        return trainings.train(last.inputs, run.folder, "all rows", {"folds": summary})


def _finish_ensemble(run: Run, started: Started, measured: Sequence[Measured], folds: dict[str, Any]) -> Finished:
    """Tune and evaluate the models of the folds as one model, and write its settings and the summary."""
    folder, inputs, log, tokenizer = run.folder, run.inputs, started.log, run.pretrained.tokenizer
    predictor, shardings = Ensemble.of(run.predictor), run.program.state_shardings["params"]
    exports = [fetched(found.part.folder.export) for found in measured]
    params: Any = [place(load_params(export, predictor.model)[0], shardings) for export in exports]
    task, outcomes = inputs.task.learned(folds["out_of_fold"]), dict[str, Outcome]()
    summary = _sum_up(measured, folds) | {"eval": {}, "test": None}
    if inputs.validation:
        tuning = dataclasses.replace(Tuning.of(run.config.train), temperature=False)  # each model has its own
        tuned = calibrate_model(predictor, params, inputs.task, inputs.validation, tuning)
        task = tuned.task
        summary |= {"eval": tuned.evaluation.metrics, **tuned.record}
        outcomes |= {set_name("validation", name): outcome for name, outcome in tuned.evaluation.outcomes.items()}
    if inputs.test:
        tested = predictor.evaluate(params, inputs.test, task)
        summary["test"] = tested.metrics
        outcomes |= {set_name("test", name): outcome for name, outcome in tested.outcomes.items()}
    summary |= {
        "compile_seconds": round(log.seconds, 2),
        "compilations": log.count,
        "compilations_from_cache": log.from_cache,
    }
    if is_main():
        save_start(folder, _with_task(run, task).bert_config, tokenizer)
        folder.write_predictions({name: outcome.predictions for name, outcome in outcomes.items()})
        folder.write_summary(summary)
    model = TrainedModel(task, tokenizer, params, predictor, tokenizer.model_max_length)
    return Finished(run.config, folder, inputs, model, outcomes, summary)


def _sum_up(measured: Sequence[Measured], folds: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of all trainings together. Rates are those of the last one."""
    whole = [found.summary for found in measured]
    losses = [each["train_loss"] for each in whole if each["train_loss"] is not None]
    return {name: value for name, value in whole[-1].items() if name not in _OF_ONE_MODEL} | {
        "steps": sum(each["steps"] for each in whole),
        "train_loss": float(np.mean(losses)) if losses else None,
        "bad_steps": sum(each["bad_steps"] for each in whole),
        "exported_step": None,
        "seconds": round(sum(folds["seconds"]), 2),
        "folds": folds,
    }


def _with_task(run: Run, task: Task) -> Run:
    return dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, task=task))


@dataclass(frozen=True, eq=False)
class Division:
    """How N training examples are divided into folds."""

    count: int
    """The number of folds."""
    folds: np.ndarray
    """The fold of each example, int32 [N]."""
    strata: np.ndarray
    """The label of each example in classification, else 0, int32 [N]."""
    groups: np.ndarray | None
    """The group of each example, whose examples are all in one fold, [N]; None if each example stands alone."""

    def learned(self, fold: int) -> np.ndarray:
        """Return the examples from which the model of a fold learns, int64, rising."""
        return np.flatnonzero(self.folds != fold)

    def held_out(self, fold: int) -> np.ndarray:
        """Return the examples that the model of a fold does not see, int64, rising."""
        return np.flatnonzero(self.folds == fold)


def divide(config: Config, inputs: Inputs) -> Division:
    """Divide the training examples: by label in classification, by group where there are groups, else at random.

    Raises:
      UserError: if there are too few rows or groups, or a row has no group.
    """
    train, task, count = inputs.train, inputs.task, config.train.folds
    assert count is not None
    strata = np.zeros(len(train), np.int32)
    if task.name == "classification":
        strata = np.asarray(train.labels)
        counts = np.bincount(strata, minlength=len(task.output_names))
        rare = [task.output_names[label] for label in np.flatnonzero((counts > 0) & (counts < count))]
        if rare:
            message = "labels with fewer training rows than folds (%d), of which some folds have none: %s"
            logger.warning(message, count, quoted(rare, _NAMED))
    groups = _groups(config, task, train)
    return Division(count, make_folds(count, strata, config.train.seed, groups), strata, groups)


def _groups(config: Config, task: Task, train: Examples) -> np.ndarray | None:
    """Return the group of each training example, numbered from 0; None if each is on its own."""
    column = config.data.group
    if column is None:
        return train.extra.group_numbers() if isinstance(task, MultipleChoice) and train.extra is not None else None
    values, rows = _read_column(config, task, column)
    for value, row in zip(values, rows, strict=True):
        if is_missing(value):
            raise UserError(
                f"{at_row(name_of(training_spec(config.data)), row)}: column {column!r} (data.group) is empty: fill it in"
            )
    _, numbers = np.unique([str(value) for value in values], return_inverse=True)
    return numbers[train.source_rows(np.arange(len(train)))]


def _read_column(config: Config, task: Task, column: str) -> tuple[list[Any], list[Row]]:
    """Read a column of the training data, and the number of each record in messages."""
    data = config.data
    spec = training_spec(data)
    if isinstance(task, TextTask):
        kept, kind = {column: "data.group"}, task.label_kind
        source = open_source(
            spec, data, role="train", labelled=True, limit=data.limit, labels=kind, kept=tuple(kept), keys=kept
        )
        parts = list(source.parts())
        return [v for part in parts for v in part.kept[column]], [row for part in parts for row in part.rows]
    items = list(open_choice_questions(spec, data, role="train", limit=data.limit, kept=(column,)).stream(Facts()))
    return [item.kept[column] for item in items], [item.row for item in items]


def gather(task: Task, train: Examples, measured: Sequence[Measured]) -> Outcome:
    """Return the predictions for all training examples, each by the model that did not see it."""
    rows: np.ndarray | None = None
    for found in measured:
        held_out, predictions = found.part.held_out, found.outcome.predictions
        members = held_out if train.windows is None else train.windows.members(held_out)[0]
        if rows is None:
            rows = np.zeros((count_predictions(task, train), *predictions.shape[1:]), predictions.dtype)
        rows[members] = predictions
    assert rows is not None
    return Outcome(task, train, rows)


def _out_of_fold(together: Outcome, folds: np.ndarray) -> OutOfFold:
    task, train = together.task, together.examples
    scores = None
    if isinstance(task, Regression):
        scores = np.asarray(task.labels_and_answers(together.predictions, train)[1], np.float32)
    probabilities = together.probabilities
    return OutOfFold(
        task=task.name,
        names=tuple(task.output_names) if probabilities is not None else (),
        rows=np.asarray(train.source_rows(np.arange(len(train))), np.int64),
        folds=folds,
        labels=np.asarray(train.labels),
        probabilities=None if probabilities is None else probabilities.astype(np.float32),
        scores=scores,
    )


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are single numbers, the number of examples left out; None, as JSON has it, is NaN."""
    found = {name: math.nan if value is None else value for name, value in metrics.items() if name != "examples"}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def summarize(measured: Sequence[Measured], together: Outcome) -> dict[str, Any]:
    """Return the entry `folds` of a summary: mean and sample standard deviation of each metric over the folds, and more."""
    each = [found.metrics for found in measured]
    names = dict.fromkeys(name for metrics in each for name in metrics)
    values = {name: [value_of(metrics, name) for metrics in each] for name in names}
    return {
        "count": len(measured),
        "mean": {name: float(np.mean(found)) for name, found in values.items()},
        "std": {name: float(np.std(found, ddof=1)) for name, found in values.items()},
        "out_of_fold": numbers_in(together.metrics),
        "each": each,
        "rows": [len(found.part.held_out) for found in measured],
        "steps": [found.summary["steps"] for found in measured],
        "seconds": [found.summary["seconds"] for found in measured],
    }
