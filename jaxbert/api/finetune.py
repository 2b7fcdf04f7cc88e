"""A run in Python: fine-tune or pretrain on files or on rows in memory, and get the model.

The command line uses the same code: its verbs `train` and `pretrain` call `start_run`.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxbert.api.model import Model, as_path, load
from jaxbert.api.own import LossFunction, Metric, MetricFunction, make_additions
from jaxbert.api.rows import Data, name_sources
from jaxbert.bucket import to_path
from jaxbert.config import Config, TrainConfig
from jaxbert.errors import StoppedError, UserError, one_line
from jaxbert.launch.start import start
from jaxbert.options import CURVE_FOLDS, FRACTIONS
from jaxbert.processes import is_alone, is_main
from jaxbert.runs.folder import RunFolder
from jaxbert.settings import make_config, place_keys
from jaxbert.terminal import console
from jaxbert.train.inference import Finished
from jaxbert.train.report import print_curve, print_summary
from jaxbert.train.run import NOTHING, Additions, Callback, Function
from jaxbert.train.runtime import prepare_process
from jaxbert.train.trainer import run_training
from jaxbert.understand.curve import read_shares, run_curve
from jaxbert.understand.folds import run_folds
from jaxbert.understand.reopen import reopen
from jaxbert.understand.report.write import write_report

logger = logging.getLogger("jaxbert")

_CALLBACKS = Callback | Function | list[Callback | Function] | tuple[Callback | Function, ...]


@dataclass(frozen=True)
class Result:
    """The result of a run: its model, its metrics and its folder."""

    folder: Path
    """The run folder, with checkpoints, metrics and the export."""
    metrics: dict[str, Any]
    """Metrics of the exported checkpoint on the validation set, by name; empty without a validation set."""
    summary: dict[str, Any] = field(repr=False)
    """The content of `summary.json`: metrics of all sets, the speed, the overview of the data and more."""

    @cached_property
    def model(self) -> Model:
        """The exported model; it is opened at the first use."""
        return load(self.folder)

    @property
    def report(self) -> Path:
        """The page about the run, a file of HTML; written now if the run has not done so (`report.at_end`)."""
        path = RunFolder(self.folder).report
        return as_path(path if path.exists() else write_report(reopen(self.folder)))


def finetune(
    train: Data | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    validation: Data | Mapping[str, Data] | None = None,
    *,
    test: Data | Mapping[str, Data] | None = None,
    unlabelled: Data | None = None,
    task: str | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    callbacks: _CALLBACKS = (),
    metrics: Mapping[str, MetricFunction | Metric] | None = None,
    loss: LossFunction | None = None,
    **keys: Any,
) -> Result:
    """Fine-tune a model, as `jaxbert train` does.

    Args:
      train: training examples: a path or source as on the command line, a list of dictionaries, a pandas or polars frame,
        or a `datasets.Dataset`.
      model: a model folder, a name on the Hub, or a size such as `tiny` for a new model.
      validation: examples for the evaluations during training, or a dictionary of several sets by name.
      test: examples for one evaluation after training, or a dictionary of several sets by name.
      unlabelled: further texts without labels, for which the model that `teacher=` names answers, or which
        `self_training=` labels.
      task: the name of the task; None: that of `config`, by default `classification` (one label for each text).
      config: a configuration or the path of a YAML file; the other arguments override its values.
      callbacks: objects of `jaxbert.Callback`, or functions `(event, step, values)`; they are called during the run.
      metrics: your own metrics by name: functions `(labels, predicted)` as in scikit-learn. To use one as `best_metric`,
        wrap it in `jaxbert.Metric`.
      loss: your own training loss: a function `(outputs, batch)` that returns a loss for each of the S example slots of
        the B rows, [B, S].
      **keys: any key of the configuration, by its name (`epochs=2`) or with its section (`train__epochs=2`). `folds=5`
        trains in folds; their metrics are `summary["folds"]` of the result. Without `output_dir` each call begins a new run
        in a new folder. With `output_dir` a stopped run is resumed.

    Returns:
      The model, its metrics and the run folder.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if Ctrl-C or a signal ended the run after its state was saved.
    """
    with ExitStack() as stack:
        sources = {"train": train, "validation": validation, "test": test, "unlabelled": unlabelled}
        named = {key: value.name if isinstance(value, Model) else value for key, value in keys.items()}
        changes = make_changes(stack, place_keys(named), sources, model, task)
        whole = make_config(config, changes)
        additions = make_additions(callbacks, metrics or {}, loss, whole.train.best_metric)
        return _run(whole, additions, named="output_dir" in changes.get("train", {}))


def make_changes(
    stack: ExitStack,
    changes: dict[str, Any],
    sources: Mapping[str, Any],
    model: str | os.PathLike[str] | Model | None,
    task: str | None,
) -> dict[str, Any]:
    """Return the changes of a configuration, by section, with the sources (held while the stack is open), model and task."""
    named = {key: name_sources(stack, data, key) for key, data in sources.items() if data is not None}
    changes["data"] = changes.get("data", {}) | named
    if model is not None:
        name = model.name if isinstance(model, Model) else model
        changes["model"] = changes.get("model", {}) | {"name_or_path": name}
    return changes if task is None else changes | {"task": task}


def curve(
    train: Data | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    fractions: str = FRACTIONS,
    *,
    task: str | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    folds: int = CURVE_FOLDS,
    **keys: Any,
) -> dict[str, Any]:
    """Train at growing shares of the training rows, as `jaxbert curve` does, to see whether more labels would help.

    Args:
      train: training examples, as for `finetune`.
      model: as for `finetune`.
      fractions: the shares of the training rows, at least two, such as `"1/4,1/2,1"`.
      task: as for `finetune`.
      config: as for `finetune`.
      folds: the number of folds.
      **keys: any key of the configuration, as for `finetune`.

    Returns:
      The content of `curve.json`: `metric`; `points`, for each share its mean number of `rows` and the metrics of `each`
      fold; `verdict`, with the last `gain`, its 95% `interval`, the `forecast` for twice the rows, whether more labels would
      help (`helps`), and a `sentence`.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if Ctrl-C or a signal ended the run after its state was saved.
    """
    with ExitStack() as stack:
        changes = make_changes(stack, place_keys(keys | {"train__folds": folds}), {"train": train}, model, task)
        whole, shares = make_config(config, changes), read_shares(fractions)
        prepare_run(whole)
        return _curve(whole if "output_dir" in changes["train"] else in_new_folder(whole), shares)


def pretrain(
    train: Data | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    validation: Data | None = None,
    *,
    config: Config | str | os.PathLike[str] | None = None,
    callbacks: _CALLBACKS = (),
    **keys: Any,
) -> Result:
    """Pretrain a model on raw text, as `jaxbert pretrain` does.

    Args:
      train: texts: the same kinds of sources and rows as for `finetune`, without labels.
      model: a size such as `tiny` for a new model, or a model folder or a name on the Hub to train further.
      validation: texts for the evaluations during training.
      config: a configuration or the path of a YAML file; the other arguments override its values.
      callbacks: as for `finetune`.
      **keys: any key of the configuration, as for `finetune`; for instance `vocab_size=30000` or `mask="word"`.

    Returns:
      The model, its metrics and the run folder; `finetune` takes the folder as its `model`.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if Ctrl-C or a signal ended the run after its state was saved.
    """
    if "task" in keys:
        raise UserError("pretrain has the task pretraining: leave task out, or call jaxbert.finetune")
    return finetune(train, model, validation, task="pretraining", config=config, callbacks=callbacks, **keys)


def _run(config: Config, additions: Additions, *, named: bool) -> Result:
    """Run, in a new folder if none is named."""
    prepare_run(config)
    config = config if named else in_new_folder(config)
    folder = config.train.output_dir
    try:
        summary = _train(config, additions)
    except StoppedError as stop:
        raise StoppedError(stop.step, f"call it again with output_dir={folder!r} to resume") from None
    return Result(as_path(folder), summary["eval"], summary)


def in_new_folder(config: Config) -> Config:
    """Return the configuration with a new folder, unless it names one itself."""
    if config.train.output_dir != TrainConfig.output_dir:
        return config
    folder = new_run_folder(config.train.output_dir)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, output_dir=folder))


def start_run(config: Config, additions: Additions = NOTHING) -> dict[str, Any]:
    """Run a configuration, alone or with other processes; show how the run ends, and return its summary.

    Raises:
      UserError: for anything wrong in configuration, data or model.
      StoppedError: if a signal ended the run after its state was saved.
    """
    prepare_run(config)
    return _train(config, additions)


def start_curve(config: Config, fractions: str) -> dict[str, Any]:
    """Train at growing shares of the training rows; show a table and a sentence, and return the numbers.

    Raises:
      UserError: for anything wrong in configuration, fractions, data or model.
      StoppedError: if a signal ended the run after its state was saved.
    """
    shares = read_shares(fractions)
    prepare_run(config)
    return _curve(config, shares)


def _curve(config: Config, shares: Sequence[Fraction]) -> dict[str, Any]:
    result = run_curve(config, shares)
    print_curve(result, RunFolder(config.train.output_dir))
    return result


def prepare_run(config: Config) -> None:
    """Prepare this process for a run, and connect it with the others."""
    prepare_process(config.precision.compute)
    start(config.launch)


def _train(config: Config, additions: Additions) -> dict[str, Any]:
    additions = _smaller(config, additions)
    if config.train.self_training is not None:
        from jaxbert.understand.self_training import run_self_training

        finished = run_self_training(config, additions)
    else:
        finished = run_training(config, additions) if config.train.folds is None else run_folds(config, additions)
    print_summary(finished.summary, finished.folder)
    if is_main() and config.report.at_end:
        _report(finished)
    return finished.summary


def _smaller(config: Config, additions: Additions) -> Additions:
    """Return the additions with those of a teacher and of pruning, if the configuration asks for them."""
    if config.train.teacher is not None:
        from jaxbert.compress.distill import distilled

        additions = distilled(config, additions)
    if config.train.prune is not None:
        from jaxbert.compress.prune import pruned

        additions = pruned(config, additions)
    return additions


def _report(finished: Finished) -> None:
    """Write the report of a run; the run is complete, so whatever fails here is said and ends nothing."""
    try:
        console.print(f"report: {write_report(finished)}", highlight=False, soft_wrap=True)
    except Exception as error:
        said = "the run is complete, but its report is not written (%s: %s): `jaxbert report %s` tries again"
        logger.warning(said, type(error).__name__, one_line(error), finished.folder.path)
        logger.debug("the report", exc_info=error)


def new_run_folder(name: str) -> str:
    """Return the name of a folder that does not exist: this name, or the name with a number, which is then shown.

    Raises:
      UserError: if there are several processes, which may not see the same files.
    """
    if not is_alone():
        raise UserError("this run has several processes: name its folder by output_dir")
    numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    free = next(folder for folder in numbered if not to_path(folder).exists())
    if free != name:
        console.print(f"{name} exists already: this run is in {free}", highlight=False, soft_wrap=True)
    return free
