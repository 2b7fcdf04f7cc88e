"""A run: its program, its examples, its folder, and what a Python program adds to it: callbacks, its own loss and metrics.

Callbacks receive numbers on the host one step late, so the device does not wait for them. `trainer` does the training.
`inspect_data` shows the data of a run without a step.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.batches import Batch, batches
from jaxbert.data.labels import Head
from jaxbert.data.overview import DOCUMENTS, TRAIN
from jaxbert.data.packing import Layout
from jaxbert.data.proposal import describe_choice, propose, propose_method
from jaxbert.data.tokens import Reading
from jaxbert.errors import UserError
from jaxbert.models.families import longest_input
from jaxbert.models.functional import Params
from jaxbert.runs.export import export_params
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import say_other_head, settings_of, task_class
from jaxbert.tasks.base import Inputs, Task
from jaxbert.tasks.decision import Tuning
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.train.evaluate import Predictor, keep_compute_settings
from jaxbert.train.pretrained import Pretrained, load_pretrained, with_vocabulary
from jaxbert.train.programs import Compiled, Program, count_steps, training_layout
from jaxbert.train.sharding import make_mesh, own_rows
from jaxbert.train.step import State
from jaxbert.train.tuned import find_tuned

if TYPE_CHECKING:
    from jaxbert.data.augment import Augmenter

_PLACES = 1000
"""The most rows that `inspect_data` names for duplicates, for leaks and for empty texts, each."""

logger = logging.getLogger("jaxbert")

STOP: Final = "stop"
"""A callback returns it to end the run as if this were the last step: the run is evaluated, saved and exported."""


class Callback:
    """Base class of objects that are called during a run. A subclass overrides the methods that it needs.

    Each method returns None, or `jaxbert.STOP` to end the run. An exception in a method ends the run at once and reaches the
    caller; the last checkpoint stays, and the same call resumes from it. In a run of several processes each process calls
    its own callbacks, and all of them must return the same decision.
    """

    def on_step(self, step: int, values: Mapping[str, Any]) -> str | None:
        """Receive the numbers of a step. It is called when the next step has begun.

        Args:
          step: the number of the step, from 1.
          values: `loss` (the mean over the examples of the step), `learning_rate`, `grad_norm`, `bad` (whether the step was
            skipped because its loss or gradient was not finite), `epoch`, `examples_per_second`, `real_tokens_per_second`.
        """
        return None

    def on_evaluate(self, step: int, metrics: Mapping[str, Any]) -> str | None:
        """Receive all metrics of an evaluation on the validation set.

        Args:
          step: the number of steps before the evaluation.
          metrics: the metrics by name, as in `eval` of `summary.json`.
        """
        return None

    def on_save(self, step: int, path: os.PathLike[str]) -> str | None:
        """Called when the run begins to write a checkpoint.

        Args:
          step: the number of steps before the checkpoint.
          path: the folder of the checkpoint; it exists when the checkpoint is complete.
        """
        return None


Function = Callable[[str, int, Any], Any]
"""`(event, step, values)`: the event is "step", "evaluate" or "save"; `values` is the last argument of the method."""


class Callbacks:
    """All callbacks of a run, in their order."""

    def __init__(self, callbacks: Sequence[Callback | Function] = ()) -> None:
        """Make callbacks of objects and functions.

        Raises:
          UserError: if one cannot be called, or is a class instead of an object.
        """
        for callback in callbacks:
            if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
                raise UserError(
                    f"callbacks: {callback!r} is not a callback: give functions (event, step, values), or objects of "
                    "classes that derive from jaxbert.Callback"
                )
        self._callbacks = tuple(callbacks)
        self._raised = False
        self.stop = False
        """Whether a callback has asked to end the run."""

    def tell(self, event: str, step: int, values: Any) -> None:
        """Call all callbacks for "step", "evaluate" or "save"; after one has raised, no callback is called any more."""
        for callback in self._callbacks if not self._raised else ():
            self._raised = True
            if isinstance(callback, Callback):
                answer = getattr(callback, f"on_{event}")(step, values)
            else:
                answer = callback(event, step, values)
            self._raised = False
            self.stop = self.stop or (isinstance(answer, str) and answer == STOP)


class Stages(Protocol):
    """Changes the shape of a model before some steps of its training."""

    def check(self, run: Run) -> None:
        """Decide the shapes of a run that was just opened, before all else; raise `UserError` for one that cannot be."""
        ...

    def next_after(self, step: int) -> int | None:
        """Return the next step before which the shape changes, after `step` steps; None if there is none."""
        ...

    def is_due(self, step: int) -> bool:
        """Return whether the shape changes when `step` steps are taken."""
        ...

    def at(self, run: Run, step: int) -> Run:
        """Return the run with the shape that its checkpoint of this step has: the one before a change that is due."""
        ...

    def change(self, run: Run, state: State, step: int) -> tuple[Run, State]:
        """Return the run and its state with the next shape."""
        ...


@dataclass(frozen=True)
class Additions:
    """What is added to a configured run: by a Python program, or by a package that training does not know."""

    callbacks: Callbacks
    change_task: Callable[[Task], Task] = lambda task: task
    """A function that gives a task the program's own loss and metrics."""
    loss: str | None = None
    """The name of the program's own loss; None for the task's loss."""
    teach: Callable[[Inputs, Pretrained, int], tuple[Inputs, str]] | None = None
    """A function that adds a teacher's answers to the inputs, given the model and the longest segment, and the loss to the
    task; it also returns a text that changes with the teacher. None without `train.teacher`."""
    stages: Stages | None = None
    """The changes of `train.prune`; None without it."""
    facts: Callable[[], dict[str, Any]] = dict
    """A function that returns further entries of the summary, when the run is complete."""


NOTHING: Final = Additions(Callbacks())
"""No additions, as on the command line."""


@dataclass(frozen=True)
class SharedPrograms:
    """The compiled functions that several runs of one model, task and layout share."""

    steps: tuple[Compiled, Compiled]
    """The single step, and several steps as one program."""
    predictor: Predictor
    first_state: Callable[[Params], State]
    """`Program.first_state` of one of the runs."""
    first_params: Params | None = None
    """The parameters before the first step, on the host, if they are the same in all runs."""


@dataclass(frozen=True)
class Run:
    """All parts of a run that do not change during training."""

    config: Config
    folder: RunFolder
    pretrained: Pretrained
    inputs: Inputs
    program: Program
    layout: Layout
    additions: Additions = NOTHING
    shared: SharedPrograms | None = None
    """The compiled functions of other runs, which this one uses too; None for its own."""
    taught: str | None = None
    """A text that changes with the teacher, the rows without labels and the model that fills words; None without them."""
    augmenter: Augmenter | None = None
    """Makes the texts of each epoch; None if they are those of the data."""
    settle: Callable[[Run, State], State] | None = None
    """`(run, state) -> state`: fits the head before each evaluation and checkpoint; None where the steps train it."""

    @property
    def bert_config(self) -> BertConfig:
        """The model's configuration with the task's learned settings and the dropout rates of the checkpoint."""
        configured = self.inputs.task.configure(self.pretrained.bert_config)
        program = self.program
        return keep_compute_settings(configured, self.config, program.mesh, scan_layers=program.call.scan_layers)

    @property
    def steps_per_epoch(self) -> int:
        """The optimizer steps of one pass over the training examples."""
        return -(-len(self.inputs.train) // self.config.train.batch_size)

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint."""
        return self.config.train.best_metric or self.inputs.task.default_metric

    @cached_property
    def predictor(self) -> Predictor:
        """A predictor for any parameters of this run."""
        if self.shared is not None:
            return self.shared.predictor
        program, batch_size = self.program, self.config.train.eval_batch_size
        return Predictor(program.model, program.task, program.mesh, program.call, batch_size, self.inputs.collate)

    def step_programs(self) -> tuple[Compiled, Compiled]:
        """Return the single step, and several steps as one program."""
        return self.program.step_programs() if self.shared is None else self.shared.steps

    def epoch_batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting with step `first_step`."""
        inputs, config, augmenter = self.inputs, self.config.train, self.augmenter
        train = inputs.train if augmenter is None else augmenter.examples(inputs.train, config.seed, epoch)
        for batch in batches(
            train,
            self.layout,
            config.batch_size,
            seed=config.seed,
            epoch=epoch,
            first_step=first_step,
            own_rows=partial(own_rows, self.program.mesh),
        ):
            yield batch if inputs.collate is None else inputs.collate(batch, epoch)

    def batches_from(self, step: int) -> Iterator[Batch]:
        """Yield the batches after `step` steps, epoch after epoch, without end."""
        epoch, first_step = divmod(step, self.steps_per_epoch)
        yield from self.epoch_batches(epoch, first_step)
        for later in itertools.count(epoch + 1):
            yield from self.epoch_batches(later)

    def first_params(self) -> Params:
        """Load or draw the parameters before the first step."""
        if self.shared is not None and self.shared.first_params is not None:
            return self.shared.first_params
        program, pretrained = self.program, self.pretrained
        new = self.inputs.new_head or pretrained.draws_head(program.task.architecture, self.config.model)
        shardings = program.state_shardings["params"]
        return pretrained.params(program.model, self.config.train.seed, shardings, program.base_key, new_head=new)

    def first_state(self, params: Params | None = None) -> State:
        """Return the state before the first step, on the devices, with these first parameters."""
        program = self.program if self.shared is None else self.shared
        return program.first_state(self.first_params() if params is None else params)

    def export(self, params: Params, evaluation: dict[str, Any], task: Task | None = None) -> Task:
        """Write the export of these parameters with their `evaluation`; return the task as changed by the evaluation.

        `task` is the run's task as it was tuned; None if it was not.
        """
        task = (task or self.inputs.task).learned(evaluation)
        bert_config = task.configure(self.bert_config)
        export_params(self.folder, bert_config, self.pretrained.tokenizer, params, task.architecture)
        return task


def open_run(
    config: Config,
    folder: RunFolder,
    known: Sequence[str] = (),
    additions: Additions = NOTHING,
    *,
    use_tuned: bool = True,
) -> Run:
    """Read data and model configuration and choose the shapes; only a newly trained vocabulary is written.

    Args:
      config: the configuration.
      folder: the run folder.
      known: the label names that the run has learned already.
      additions: the additions of a Python program.
      use_tuned: whether to use the settings that `jaxbert bench --tune` has kept.
    """
    mesh = make_mesh(config.mesh)
    _check_additions(config, additions)
    pretrained = load_pretrained(with_vocabulary(config), config.train.teacher)
    contrastive = config.train.method == "contrastive"
    if contrastive:
        from jaxbert.train.contrastive import HeadFitter, frozen_parts, with_mean, with_pairs

        pretrained = with_mean(pretrained)
    max_length = resolve_max_length(config.data.max_length, longest_input(pretrained.bert_config))
    _set_length(config, pretrained, max_length)
    chosen = task_class(config.task, config.train.method)
    _check_task(config, chosen, pretrained)
    inputs = chosen.read(config, pretrained.tokenizer, max_length, pretrained.trained_head(chosen, config.model))
    learned = inputs.task.output_names
    if tuple(known) != tuple(learned) and sorted(known) == sorted(learned):
        inputs = chosen.read(config, pretrained.tokenizer, max_length, Head(tuple(known), folder.path.name))
    inputs, taught = replace(inputs, task=additions.change_task(inputs.task)), None
    if additions.teach is not None:
        inputs, taught = additions.teach(inputs, pretrained, max_length)
    if contrastive:
        inputs = replace(inputs, task=with_pairs(inputs.task))
    _check_chosen(config, inputs)
    bert_config = inputs.task.configure(pretrained.bert_config)
    if pretrained.folder is not None:
        labels = len(bert_config.id2label or ())
        say_other_head(config.model.name_or_path, pretrained.bert_config, config.task, labels)
    trained = frozen_parts(config, bert_config) if contrastive else config
    program = Program.of(trained, mesh, bert_config, inputs.task, count_steps(config.train, len(inputs.train)))
    layout = training_layout(config, inputs.train.tokens.lengths, mesh, windows=inputs.train.windows)
    run = Run(
        config=config,
        folder=folder,
        pretrained=pretrained,
        inputs=inputs,
        program=replace(program, tuned=find_tuned(program, layout)) if use_tuned else program,
        layout=layout,
        additions=additions,
        taught=taught,
    )
    if config.train.augment is not None:
        run = _augmented(run, max_length, use_tuned=use_tuned)
    return replace(run, settle=HeadFitter(run)) if contrastive else run


def _check_additions(config: Config, additions: Additions) -> None:
    """Raise `UserError` for what the caller of `open_run` would have to add and did not."""
    for key, added in (("teacher", additions.teach), ("prune", additions.stages)):
        if getattr(config.train, key) is not None and added is None:
            raise UserError(f"train.{key} works only with `jaxbert train` and `jaxbert.finetune`: leave it out here")


def _augmented(run: Run, max_length: int, *, use_tuned: bool) -> Run:
    """Return a run whose texts change in each epoch, with a layout for the lengths that come out."""
    from jaxbert.train.augment import make_augmenter, planned_lengths

    config, train, program = run.config, run.inputs.train, run.program
    augmenter, taught = make_augmenter(config, train, run.pretrained.tokenizer, max_length)
    lengths, longest = planned_lengths(augmenter, train)
    layout = training_layout(config, lengths, program.mesh, windows=train.windows, longest=longest)
    if use_tuned:
        program = replace(program, tuned=find_tuned(program, layout))
    return replace(run, program=program, layout=layout, taught=taught, augmenter=augmenter)


def _check_task(config: Config, task: type[Task], pretrained: Pretrained) -> None:
    """Raise `UserError` if labels are to be corrected that are not those of texts, or a prompt's model knows no words."""
    if config.train.method == "prompt":
        pretrained.check_words()
    if config.data.corrections and not task.has_text_labels:
        raise UserError(
            f"data.corrections changes labels of texts, but task {config.task} has none: correct the data themselves"
        )


def _check_chosen(config: Config, inputs: Inputs) -> None:
    """Check the metric that chooses the best checkpoint, what is chosen on held-out examples, and the report's columns.

    Raises:
      UserError: for an unknown metric, or a setting or column that the task or the data do not have.
    """
    best = config.train.best_metric
    if best is not None and best not in (names := inputs.task.metric_names()):
        raise UserError(f"train.best_metric is {best!r}, but it must be one of {', '.join(names)}")
    tuning = Tuning.of(config.train)
    inputs.task.check_tuning(tuning)
    if tuning.anything and not inputs.validation:
        raise UserError(
            "train.calibration, train.threshold and train.thresholds need a validation set: give data.validation or "
            "data.validation_fraction"
        )
    if config.train.early_stopping_patience is not None and not inputs.validation:
        logger.warning("train.early_stopping_patience has no effect without a validation set: the run takes all steps")
    held_out = [view for view in inputs.overview.views if view.name != TRAIN] if config.report.slices else []
    for view in held_out:
        columns = view.seen.facts.columns
        for name in config.report.slices or ():
            if name not in columns:
                has = f"it has {', '.join(columns)}" if columns else "it has no named columns"
                raise UserError(f"report.slices names {name!r}, but {view.name} has no such column: {has}")


def _set_length(config: Config, pretrained: Pretrained, max_length: int) -> None:
    """Set the tokenizer's maximum length for later users, and warn if the checkpoint was trained with another length."""
    trained = Reading.of(settings_of(pretrained.bert_config).get("reading")).max_length
    if config.data.max_length is None and trained not in (None, max_length):
        message = (
            "%s was trained with data.max_length %d, here texts have up to %d tokens: set the key to read them alike"
        )
        logger.warning(message, config.model.name_or_path, trained, max_length)
    own = longest_input(pretrained.bert_config)
    pretrained.tokenizer.model_max_length = own if config.task == "pretraining" else max_length


def inspect_data(config: Config) -> dict[str, Any]:
    """Read every data set of a run and return an overview of it.

    Returns:
      The content of `data` in `summary.json` with more rows named, `now` (the lengths as the configuration has them) and
      `proposal`; in classification also `few_labels`, and with `train.augment` some texts as the first epoch has them
      (`augmented`).

    Raises:
      UserError: for a mistake in the configuration or the data, as a run would report it.
    """
    pretrained = load_pretrained(with_vocabulary(config))
    positions = longest_input(pretrained.bert_config)
    max_length = resolve_max_length(config.data.max_length, positions)
    task = task_class(config.task, config.train.method)
    _check_task(config, task, pretrained)
    inputs = task.read(config, pretrained.tokenizer, max_length, pretrained.trained_head(task, config.model))
    overview = inputs.overview
    result = overview.to_dict(_PLACES)
    if all(view.name != TRAIN for view in overview.views):  # a prompt without a row to learn from
        return result
    if config.train.augment is not None:
        from jaxbert.train.augment import changed_texts, make_augmenter

        augmenter, _ = make_augmenter(config, inputs.train, pretrained.tokenizer, max_length)
        result["augmented"] = [*changed_texts(augmenter, inputs.train, config.train.seed, pretrained.tokenizer)]
    train = overview.train
    if train.unit == DOCUMENTS:  # documents fill segments of any length
        return result
    if config.task == "classification" and train.labels is not None:
        result["few_labels"] = propose_method(train.labels.counts)
    batch_size, seed, lengths = config.train.batch_size, config.train.seed, train.seen.lengths
    result["now"] = describe_choice(
        lengths, max_length, batch_size, seed, windows=train.windows, row_length=config.data.row_length
    )
    result["proposal"] = propose(lengths, positions, batch_size, seed, windows=train.windows)
    return result
