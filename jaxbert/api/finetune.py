"""A run in Python: fine-tune or pretrain on files or on rows in memory, and have the model.

The command line goes the same way: `start_run` is what its verbs `train` and `pretrain` call.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxbert.api.model import Model, as_path, load
from jaxbert.api.own import LossFunction, Metric, MetricFunction, make_additions
from jaxbert.api.rows import Data, name_sources
from jaxbert.bucket import to_path
from jaxbert.checks import check
from jaxbert.config import Config, TrainConfig
from jaxbert.errors import StoppedError, UserError
from jaxbert.launch.start import start
from jaxbert.processes import is_alone
from jaxbert.runs.folder import RunFolder
from jaxbert.settings import make_config, place_keys
from jaxbert.terminal import console
from jaxbert.train.callbacks import Additions, Callback, Function
from jaxbert.train.report import print_summary
from jaxbert.train.run import NOTHING
from jaxbert.train.runtime import prepare_process
from jaxbert.train.trainer import run_training

_CALLBACKS = Callback | Function | list[Callback | Function] | tuple[Callback | Function, ...]


@dataclass(frozen=True)
class Result:
    """What a run has made."""

    folder: Path
    """The run folder, with checkpoints, metrics and the export."""
    metrics: dict[str, Any]
    """Of the exported checkpoint on the validation set, by name; empty without one."""
    summary: dict[str, Any] = field(repr=False)
    """The content of `summary.json`: `test`, speed, the overview of the data and the rest."""

    @cached_property
    def model(self) -> Model:
        """The exported model, opened when it is first asked for."""
        return load(self.folder)


def finetune(
    train: Data | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    validation: Data | Mapping[str, Data] | None = None,
    *,
    test: Data | Mapping[str, Data] | None = None,
    task: str | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    callbacks: _CALLBACKS = (),
    metrics: Mapping[str, MetricFunction | Metric] | None = None,
    loss: LossFunction | None = None,
    **keys: Any,
) -> Result:
    """Fine-tune a model, as `jaxbert train` does.

    Args:
      train: training examples: a path or source as on the command line, a list of dictionaries, a frame of pandas or
        polars, a Dataset.
      model: a folder, a name on the Hub, or a size such as `tiny` for a new model.
      validation: examples that are evaluated during training, or several sets by name.
      test: examples that are evaluated once, after training, or several sets by name.
      task: what is learned; left out, one label a text.
      config: a configuration, or a YAML file; all other arguments change it.
      callbacks: what is called while the run goes on: objects of `jaxbert.Callback`, functions (event, step, values).
      metrics: metrics of your own by name, functions (labels, predicted) as scikit-learn has them; as a `jaxbert.Metric`
        one can be `best_metric`.
      loss: a loss of your own for training, a function (outputs, batch) that returns a loss for each example slot, [B, S].
      **keys: any key of the configuration by its name, `epochs=2`, or with its section, `train__epochs=2`. Without
        `output_dir` each call begins a new run in a new folder; with it, a run that was stopped goes on.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if Ctrl-C or a signal ended the run after its state was saved.
    """
    with ExitStack() as stack:
        changes = place_keys(keys)
        sources = {"train": train, "validation": validation, "test": test}
        named = {key: name_sources(stack, data, key) for key, data in sources.items() if data is not None}
        changes["data"] = changes.get("data", {}) | named
        if model is not None:
            name = model.name if isinstance(model, Model) else model
            changes["model"] = changes.get("model", {}) | {"name_or_path": name}
        if task is not None:
            changes["task"] = task
        whole = make_config(config, changes)
        additions = make_additions(callbacks, metrics or {}, loss, whole.train.best_metric)
        return _run(whole, additions, named="output_dir" in changes.get("train", {}))


def pretrain(
    train: Data | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    validation: Data | None = None,
    *,
    config: Config | str | os.PathLike[str] | None = None,
    callbacks: _CALLBACKS = (),
    **keys: Any,
) -> Result:
    """Pretrain a model on raw text, as `jaxbert pretrain` does; the arguments are those of `finetune`.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if Ctrl-C or a signal ended the run after its state was saved.
    """
    return finetune(train, model, validation, task="pretraining", config=config, callbacks=callbacks, **keys)


def _run(config: Config, additions: Additions, *, named: bool) -> Result:
    """Run, in a new folder where none is named."""
    _prepare(config)
    if not named and config.train.output_dir == TrainConfig.output_dir:
        folder = new_folder(config.train.output_dir)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir=folder))
    folder = config.train.output_dir
    try:
        summary = _train(config, additions)
    except StoppedError as stop:
        raise StoppedError(stop.step, f"call it again with output_dir={folder!r} to go on") from None
    return Result(as_path(folder), summary["eval"], summary)


def start_run(config: Config, additions: Additions = NOTHING) -> dict[str, Any]:
    """Do the run that a configuration says, alone or with other processes; show how it ends, and return its summary.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if a signal ended the run after its state was saved.
    """
    _prepare(config)
    return _train(config, additions)


def _prepare(config: Config) -> None:
    check(config)  # before all processes are waited for
    prepare_process(config.precision.compute)
    start(config.launch)


def _train(config: Config, additions: Additions) -> dict[str, Any]:
    summary = run_training(config, additions)
    print_summary(summary, RunFolder(config.train.output_dir))
    return summary


def new_folder(name: str) -> str:
    """Return the name of a folder that is not there yet: this one, or one with a number behind it, which is said.

    Raises:
      UserError: if there are several processes, which may not see the same.
    """
    if not is_alone():
        raise UserError("this run has several processes: name its folder by output_dir")
    numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    free = next(folder for folder in numbered if not to_path(folder).exists())
    if free != name:
        console.print(f"{name} is there already: this run is in {free}", highlight=False, soft_wrap=True)
    return free
