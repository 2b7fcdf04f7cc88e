"""A trained model, opened from a folder or the Hub, that evaluates and predicts."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.bucket import fetched
from jaxbert.config import Config, DataConfig, MeshConfig, ModelConfig, PrecisionConfig
from jaxbert.data.batches import Prefetcher
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Ladder
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.families import longest_input
from jaxbert.models.functional import make_model
from jaxbert.models.mean import MEAN_LAYER
from jaxbert.options import InferenceOptions
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import COMPUTATION, SETTINGS, say_guess, settings_of, task_of_model
from jaxbert.tasks.base import AnswerPart, Evaluation, Inputs, Outcome, Task, TaskInputs
from jaxbert.tasks.decision import Tuning, with_answer_options
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.tasks.top_k import with_top_k
from jaxbert.train.evaluate import Chunk, ComputeSettings, Ensemble, Predictor, calibrate_model
from jaxbert.train.pretrained import model_folder
from jaxbert.train.programs import compute_dtype, layer_call
from jaxbert.train.runtime import multiply_in
from jaxbert.train.sharding import make_mesh, param_shardings, place

_PARTS_AHEAD = 1024
"""Parts of a pipe that are read ahead; most parts are one line, or the lines that were waiting."""
_MOMENT_SECONDS = 0.05
"""Seconds that the first of some lines waits for more."""
_QUIET_SECONDS = 0.3
"""Seconds without a line, after which lines are expected one by one and not as a whole file."""
logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that evaluation and prediction need."""

    task: Task
    tokenizer: Any
    params: Any
    """The parameters (`Params`); of an `Ensemble` the list of those of all models."""
    predictor: Predictor
    max_length: int

    def evaluate(self, spec: str, data: DataConfig) -> Evaluation:
        """Evaluate a source of labelled examples; its only set has the name "".

        Raises:
          UserError: if the source has a mistake, or a label that the model does not know.
        """
        return self.predictor.evaluate(self.params, {"": self._read(spec, data)}, self.task)

    def _read(self, spec: str, data: DataConfig) -> Examples:
        """Read a source of labelled examples."""
        if not self.task.has_text_labels and (data.label_map or data.label_format != "auto"):
            raise UserError(
                "label_map and label_format are for labels of texts, which this model does not give: leave them out"
            )
        self._say_pairs(data)
        return self.task.read_for(spec, data, self.tokenizer, self.max_length)

    def _say_pairs(self, data: DataConfig) -> None:
        """Warn of pairs of texts for a model that is known to have learned from single texts."""
        learned = settings_of(self.predictor.model.config).get("reading")
        if data.text_pair is not None and isinstance(learned, dict) and learned.get("pairs") is False:
            logger.warning("the model has learned from single texts, and reads pairs here (text_pair)")

    @property
    def config(self) -> BertConfig:
        """The model's configuration, with what was tuned since it was opened."""
        opened = self.predictor.model.config
        if self.task is self.predictor.task:
            return opened
        tuned = self.task.configure(opened)
        if settings_of(opened).get(MEAN_LAYER):  # only the classifier behind this layer was changed
            setattr(tuned, SETTINGS, settings_of(tuned) | {MEAN_LAYER: True})
        return tuned

    def calibrated(self, spec: str, data: DataConfig, tuning: Tuning) -> tuple[TrainedModel, dict[str, Any]]:
        """Calibrate on a source of labelled examples that were not trained on; return the model and a record of the changes.

        Raises:
          UserError: if the source has a mistake, the task has not what `tuning` asks for, or no threshold reaches it.
        """
        self.task.check_tuning(tuning)
        sets = {spec: self._read(spec, data)}
        tuned = calibrate_model(self.predictor, self.params, self.task, sets, tuning)
        if note := tuned.record.get("threshold", {}).get("note"):
            raise UserError(f"{tuning.spell('threshold')}: {note.partition(':')[0]}: ask for less, or give more rows")
        _say_thresholds(self.task, tuned.task, tuning)
        return replace(self, task=tuned.task, params=tuned.params), tuned.record

    def open_inputs(self, spec: str, data: DataConfig, kept: tuple[str, ...] = ()) -> TaskInputs:
        """Open a source for prediction; the columns `kept` are copied into the answers.

        Raises:
          UserError: if it cannot be opened.
        """
        self._say_pairs(data)
        return self.task.open_inputs(spec, data, self.tokenizer, self.max_length, kept)

    def predict(self, feed: TaskInputs, *, may_wait: bool = False) -> Generator[tuple[Chunk, np.ndarray]]:
        """Yield a source's inputs, a few thousand at a time, with the predictions from which the task makes answers.

        If its lines `may_wait`, the lines that have arrived are answered, however few they are.

        Raises:
          UserError: if an input is malformed, after all inputs before it were answered.
        """
        ladder = self.predictor.ladder(self.max_length)
        most = self.predictor.max_inputs

        def chunk(parts: list[AnswerPart]) -> Chunk:
            examples = feed.tokenize(parts)
            if may_wait:
                feed.say_first()
            kept = [row for part in parts for row in part.kept_rows()]
            layout, size = ladder.choose(examples.tokens.lengths)
            return Chunk(examples, layout, min(size, self.predictor.examples_a_step(examples)), kept)

        try:
            if not may_wait:
                yield from self.predictor.over(self.params, map(chunk, _filled(feed.parts(), most)))
            else:
                with Prefetcher(_started(feed), depth=_PARTS_AHEAD, may_wait=True) as lines:
                    self._warm_up(ladder, lines)
                    yield from self.predictor.over(self.params, map(chunk, _arrived(lines, most)), lines.stop)
        except GeneratorExit:
            raise
        except BaseException:
            feed.say()
            raise
        feed.say()

    def _warm_up(self, ladder: Ladder, lines: Prefetcher) -> None:
        """Compile the programs for a single line, short and long, while no line arrives."""
        until = time.monotonic() + _QUIET_SECONDS
        while not lines.has_next and time.monotonic() < until:
            time.sleep(_QUIET_SECONDS / 10)
        for length in (2, self.max_length):
            if not lines.has_next:
                lengths = np.array([length], np.int32)
                examples = Examples(Tokens.from_lengths(np.zeros(length, np.int32), lengths, lengths))
                chunk = Chunk(examples, *ladder.choose(lengths))
                next(self.predictor.over(self.params, iter([chunk])))


@dataclass(frozen=True)
class Finished:
    """A complete run: its data, its exported model, and the predictions of that model for the held-out sets."""

    config: Config
    folder: RunFolder
    inputs: Inputs
    model: TrainedModel
    outcomes: Mapping[str, Outcome]
    """The outcome of each validation and test set, by its name in the data table: `validation`, `validation.en`, `test`."""
    summary: dict[str, Any]
    """The content of `summary.json`."""


def _say_thresholds(before: Task, after: Task, tuning: Tuning) -> None:
    """Tell how the threshold of several labels has changed, which each calibration chooses again."""
    old, new = (getattr(task, "threshold", None) for task in (before, after))
    if getattr(before, "thresholds", None) is not None and getattr(after, "thresholds", None) is None:
        told = f"one of {new:.4f} for all labels now; {tuning.spell('thresholds')} per_label chooses one for each label"
        logger.warning("the model had a threshold for each label, and has %s", told)
    elif old is not None and new is not None and old != new:
        logger.info("threshold of all labels: %.4f, before %.4f", new, old)


def _started(feed: TaskInputs) -> Iterator[AnswerPart]:
    """Yield the parts of a source; reading starts only when the first part is requested."""
    yield from feed.parts()


def _filled(parts: Iterator[AnswerPart], most: int) -> Iterator[list[AnswerPart]]:
    """Join parts until they have `most` inputs."""
    taken: list[AnswerPart] = []
    count = 0
    for part in parts:
        taken.append(part)
        count += len(part)
        if count >= most:
            yield taken
            taken, count = [], 0
    if taken:
        yield taken


def _arrived(lines: Prefetcher, most: int) -> Iterator[list[AnswerPart]]:
    """Join the lines that arrive within a moment, up to `most` inputs."""
    for first in lines:
        taken, count, until = [first], len(first), time.monotonic() + _MOMENT_SECONDS
        while count < most and (part := lines.next_within(max(0.0, until - time.monotonic()))) is not None:
            taken.append(part)
            count += len(part)
        yield taken


def open_trained(name: str, options: InferenceOptions | None = None) -> TrainedModel:
    """Open an exported folder, a run folder (its export, or its folds if it is an ensemble) or a Hub name.

    The model computes and reads with the settings of its training, where those are known and `options` has no others.

    Raises:
      UserError: if there is no such model, its head was not trained, or its answers have no probabilities for `top_k`.
    """
    options, run = options or InferenceOptions(), RunFolder(name)
    if members := run.members():
        return _open_models(name, fetched(run.start), [fetched(member) for member in members], options)
    folder = model_folder(name)
    return _open_models(name, folder, [folder], options)


def open_task(name: str, config: BertConfig, options: InferenceOptions) -> Task:
    """Return the task of a model with the form of answers that the options ask for.

    Raises:
      UserError: if no task has the model's head, or its answers have not what is asked for.
    """
    task = with_top_k(task_of_model(config).reopen(config), options.top_k)
    task = with_answer_options(task, options.abstain_below, options.coverage)
    say_guess(name, config)
    return task


def _open_models(name: str, folder: Path, members: Sequence[Path], options: InferenceOptions) -> TrainedModel:
    """Open one model, or several of one task and one shape as an ensemble.

    Args:
      name: its name in messages.
      folder: the folder of its configuration and tokenizer.
      members: the folders of its weights, one for each model.
      options: the options that the user gave.
    """
    config = read_config(folder)
    task = open_task(name, config, options)
    mesh = make_mesh(MeshConfig())
    kept = ComputeSettings.of(settings_of(config).get(COMPUTATION), mesh)
    precision = PrecisionConfig(kept.precision if options.precision == "auto" else options.precision)
    if options.precision == "auto" and kept.platform != "cpu":
        multiply_in(kept.precision)
    model = make_model(task.head, config, compute_dtype(precision, mesh))
    shardings = param_shardings(mesh, model.abstract_params)
    params = [place(load_params(each, model)[0], shardings) for each in members]
    call = layer_call(ModelConfig(attention=kept.attention, scan_layers=kept.scan_layers), mesh)
    kind = Predictor if len(params) == 1 else Ensemble
    return TrainedModel(
        task=task,
        tokenizer=load_tokenizer(folder, config, options.lower_case),
        params=params[0] if len(params) == 1 else params,
        predictor=kind(model, task, mesh, call, options.batch_size or kept.batch_size),
        max_length=resolve_max_length(options.max_length or task.reading_length, longest_input(config)),
    )
