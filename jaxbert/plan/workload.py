"""The workload of a planned run: its model's shape, the lengths of its examples, and the step that they fill.

This needs neither the run's devices nor its weights nor its data: a source that cannot be read is replaced, and the user is
told.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download, snapshot_download
from transformers import BertConfig

from jaxbert.config import Config, ModelConfig
from jaxbert.data.batches import Batch, fill_rows, one_row
from jaxbert.data.packing import WINDOW, Layout, StepPlan, plan_epoch
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.attention.base import Hardware
from jaxbert.models.families import SIZES, longest_input, published_config, sized_config
from jaxbert.plan.gpu import GPUS
from jaxbert.plan.lengths import draw_lengths
from jaxbert.plan.target import Target
from jaxbert.tasks import task_class, with_labels
from jaxbert.tasks.base import Inputs, Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.train.pretrained import load_pretrained
from jaxbert.train.programs import Program, check_fp8, count_steps, training_layout
from jaxbert.train.sharding import make_mesh

_TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "config.json"]
DEFAULT_LENGTHS = "sst2"
_SAMPLED_STEPS = 8
_DRAWN = 2**18
"""The most examples to draw, except for a few steps: a large step has nearly the same lengths as any other."""
_GPU_ALIGNMENT = 128
_VOCABULARY = 30_522
"""The vocabulary size of a new model without a vocabulary file: that of uncased BERT."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Material:
    """The model and data of a run, without its settings."""

    bert_config: BertConfig
    task: Task
    inputs: Inputs | None
    """The run's own inputs; None if lengths are drawn."""
    source: str
    """The name of the data, or the distribution of the lengths."""


@dataclass(frozen=True)
class Workload:
    """A run on some devices, and its step."""

    program: Program
    layout: Layout
    batch: Batch
    """The batch of a step, for its keys and shapes."""
    rows: int
    """Rows of the largest sampled step, over all devices."""
    examples: int
    """Examples in a step."""
    tokens: float
    """The mean number of real tokens in a step."""
    pairs: float
    """The mean number of pairs of tokens in one example."""
    total_steps: int | None
    """Steps of the whole run; None if neither the data nor `train.max_steps` decides it."""


def find_material(config: Config, lengths: str | None) -> Material:
    """Read the examples of `data.train` if `lengths` is None and they can be read, else choose lengths.

    Raises:
      UserError: if there is no such model.
    """
    if config.train.method == "contrastive":
        logger.warning(
            "train.method contrastive is planned as plain: its real step has one more layer and compares all texts"
        )
    if lengths is None and config.data.train is not None:
        try:
            return _real(config, config.data.train)
        except UserError as error:
            logger.warning("lengths of %s and not of data.train (--lengths takes others): %s", DEFAULT_LENGTHS, error)
    task = replacement_task(config)
    bert_config = with_labels(_shape(config.model), task.label_names)
    return Material(bert_config, task, None, lengths or DEFAULT_LENGTHS)


def replacement_task(config: Config) -> Classification:
    """Return the classifier that is planned and timed where there is no data, and tell the user for another task."""
    method = config.train.method
    if config.task != "classification" or method != "plain":
        what = f"task {config.task}" if method == "plain" else f"train.method {method}"
        logger.warning("%s needs data.train: a plain classifier is planned in its place", what)
    return Classification(tuple(config.data.label_names or (f"LABEL_{i}" for i in range(config.model.num_labels or 2))))


def make_workload(config: Config, target: Target, devices: Sequence[Any], material: Material) -> Workload:
    """Arrange the devices, lay the examples out in rows, and sample some steps.

    Raises:
      UserError: if the mesh does not fit the devices, or the lengths do not fit the model or the rows.
    """
    mesh = make_mesh(config.mesh, list(devices))
    inputs = material.inputs
    if inputs is None:
        longest = resolve_max_length(config.data.max_length, longest_input(material.bert_config))
        steps = max(2, min(WINDOW, _DRAWN // config.train.batch_size))
        lengths = draw_lengths(material.source, steps * config.train.batch_size, longest, config.train.seed)
        total, windows = config.train.max_steps, None
    else:
        lengths, windows = np.asarray(inputs.train.tokens.lengths), inputs.train.windows
        total = count_steps(config.train, len(inputs.train))
    layout = training_layout(config, lengths, mesh, _GPU_ALIGNMENT if target.stands_in else None, windows)
    program = Program.of(config, mesh, material.bert_config, material.task, total or WINDOW)
    plans = plan_epoch(lengths, layout, config.train.batch_size, seed=config.train.seed, windows=windows)
    sample = list(itertools.islice(plans, _SAMPLED_STEPS))
    sampled = [lengths[plan.example_ids].astype(np.int64) for plan in sample]
    return Workload(
        program=program,
        layout=layout,
        batch=one_row(layout) if inputs is None else _filled(sample[0], layout, inputs),
        rows=max(plan.num_rows for plan in sample),
        examples=len(sample[0].example_ids if sample[0].documents is None else sample[0].documents),
        tokens=float(np.mean([step.sum() for step in sampled])),
        pairs=float(np.mean([(step**2).sum() for step in sampled])),
        total_steps=total,
    )


def stand_in(config: Config, target: Target) -> Config:
    """Return the configuration to compile: for CPU devices that stand in for GPUs, with the choices of a run on those.

    Attention uses plain matrix products, activations are saved, and float8 is left out: the real devices' kernels cannot be
    compiled here.

    Raises:
      UserError: if the GPUs do not have the float8 products that the configuration asks for.
    """
    if not target.stands_in:
        return config
    known = GPUS.get(target.chip)
    check_fp8(config.precision, Hardware("gpu", None if known is None else known.capability), target.chip)
    compute = "bfloat16" if config.precision.compute == "auto" else config.precision.compute
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, attention="xla"),
        precision=dataclasses.replace(config.precision, compute=compute, fp8=False),
    )


def _real(config: Config, source: str) -> Material:
    """Tokenize the training examples, or take their tokens from the cache."""
    bert_config, tokenizer = _tokenizer(config.model)
    longest = resolve_max_length(config.data.max_length, longest_input(bert_config))
    data = dataclasses.replace(config.data, validation=None, test=None)
    inputs = task_class(config.task, config.train.method).read(
        dataclasses.replace(config, data=data), tokenizer, longest
    )
    configured = inputs.task.configure(bert_config)
    return Material(configured, inputs.task, inputs, source)


def _filled(plan: StepPlan, layout: Layout, inputs: Inputs) -> Batch:
    """Return the batch of a step as the run would send it."""
    batch = fill_rows(plan, layout, inputs.train)
    return batch if inputs.collate is None else inputs.collate(batch, 0)


def _tokenizer(model: ModelConfig) -> tuple[BertConfig, Any]:
    """Return a model's configuration and its tokenizer; no weights are downloaded."""
    folder = Path(model.name_or_path).expanduser()
    if model.name_or_path in SIZES and not folder.is_dir():
        pretrained = load_pretrained(model)
        return pretrained.bert_config, pretrained.tokenizer
    bert_config = find_shape(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model.name_or_path, allow_patterns=_TOKENIZER_FILES))
        except Exception as error:  # the library does not catch its HTTP client's exceptions
            raise UserError(f"the Hub gave no tokenizer of {model.name_or_path}") from error
    return bert_config, load_tokenizer(folder, bert_config, model.lower_case)


def _shape(model: ModelConfig) -> BertConfig:
    """Return a model's configuration; for a new model the vocabulary is counted if it can be read."""
    if model.name_or_path in SIZES and model.vocab is not None:
        try:
            return load_pretrained(model).bert_config
        except UserError as error:
            logger.warning("the vocabulary is assumed to be that of BERT-base: %s", error)
    return find_shape(model)


def find_shape(model: ModelConfig) -> BertConfig:
    """Read only a model's configuration, without weights and tokenizer.

    Raises:
      UserError: if there is none.
    """
    name, folder = model.name_or_path, Path(model.name_or_path).expanduser()
    if folder.is_dir():
        return read_config(folder)
    if name in SIZES:
        return sized_config(name, _VOCABULARY)
    try:
        return read_config(Path(hf_hub_download(name, "config.json")).parent)
    except UserError:
        raise
    except Exception as error:  # the library does not catch its HTTP client's exceptions
        published = published_config(name)
        if published is not None:
            logger.warning("the Hub gave no config.json of %s: the shape that was published with it is used", name)
            return published
        raise UserError(
            f"model.name_or_path {name!r} is neither a size ({', '.join(SIZES)}) nor a folder, and the Hub gave no "
            "config.json "
            "(you can also name a size with the same shape, because no weights are needed): "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
