"""The checks of a configuration that need no data and no device: ranges, and what values say of each other.

Checks that need the model or the data (label names, positions of the model, columns) live where those are read.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
import re

from jaxbert.config import OPTIMIZERS, ClassWeights, Config, DataConfig, LaunchConfig, MeshConfig, OptimizerConfig
from jaxbert.errors import UserError
from jaxbert.tasks import task_names

COMPUTE_FORMATS = ("auto", "float32", "bfloat16")


def _require(ok: bool, key: str, value: object, expected: str) -> None:
    if not ok:
        raise UserError(f"{key} is {value!r}, but it must be {expected}")


def _check_at_least(config: Config, low: float, *keys: str) -> None:
    for key in keys:
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        _require(value is None or value >= low, key, value, f"at least {low}")


def _check_range(config: Config, low: float, high: float, *keys: str) -> None:
    for key in keys:
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        _require(value is None or low <= value < high, key, value, f"from {low} to below {high}")


def check(config: Config) -> None:
    """Check the ranges of single values and what values say of each other.

    Raises:
      UserError: for the first value that is out of range or contradicts another.
    """
    _check_at_least(
        config,
        1,
        "train.batch_size",
        "train.eval_batch_size",
        "train.accumulation_steps",
        "train.steps_per_dispatch",
        "train.epochs",
        "train.max_steps",
        "train.log_every",
        "train.eval_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.early_stopping_patience",
        "train.max_bad_steps",
        "data.limit",
        "data.row_length",
    )
    _check_at_least(config, 0, "train.seed", "optimizer.weight_decay", "data.window_stride")
    _check_range(config, 1 if config.task == "regression" else 2, 2**17 + 1, "model.num_labels")
    _check_at_least(config, 3, "data.max_length")
    _check_range(
        config, 0, 1, "model.dropout", "model.attention_dropout", "data.validation_fraction", "train.label_smoothing"
    )
    _check_range(config, 0, 1, "optimizer.warmup_ratio", "optimizer.b1", "optimizer.b2", "optimizer.momentum")
    _check_optimizer(config.optimizer)
    data, train = config.data, config.train
    _check_task(config.task)
    check_reading(data)
    _check_sets("data.validation", data.validation)
    _check_sets("data.test", data.test)
    _check_labels(config)
    if data.row_length and data.max_length and data.max_length > data.row_length:
        raise UserError(
            f"data.max_length ({data.max_length}) is above data.row_length ({data.row_length}): "
            "lower the first or raise the second"
        )
    _check_windows(config)
    if data.validation and data.validation_fraction:
        raise UserError("data.validation and data.validation_fraction are both set: keep one of them")
    _check_finite(config)
    _check_compute(config.precision.compute)
    _check_pretrain(config)
    _check_class_weights(train.class_weights)
    _check_mesh(config.mesh)
    check_launch(config.launch)


def _check_task(task: str) -> None:
    names = f"one of {', '.join(task_names())}, or a class as package.module:Class"
    _require(":" in task or task in task_names(), "task", task, names)


def check_reading(data: DataConfig) -> None:
    """Check how text files are read.

    Raises:
      UserError: for the first value that is out of range or contradicts another.
    """
    separator = "\t" if data.separator in ("\\t", "tab") else data.separator
    raw = data.quoting == "none"
    one = "one character" if not raw else "text"
    for key, value in (("data.separator", separator), ("data.quote", data.quote)):
        fits = value is None or ((len(value) == 1 or (raw and bool(value))) and not set(value or "") & set("\r\n"))
        _require(fits, key, value, f"{one} and no line end")
    if raw and data.quote is not None:
        raise UserError("data.quoting is none, but data.quote is set: keep one of them")
    if separator is not None and separator == (data.quote or '"') and not raw:
        raise UserError(f"data.separator and data.quote are both {separator!r}: they must differ")
    try:
        known = data.encoding is None or codecs.lookup(data.encoding)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    names = "an encoding as Python names it, for instance utf-8, gbk, gb18030, cp1252, shift_jis or utf-16"
    _require(bool(known), "data.encoding", data.encoding, names)


def _check_windows(config: Config) -> None:
    data = config.data
    shared, longest = data.window_stride, data.max_length
    if shared is not None and longest is not None and not 0 <= shared < longest - 2:
        raise UserError(
            f"data.window_stride is {shared}, but it must be from 0 to below data.max_length - 2 ({longest - 2})"
        )
    if data.long_texts == "cut" or config.task not in ("classification", "multi_label", "regression"):
        return
    if data.text_pair is not None:
        raise UserError(f"data.long_texts is {data.long_texts}, which pairs (data.text_pair) do not have: leave it out")


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    for key in sorted({key for settings in OPTIMIZERS.values() for key in settings}):
        value, having = getattr(optimizer, key), [name for name, settings in OPTIMIZERS.items() if key in settings]
        if value is not None and optimizer.name not in having:
            raise UserError(
                f"optimizer.{key} is {value!r}, but optimizer.name is {optimizer.name}, which has no such setting "
                f"({', '.join(having)} {'have' if len(having) > 1 else 'has'} it): leave it out"
            )
    for name in ("learning_rate", "eps", "clip_norm", "layer_decay"):
        value = getattr(optimizer, name)
        _require(value is None or value > 0, f"optimizer.{name}", value, "above 0")
    decay = optimizer.layer_decay
    _require(decay is None or decay <= 1, "optimizer.layer_decay", decay, "above 0 and at most 1")
    for pattern in optimizer.freeze or ():
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(f"optimizer.freeze: {pattern!r} is no regular expression ({error})") from error


def _check_sets(key: str, sets: str | dict[str, str] | None) -> None:
    if not isinstance(sets, dict):
        return
    _require(
        bool(sets), key, sets, "a source, or one source at least by its name, {NAME: SOURCE}; leave it out for none"
    )
    for name in sets:
        text = isinstance(name, str) and bool(name.strip())  # YAML reads the name of Norwegian as false
        _require(text, f"{key}: the name of a set", name, "text: write it in quotes")


def _check_labels(config: Config) -> None:
    data, task = config.data, config.task
    if isinstance(data.label, list):
        distinct = len(set(data.label)) == len(data.label) > 1
        _require(distinct, "data.label", data.label, "one column, or several different ones")
        if task != "multi_label":
            raise UserError(f"data.label names {len(data.label)} columns, which only task: multi_label has: name one")
        if data.label_format not in ("auto", "multi_hot"):
            raise UserError(
                f"data.label_format is {data.label_format}, but several columns of data.label are multi_hot"
            )
    if data.label_format == "multi_hot" and task != "multi_label":
        raise UserError("data.label_format is multi_hot, which only task: multi_label has: leave it out")
    if task == "regression" and (data.label_format != "auto" or data.label_map):
        raise UserError("task regression learns a score, no labels: remove data.label_format and data.label_map")
    if task == "pretraining" and config.model.head != "auto":
        raise UserError("model.head is for tasks with labels, and pretraining has none: leave it out")


def _check_finite(config: Config) -> None:
    for section, values in config.to_dict().items():
        for name, value in values.items() if isinstance(values, dict) else ():
            numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)]
            _require(all(map(math.isfinite, numbers)), f"{section}.{name}", value, "finite")


def _check_compute(compute: str) -> None:
    if compute in ("float16", "fp16", "half"):
        raise UserError(
            f"precision.compute is {compute!r}, whose small gradients vanish without loss scaling, and there is none here: "
            "take bfloat16, which has the range of float32"
        )
    _require(compute in COMPUTE_FORMATS, "precision.compute", compute, f"one of {', '.join(COMPUTE_FORMATS)}")


def _check_pretrain(config: Config) -> None:
    pretrain, probability = config.pretrain, config.pretrain.masking_probability
    _require(0 < probability < 1, "pretrain.masking_probability", probability, "above 0 and below 1")
    _require((pretrain.vocab_size or 100) >= 100, "pretrain.vocab_size", pretrain.vocab_size, "at least 100")
    if pretrain.segmented and pretrain.mask != "word":
        raise UserError("pretrain.segmented says where words end, but pretrain.mask is token: set it to word")
    if pretrain.vocab_size and config.model.vocab:
        raise UserError("pretrain.vocab_size and model.vocab are both set: train a vocabulary, or give one")


def _check_class_weights(weights: ClassWeights) -> None:
    named = weights in ("none", "balanced")
    given = isinstance(weights, list) and all(w >= 0 for w in weights) and sum(weights) > 0
    _require(named or given, "train.class_weights", weights, "none, balanced or a list of weights from 0 up")


def _check_mesh(mesh: MeshConfig) -> None:
    sizes = dataclasses.asdict(mesh)
    for name, size in sizes.items():
        _require(size == -1 or size >= 1, f"mesh.{name}", size, "at least 1, or -1 for all that remain")
    _require(list(sizes.values()).count(-1) <= 1, "mesh", sizes, "-1 in one place at most")


def check_launch(launch: LaunchConfig) -> None:
    """Check the section `launch` by itself: it is needed before the rest of a configuration is read, or without one.

    Raises:
      UserError: for the first value that is out of range or contradicts another.
    """
    least = {"num_processes": 1, "process_id": 0, "timeout_seconds": 1, "heartbeat_seconds": 1}
    for name, low in least.items():
        value = getattr(launch, name)
        _require(value is None or value >= low, f"launch.{name}", value, f"at least {low}")
    number, process = launch.num_processes, launch.process_id
    if (number is None) != (process is None):
        given, missing = ("process_id", "num_processes") if number is None else ("num_processes", "process_id")
        raise UserError(f"launch.{given} is set, but launch.{missing} is not: set both, or neither")
    if number is not None and process is not None and process >= number:
        raise UserError(f"launch.process_id is {process}, but it must be below launch.num_processes, which is {number}")
    if launch.coordinator is not None:
        _require(is_address(launch.coordinator), "launch.coordinator", launch.coordinator, "HOST:PORT")
    for name in ("coordinator", "num_processes"):
        if launch.distributed == "off" and getattr(launch, name) is not None:
            raise UserError(f"launch.distributed is off, but launch.{name} is set: keep one of them")


def is_address(text: str) -> bool:
    """Say whether a text has the form HOST:PORT."""
    host, _, port = text.rpartition(":")
    return bool(host.strip()) and port.isascii() and port.isdigit() and 0 < int(port) < 2**16
