"""A whole training run: read, load, train, evaluate, export, sum up."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
from jax.sharding import Mesh
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.batches import Batch, batches
from jaxbert.data.examples import Examples
from jaxbert.data.labels import Head
from jaxbert.data.packing import Layout
from jaxbert.data.tokens import Reading
from jaxbert.errors import UserError
from jaxbert.models.families import longest_input
from jaxbert.models.functional import Model, Params
from jaxbert.processes import all_alike, is_main, wait_for_all
from jaxbert.runs.checkpoint import Checkpoints, committed_steps
from jaxbert.runs.export import export_params, save_start
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.identity import Identity, go_on, identify, known_labels
from jaxbert.runs.lock import RunLock, owned
from jaxbert.tasks import say_other_head, task_class
from jaxbert.tasks.base import Inputs, Task
from jaxbert.tasks.exported import settings_of
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.terminal import console
from jaxbert.train.callbacks import Additions, Callbacks
from jaxbert.train.compiled import CompileLog
from jaxbert.train.data_table import data_notes, data_table
from jaxbert.train.evaluate import Predictor, numbers_of, with_details
from jaxbert.train.inference import Computation
from jaxbert.train.loop import Loop, Progress, Work
from jaxbert.train.program import Program, make_task_model, training_layout
from jaxbert.train.report import Report
from jaxbert.train.sharding import make_mesh, own_rows
from jaxbert.train.speed import Speed
from jaxbert.train.start import Start, open_start
from jaxbert.train.step import State
from jaxbert.train.vocabulary import with_vocabulary
from jaxbert.versions import say_untested

logger = logging.getLogger("jaxbert")
NOTHING = Additions(Callbacks())


@dataclass(frozen=True)
class Session:
    """Everything of a run that does not change while it trains."""

    config: Config
    folder: RunFolder
    mesh: Mesh
    start: Start
    bert_config: BertConfig
    """With what the task learned, and the dropout rates of the checkpoint."""
    inputs: Inputs
    model: Model
    layout: Layout
    additions: Additions

    @property
    def task(self) -> Task:
        """What is learned."""
        return self.inputs.task

    @property
    def train(self) -> Examples:
        """The training examples."""
        return self.inputs.train

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training examples."""
        return -(-len(self.train) // self.config.train.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.train.max_steps or self.config.train.epochs * self.steps_per_epoch

    @property
    def parameters(self) -> int:
        """How many numbers the parameters are, frozen ones included."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.model.abstract_params))

    def first_params(self) -> Params:
        """Load or draw the parameters before the first step."""
        program = self.program
        new = self.inputs.new_head or self.start.draws_head(self.task.architecture, self.config.model)
        shardings = program.state_shardings["params"]
        return self.start.params(self.model, self.config.train.seed, shardings, program.base_key, new_head=new)

    @cached_property
    def program(self) -> Program:
        """The computation."""
        return Program(self.config, self.mesh, self.model, self.task, self.total_steps)

    @cached_property
    def predictor(self) -> Predictor:
        """What evaluates."""
        batch_size = self.config.train.eval_batch_size
        return Predictor(self.model, self.task, self.mesh, self.program.call, batch_size, self.inputs.collate)

    def export(self, params: Params, evaluation: dict[str, Any]) -> Task:
        """Write the export of these parameters, which evaluate so; return the task with what the evaluation found."""
        task = self.task.learned(evaluation)
        bert_config = task.configure(self.bert_config)
        export_params(self.folder, bert_config, self.start.tokenizer, params, task.architecture)
        return task


def run_training(config: Config, additions: Additions = NOTHING) -> dict[str, Any]:
    """Train as `config` says, go on where an earlier start stopped, and return the content of `summary.json`.

    `additions` are what a Python program brings besides.

    Raises:
      UserError: for anything wrong in configuration, data or model, before the first step.
      StoppedError: if a signal ended the run after saving.
    """
    folder = RunFolder(config.train.output_dir)
    folder.check(config)
    say_untested()
    with owned(folder) as lock:
        folder.check(config)  # the process that was waited for may have ended the run
        learned, before = bool(committed_steps(folder.checkpoints)), Identity.read(folder.data)
        session = open_session(config, folder, known_labels(folder, before) if learned else (), additions)
        start = session.start
        now = identify(config, start.bert_config, start.tokenizer, start.folder, session.inputs, session.total_steps)
        now = replace(now, loss=additions.loss)
        if not all_alike(now.checksum):
            raise UserError("the processes of this run have read different data: give all of them the same files")
        kept = go_on(folder, before, now, learned=learned, accepts=config.train.accept_changed_data)
        begun = folder.config.exists()
        wait_for_all("the run folder is looked at")
        with CompileLog() as log:
            params = None if begun else session.first_params()  # a damaged checkpoint must not leave a folder behind
            if is_main():
                with folder.writing():
                    if not learned:
                        save_start(folder, session.bert_config, session.start.tokenizer)
                    kept.write(folder.data)
                folder.create(config)
            wait_for_all("the run folder is made")
            with Checkpoints(folder.checkpoints, config.train.keep_checkpoints) as checkpoints:
                return _run(session, checkpoints, params, log, lock)


def open_session(
    config: Config, folder: RunFolder, known: Sequence[str] = (), additions: Additions = NOTHING
) -> Session:
    """Read data and model configuration and decide on shapes; nothing is written but a vocabulary that is trained.

    `known` are the label names that the run has learned already.
    """
    mesh = make_mesh(config.mesh)
    start = open_start(with_vocabulary(config))
    max_length = resolve_max_length(config.data.max_length, longest_input(start.bert_config))
    _set_length(config, start, max_length)
    chosen = task_class(config.task)
    inputs = chosen.read(config, start.tokenizer, max_length, start.trained_head(chosen, config.model))
    learned = inputs.task.output_names
    if tuple(known) != tuple(learned) and sorted(known) == sorted(learned):
        inputs = chosen.read(config, start.tokenizer, max_length, Head(tuple(known), folder.path.name))
    inputs = replace(inputs, task=additions.change_task(inputs.task))
    if inputs.validation:
        _check_best_metric(inputs.task, config.train.best_metric)
    configured = inputs.task.configure(start.bert_config)
    if start.folder is not None:
        say_other_head(config.model.name_or_path, start.bert_config, config.task, len(configured.id2label or ()))
    bert_config = Computation.of_run(config, mesh).keep_in(configured)
    return Session(
        config=config,
        folder=folder,
        mesh=mesh,
        start=start,
        bert_config=bert_config,
        inputs=inputs,
        model=make_task_model(config, bert_config, inputs.task, mesh),
        layout=training_layout(config, inputs.train.tokens.lengths, mesh, windows=inputs.train.windows),
        additions=additions,
    )


def _set_length(config: Config, start: Start, max_length: int) -> None:
    """Let the tokenizer cut for others what is cut here, and say where the checkpoint was trained with another length."""
    trained = Reading.of(settings_of(start.bert_config).get("reading")).max_length
    if config.data.max_length is None and trained not in (None, max_length):
        message = (
            "%s was trained with data.max_length %d, here texts have up to %d tokens: set the key to read them alike"
        )
        logger.warning(message, config.model.name_or_path, trained, max_length)
    own = longest_input(start.bert_config)
    start.tokenizer.model_max_length = own if config.task == "pretraining" else max_length


def _check_best_metric(task: Task, name: str | None) -> None:
    """Check the name before training."""
    names = task.metric_names()
    if name is not None and name not in names:
        raise UserError(f"train.best_metric is {name!r}, but it must be one of {', '.join(names)}")


def _run(
    session: Session, checkpoints: Checkpoints, params: Params | None, log: CompileLog, lock: RunLock
) -> dict[str, Any]:
    state, progress = _first_state(session, checkpoints, params)
    if is_main():
        session.folder.rewind(progress.step)
    speed = Speed(session.bert_config, session.program.trained.backward)
    work = _work(session, lock)
    loop = Loop(work, state, progress, checkpoints, speed)
    _announce(session, progress)
    with Report(session.folder, session.total_steps, progress.step, writes=is_main()) as report:
        loop.run(report)
    lock.check()
    return _finish(session, loop, checkpoints, log)


def _first_state(session: Session, checkpoints: Checkpoints, params: Params | None) -> tuple[State, Progress]:
    """Restore the last checkpoint where there is one, else begin from `params`, which are loaded if they are not yet."""
    if checkpoints.steps:
        state, remembered = checkpoints.restore(checkpoints.steps[-1], session.program.state_target)
        return state, Progress.of(remembered, _best_metric(session))
    return session.program.first_state(params or session.first_params()), Progress()


def _work(session: Session, lock: RunLock) -> Work:
    config, inputs = session.config, session.inputs

    def feed(epoch: int, first_step: int) -> Iterator[Batch]:
        source = batches(
            inputs.train,
            session.layout,
            config.train.batch_size,
            seed=config.train.seed,
            epoch=epoch,
            first_step=first_step,
            own_rows=partial(own_rows, session.mesh),
        )
        return source if inputs.collate is None else (inputs.collate(batch, epoch) for batch in source)

    return Work(
        config=config.train,
        total_steps=session.total_steps,
        steps_per_epoch=session.steps_per_epoch,
        programs=session.program.step_programs(),
        feed=feed,
        put=session.program.put_group,
        source_rows=lambda example_ids: inputs.train.source_rows(inputs.train.documents_of(example_ids)),
        evaluate=partial(session.predictor.metrics, sets=inputs.validation) if inputs.validation else None,
        best_metric=_best_metric(session),
        base_key=session.program.base_key,
        count=session.program.count,
        before_saving=lock.check,
        callbacks=session.additions.callbacks,
    )


def _best_metric(session: Session) -> str:
    return session.config.train.best_metric or session.task.default_metric


def _announce(session: Session, progress: Progress) -> None:
    """Say in a few lines what is about to happen."""
    layout, devices = session.layout, jax.devices()
    overview = session.inputs.overview.to_dict()
    console.print(data_table(overview))
    for note in data_notes(overview):
        console.print(note, highlight=False, soft_wrap=True)
    held_out = sum(map(len, session.inputs.validation.values()))
    examples = "examples" if session.config.data.text_pair is None else "pairs of texts"
    console.print(
        f"{len(session.train):,} training and {held_out:,} validation {examples}, {session.task.describe()}",
        highlight=False,
        soft_wrap=True,
    )
    trained, whole = session.program.trained, session.parameters
    if not trained.everything:
        console.print(
            f"{trained.count():,} of {whole:,} parameters are trained, the others are frozen", highlight=False
        )
    kind = "packed" if session.config.data.packing else "padded"
    begin = f"going on after step {progress.step}" if progress.step else f"{session.total_steps} steps"
    console.print(
        f"{begin}, rows of {layout.row_length} tokens ({kind}), {len(devices)} x {devices[0].device_kind}",
        highlight=False,
    )


def _finish(session: Session, loop: Loop, checkpoints: Checkpoints, log: CompileLog) -> dict[str, Any]:
    """Export the best parameters (the last where those are lost), evaluate the test set, and write the summary."""
    progress, params = loop.progress, loop.state["params"]
    exported, evaluation = progress.step, progress.evaluation
    best = progress.best_step
    if session.config.train.keep_best and best not in (None, exported) and checkpoints.is_whole(best):
        exported = best
        state, remembered = checkpoints.restore(exported, session.program.state_target)
        params, evaluation = state["params"], numbers_of(remembered["evaluation"])
    if session.inputs.validation:
        metrics = loop.details.get(exported) or session.predictor.metrics(params, session.inputs.validation)
        evaluation = with_details(evaluation, metrics)
    task = session.export(params, evaluation)
    test = session.predictor.metrics(params, session.inputs.test, task) if session.inputs.test else None
    speed = loop.speed.summary()
    summary = {
        "steps": progress.step,
        "epochs": round(progress.step / session.steps_per_epoch, 4),
        "train_loss": progress.loss_sum / progress.examples if progress.examples else None,
        "bad_steps": progress.bad_steps,
        "parameters": session.parameters,
        "trained_parameters": session.program.trained.count(),
        "exported_step": exported,
        "eval": evaluation,
        "test": test,
        **speed,
        "compile_seconds": round(log.seconds, 2),
        "compilations": log.count,
        "compilations_from_cache": log.from_cache,
        "step_programs": loop.work.programs.count + session.predictor.step.count,
        "data": session.inputs.overview.to_dict(),
    }
    if is_main():
        session.folder.write_summary(summary)
    return summary
