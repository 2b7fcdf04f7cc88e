"""Makes the computation and its examples from a configuration, without reading a checkpoint.

With real data this is the run that the trainer opens; else it is a new classifier, with random tokens of drawn lengths.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jax.sharding import Mesh

from jaxbert.config import Config
from jaxbert.data.examples import Examples
from jaxbert.data.overview import Overview
from jaxbert.data.packing import WINDOW
from jaxbert.data.tokens import Tokens
from jaxbert.models.families import longest_input
from jaxbert.plan.lengths import draw_lengths
from jaxbert.plan.workload import DEFAULT_LENGTHS, find_shape, replacement_task
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import with_labels
from jaxbert.tasks.base import Inputs
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.train.pretrained import Pretrained
from jaxbert.train.programs import Program, training_layout
from jaxbert.train.run import Run, open_run
from jaxbert.train.sharding import make_mesh
from jaxbert.train.tuned import find_tuned

_SYNTHETIC_STEPS = 2 * WINDOW


def open_bench(config: Config, lengths: str | None, *, use_tuned: bool = True) -> tuple[Run, str]:
    """Prepare the examples of `data.train`, or synthetic ones if `lengths` is given or there is no data.

    With `use_tuned` the settings that `tune` has kept are used, as in a run.

    Returns:
      The run, and the source of its examples' lengths.

    Raises:
      UserError: for a mistake in configuration, data, lengths or model.
    """
    if lengths is None and config.data.train is not None:
        data = dataclasses.replace(config.data, validation=None, test=None, validation_fraction=0.0)
        folder = RunFolder(config.train.output_dir)
        run = open_run(dataclasses.replace(config, data=data), folder, use_tuned=use_tuned)
        return run, config.data.train
    lengths = lengths or DEFAULT_LENGTHS
    return _synthetic(config, lengths, use_tuned), lengths


def new_program(config: Config, mesh: Mesh) -> Program:
    """Make the computation of a new classifier; this reads only a model's configuration and needs no device.

    Raises:
      UserError: if there is no such model.
    """
    task = replacement_task(config)
    steps = config.train.max_steps or config.train.epochs * _SYNTHETIC_STEPS
    return Program.of(config, mesh, with_labels(find_shape(config.model), task.label_names), task, steps)


def _synthetic(config: Config, lengths: str, use_tuned: bool) -> Run:
    program = new_program(config, make_mesh(config.mesh))
    bert_config = program.model.config
    max_length = resolve_max_length(config.data.max_length, longest_input(bert_config))
    count = _SYNTHETIC_STEPS * config.train.batch_size
    drawn = draw_lengths(lengths, count, max_length, config.train.seed)
    layout = training_layout(config, drawn, program.mesh)
    examples = _random_examples(drawn, bert_config.vocab_size, len(bert_config.id2label or ()), config.train.seed)
    return Run(
        config=config,
        folder=RunFolder(config.train.output_dir),
        pretrained=Pretrained(bert_config, None, None),
        inputs=Inputs(examples, {}, {}, program.task, Overview([])),
        program=dataclasses.replace(program, tuned=find_tuned(program, layout)) if use_tuned else program,
        layout=layout,
    )


def _random_examples(lengths: np.ndarray, vocabulary: int, classes: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocabulary, lengths.sum(dtype=np.int64), dtype=np.int32)
    return Examples(Tokens.from_lengths(ids, lengths, lengths), rng.integers(0, classes, len(lengths), dtype=np.int32))
