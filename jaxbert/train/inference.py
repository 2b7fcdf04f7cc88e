"""A trained model, opened from a folder or the Hub to evaluate and to predict."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.config import DataConfig, InferenceOptions, MeshConfig, ModelConfig, PrecisionConfig
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Ladder
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.families import longest_input
from jaxbert.models.functional import Params, make_model
from jaxbert.tasks import say_guess, task_of_model
from jaxbert.tasks.base import AnswerPart, Task, TaskInputs
from jaxbert.tasks.exported import COMPUTATION, settings_of
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.tasks.top_k import with_top_k
from jaxbert.train.evaluate import Chunk, ComputeSettings, Predictor
from jaxbert.train.prefetch import Prefetcher
from jaxbert.train.pretrained import model_folder
from jaxbert.train.programs import compute_dtype, layer_call
from jaxbert.train.runtime import multiply_in
from jaxbert.train.sharding import make_mesh, param_shardings, place

_PARTS_AHEAD = 1024
"""Parts of a pipe that are read before they are asked for; most are a line, or the lines that were waiting."""
_MOMENT_SECONDS = 0.05
"""For which the first of some lines waits for the others."""
_QUIET_SECONDS = 0.3
"""Without a line, after which lines are expected one by one, and not a whole file at once."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything that it needs to answer."""

    task: Task
    tokenizer: Any
    params: Params
    predictor: Predictor
    max_length: int

    def evaluate(self, spec: str, data: DataConfig) -> dict[str, Any]:
        """Return all metrics over a source of labelled examples.

        Raises:
          UserError: for anything wrong in it, or a label that the model does not know.
        """
        if not self.task.has_text_labels and (data.label_map or data.label_format != "auto"):
            raise UserError(
                "label_map and label_format are for labels of texts, which this model does not give: leave them out"
            )
        examples = self.task.read_for(spec, data, self.tokenizer, self.max_length)
        return self.predictor.metrics(self.params, {"": examples})

    def open_inputs(self, spec: str, data: DataConfig, kept: tuple[str, ...] = ()) -> TaskInputs:
        """Open a source to predict; the columns `kept` are copied into the answers.

        Raises:
          UserError: if it cannot be opened.
        """
        return self.task.open_inputs(spec, data, self.tokenizer, self.max_length, kept)

    def predict(self, feed: TaskInputs, *, may_wait: bool = False) -> Generator[tuple[Chunk, np.ndarray]]:
        """Yield the inputs of a source, some thousand at a time, with predictions of which the task makes answers.

        Where its lines `may_wait`, those that are there are answered, however few they are.

        Raises:
          UserError: for what is malformed, after all that came before it.
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
        """Compile the programs of a single line, short and long, while none comes."""
        until = time.monotonic() + _QUIET_SECONDS
        while not lines.has_next and time.monotonic() < until:
            time.sleep(_QUIET_SECONDS / 10)
        for length in (2, self.max_length):
            if not lines.has_next:
                lengths = np.array([length], np.int32)
                examples = Examples(Tokens.from_lengths(np.zeros(length, np.int32), lengths, lengths))
                chunk = Chunk(examples, *ladder.choose(lengths))
                next(self.predictor.over(self.params, iter([chunk])))


def _started(feed: TaskInputs) -> Iterator[AnswerPart]:
    """Begin to read no earlier than the first part is asked for."""
    yield from feed.parts()


def _filled(parts: Iterator[AnswerPart], most: int) -> Iterator[list[AnswerPart]]:
    """Put parts together until they have `most` inputs."""
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
    """Put together what comes within a moment, up to `most` inputs."""
    for first in lines:
        taken, count, until = [first], len(first), time.monotonic() + _MOMENT_SECONDS
        while count < most and (part := lines.next_within(max(0.0, until - time.monotonic()))) is not None:
            taken.append(part)
            count += len(part)
        yield taken


def open_trained(name: str, options: InferenceOptions | None = None) -> TrainedModel:
    """Open an exported folder, a run folder (its export) or a Hub name.

    It computes and reads as in its training, where that is known and nothing else is asked for.

    Raises:
      UserError: if there is no such model, its head was not trained, or its answers have no probabilities for `top_k`.
    """
    options = options or InferenceOptions()
    folder = model_folder(name)
    config = read_config(folder)
    task = with_top_k(task_of_model(config).reopen(config), options.top_k)
    say_guess(name, config)
    mesh = make_mesh(MeshConfig())
    kept = ComputeSettings.of(settings_of(config).get(COMPUTATION), mesh)
    precision = PrecisionConfig(kept.precision if options.precision == "auto" else options.precision)
    if options.precision == "auto" and kept.platform != "cpu":
        multiply_in(kept.precision)
    model = make_model(task.head, config, compute_dtype(precision, mesh))
    params, _ = load_params(folder, model)
    call = layer_call(ModelConfig(attention=kept.attention, scan_layers=kept.scan_layers), mesh)
    return TrainedModel(
        task=task,
        tokenizer=load_tokenizer(folder, config, options.lower_case),
        params=place(params, param_shardings(mesh, model.abstract_params)),
        predictor=Predictor(model, task, mesh, call, options.batch_size or kept.batch_size),
        max_length=resolve_max_length(options.max_length or task.reading_length, longest_input(config)),
    )
