"""One trial: an ordinary run, which takes what earlier trials have read, loaded and compiled, and may be stopped early.

A trial's folder is a run folder, trained by the trainer itself; `jaxbert train` with its `config.yaml` gives the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import jax

from jaxbert.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from jaxbert.errors import UnfitError, raised_as
from jaxbert.processes import on_host
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.metrics import falls, value_of
from jaxbert.train.inference import Finished
from jaxbert.train.programs import count_steps, with_dropout
from jaxbert.train.run import STOP, Additions, Callback, Callbacks, Run, SharedPrograms, open_run
from jaxbert.train.trainer import run_training
from jaxbert.understand.folds import run_folds

SPEEDS: Final = ("examples_per_second", "real_tokens_per_second")
"""Objectives that are no metrics: rates of training, larger is better."""
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "model": {name: getattr(ModelConfig, name) for name in ("dropout", "attention_dropout")},
    "optimizer": {
        name: getattr(OptimizerConfig, name)
        for name in ("learning_rate", "warmup_ratio", "weight_decay", "clip_norm", "layer_decay")
    },
    "train": {
        name: getattr(TrainConfig, name)
        for name in (
            "output_dir",
            "seed",
            "epochs",
            "max_steps",
            "label_smoothing",
            "ema",
            "eval_every",
            "checkpoint_every",
        )
    },
}
"""By section, the keys that change neither what is read nor what is compiled, with their defaults."""


@dataclass(frozen=True)
class Objective:
    """What trials are compared by."""

    name: str

    @property
    def falls(self) -> bool:
        """Whether smaller is better."""
        return self.name not in SPEEDS and falls(self.name)

    def merit(self, value: float) -> float:
        """Return a value, negated if smaller is better; -inf for one that is not a number."""
        return -float("inf") if value != value else -value if self.falls else value

    def value(self, summary: Mapping[str, Any]) -> float:
        """Read the value in the summary of a run, or of a run in folds; NaN if there is none."""
        if self.name in SPEEDS:
            found = summary.get(self.name)
            return float("nan") if found is None else float(found)
        return value_of(summary["folds"]["mean"] if "folds" in summary else summary["eval"], self.name)


def _neutral(config: Config) -> Config:
    changed = {name: dataclasses.replace(getattr(config, name), **keys) for name, keys in _ARGUMENTS.items()}
    return dataclasses.replace(config, **changed)


@dataclass
class Shapes:
    """The opened runs of a process, one for each shape: what trials of the shape share."""

    runs: list[Run] = field(default_factory=list)

    def open(self, config: Config, folder: RunFolder, known: Sequence[str], additions: Additions) -> Run:
        """Return a trial's run, like `open_run`, from what an earlier trial has opened where that is the same.

        Raises:
          UserError: as `open_run`; of any but the first run an `UnfitError`, because the first one fits data and model.
        """
        for run in self.runs:
            if (found := _from_same_shape(run, config, folder, additions)) is not None:
                return found
        with raised_as(UnfitError) if self.runs else nullcontext():
            run = open_run(config, folder, known, additions)
        steps = run.program.step_programs()
        shared = SharedPrograms(steps, run.predictor, run.program.first_state)
        run = dataclasses.replace(run, shared=shared)
        params = on_host(run.first_params())
        run = dataclasses.replace(run, shared=dataclasses.replace(shared, first_params=params))
        self.runs.append(run)
        return run


def _from_same_shape(run: Run, config: Config, folder: RunFolder, additions: Additions) -> Run | None:
    """Return the run of `config` from the parts of another; None if it must be read or compiled anew."""
    before = run.program
    if _neutral(config) != _neutral(run.config):
        return None
    bert_config = run.inputs.task.configure(run.pretrained.bert_config)
    model = dataclasses.replace(before.model, config=with_dropout(bert_config, config.model))
    steps = count_steps(config.train, len(run.inputs.train))
    optimizer = dataclasses.replace(config.optimizer, freeze=before.config.optimizer.freeze)  # a method freezes more
    own = dataclasses.replace(config, optimizer=optimizer)
    program = dataclasses.replace(before, config=own, model=model, total_steps=steps)
    if jax.tree.structure(program.numbers) != jax.tree.structure(before.numbers):  # type: ignore[operator]
        return None
    assert run.shared is not None
    same_start = config.train.seed == run.config.train.seed
    shared = run.shared if same_start else dataclasses.replace(run.shared, first_params=None)
    changes = {"config": config, "folder": folder, "program": program, "additions": additions, "shared": shared}
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


class TrialWatcher(Callback):
    """Follows a trial: keeps its evaluations, and asks the trainer to stop."""

    def __init__(
        self,
        keep: Callable[[int, float], bool],
        objective: Objective | None,
        interrupted: Callable[[], None],
    ) -> None:
        """Make a watcher.

        Args:
          keep: `(step, value) -> whether to stop`; it is called after each evaluation.
          objective: the metric that is kept; None if no trial is stopped early.
          interrupted: raises an error if the search has to end.
        """
        self._keep, self._objective, self._interrupted = keep, objective, interrupted
        self.stopped_at: int | None = None
        """The step after which the trial was stopped."""

    def on_step(self, step: int, values: Mapping[str, Any]) -> None:
        """End the search if it was interrupted before the trainer listened."""
        self._interrupted()

    def on_evaluate(self, step: int, metrics: Mapping[str, Any]) -> str | None:
        """Keep the evaluation, and stop if it is not worth going on."""
        if self._objective is None or not self._keep(step, value_of(metrics, self._objective.name)):
            return None
        self.stopped_at = step
        return STOP


def train_trial(
    config: Config,
    shapes: Shapes,
    additions: Additions,
    watcher: TrialWatcher,
    begins: Callable[[Run, int], bool],
) -> Finished:
    """Train a trial to its end, or resume where an earlier start stopped.

    Args:
      config: the trial's configuration, with its own folder.
      shapes: what earlier trials have opened.
      additions: the additions of a Python program.
      watcher: follows the trial.
      begins: called before the first step with the run and the number of steps taken before; returns whether to stop there.

    Raises:
      DivergedError: if the trial has no result.
      UnfitError: for values that fit neither the data nor the model.
      UserError: for a mistake in configuration, data or model.
      StoppedError: if a signal ended the run after saving.
    """
    callbacks = Callbacks([watcher])
    own = dataclasses.replace(additions, callbacks=callbacks)

    def begin(run: Run, step: int) -> None:
        callbacks.stop = begins(run, step)
        watcher.stopped_at = step if callbacks.stop else None

    def more() -> dict[str, Any]:
        return {"pruned_at": watcher.stopped_at}

    if config.train.folds is not None:
        return run_folds(config, own, shapes.open)
    return run_training(config, own, shapes.open, begin, more)
