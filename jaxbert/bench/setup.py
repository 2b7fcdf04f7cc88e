"""From a configuration to a computation and its examples, with no checkpoint read.

With real data this is the trainer's own session; else a new classifier, and random tokens of drawn lengths.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jaxbert.config import Config
from jaxbert.data.batches import Batch, batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import WINDOW, Layout
from jaxbert.data.tokens import Tokens
from jaxbert.models.families import longest_input
from jaxbert.plan.lengths import draw_lengths
from jaxbert.plan.workload import find_shape, program_of
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.exported import with_labels
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.train.program import Program, training_layout
from jaxbert.train.run import open_session
from jaxbert.train.sharding import make_mesh

_SYNTHETIC_STEPS = 2 * WINDOW

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Bench:
    """What is timed, and on what."""

    program: Program
    examples: Examples
    layout: Layout
    source: str
    """Where the lengths come from."""
    collate: Callable[[Batch, int | None], Batch] | None = None
    """What is done to each batch of an epoch before it is sent."""

    def feed(self) -> Iterator[Batch]:
        """Yield batches without end, epoch after epoch."""
        config = self.program.config.train
        for epoch in itertools.count():
            for batch in batches(self.examples, self.layout, config.batch_size, seed=config.seed, epoch=epoch):
                yield batch if self.collate is None else self.collate(batch, epoch)


def open_bench(config: Config, lengths: str | None) -> Bench:
    """Prepare the examples of `data.train`, or synthetic ones where `lengths` is given or there is no data.

    Raises:
      UserError: for anything wrong in configuration, data, lengths or model.
    """
    if lengths is None and config.data.train is not None:
        return _real(config, config.data.train)
    return _synthetic(config, lengths or "sst2")


def _real(config: Config, source: str) -> Bench:
    data = dataclasses.replace(config.data, validation=None, test=None, validation_fraction=0.0)
    session = open_session(dataclasses.replace(config, data=data), RunFolder(config.train.output_dir))
    return Bench(session.program, session.train, session.layout, source, session.inputs.collate)


def new_program(config: Config, mesh: Mesh) -> Program:
    """Make the computation of a new classifier; nothing is read but a model's configuration, and no device is needed.

    Raises:
      UserError: if there is no such model.
    """
    task = Classification(tuple(f"LABEL_{i}" for i in range(config.model.num_labels or 2)))
    steps = config.train.max_steps or config.train.epochs * _SYNTHETIC_STEPS
    return program_of(config, mesh, with_labels(find_shape(config.model), task.label_names), task, steps)


def _synthetic(config: Config, lengths: str) -> Bench:
    if config.task != "classification":
        logger.warning("task %s needs data.train to be timed: a classifier stands in its place", config.task)
    program = new_program(config, make_mesh(config.mesh))
    bert_config = program.model.config
    max_length = resolve_max_length(config.data.max_length, longest_input(bert_config))
    count = _SYNTHETIC_STEPS * config.train.batch_size
    drawn = draw_lengths(lengths, count, max_length, config.train.seed)
    examples = _random_examples(drawn, bert_config.vocab_size, len(bert_config.id2label or ()), config.train.seed)
    return Bench(program, examples, training_layout(config, drawn, program.mesh), lengths)


def _random_examples(lengths: np.ndarray, vocabulary: int, classes: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocabulary, lengths.sum(dtype=np.int64), dtype=np.int32)
    return Examples(
        Tokens.behind_one_another(ids, lengths, lengths), rng.integers(0, classes, len(lengths), dtype=np.int32)
    )
