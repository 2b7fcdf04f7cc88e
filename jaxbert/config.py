"""Every setting of a run and its default, and the checks that need no data and no device.

A field's docstring is its help text on the command line. Checks that need the model or the data (label names, positions
of the model, columns) live where those are read.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxbert.errors import UserError

ClassWeights = str | list[float]
COMPUTE_FORMATS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained and from where it starts."""

    name_or_path: str = "bert-base-uncased"
    """A local folder, a Hub name, or a size for a new model: tiny, mini, small, base, large."""
    num_labels: int | None = None
    """How many labels; left out, they are counted in the training data."""
    vocab: str | None = None
    """The vocabulary file of a new model, one token a line."""
    lower_case: bool = True
    """Whether a new model's tokenizer lower-cases and strips accents."""
    dropout: float | None = None
    """Dropout rate of hidden states and attention; left out, the checkpoint's own."""
    attention_dropout: float | None = None
    """Dropout rate of the attention weights alone; left out, as `dropout`. At 0, splash and cudnn can be used."""
    scan_layers: bool | None = None
    """Run the layers by one compiled loop (small program) or unrolled; left out, the faster on this device."""
    attention: Literal["auto", "xla", "cudnn", "pallas", "splash"] = "auto"
    """How attention is computed: xla anywhere, cudnn and pallas on NVIDIA GPUs, splash on TPUs; auto: by device and row
    length. What the device or the other settings do not allow is computed by xla, and a line says so."""
    remat: Literal["none", "dots", "full"] = "none"
    """Save memory by computing parts of each layer again in the backward pass: all but the products with weights (dots),
    or all (full)."""


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they become rows of tokens."""

    train: str | None = None
    """Training examples: a file (csv, tsv, jsonl, parquet), hf:ORG/NAME[/CONFIG][:SPLIT] or tfds:NAME[:SPLIT]."""
    validation: str | None = None
    """Examples that are evaluated during training, named like `train`."""
    test: str | None = None
    """Examples that are evaluated once, after training."""
    validation_fraction: float = 0.0
    """With no validation set: the share of the training rows that is split off, stratified by label."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text of a pair."""
    label: str = "label"
    """Column of the label: names or integers."""
    columns: list[str] | None = None
    """Column names of a file that has no header line."""
    quoting: Literal["csv", "none"] = "csv"
    """How fields are quoted in csv and tsv: `csv` for double quotes, `none` for raw fields."""
    label_names: list[str] | None = None
    """Names of integer labels, in order from 0."""
    max_length: int | None = None
    """Longest example in tokens, special tokens included; left out, the model's own limit."""
    limit: int | None = None
    """Take the first N training rows only."""
    packing: bool = True
    """Let several examples share a row."""
    row_length: int | None = None
    """Tokens of a row; left out, chosen from the lengths of the examples."""
    cache_dir: str | None = "auto"
    """Folder that keeps tokens for the next start; auto: $XDG_CACHE_HOME/jaxbert/tokens; null: none are kept."""


@dataclass(frozen=True)
class TrainConfig:
    """The run: its length, its seed, what is saved and when it is evaluated."""

    output_dir: str = "runs/classifier"
    """Folder of checkpoints, metrics and the export; the same folder goes on where it stopped."""
    batch_size: int = 32
    """Examples of one optimizer step, packed or not."""
    eval_batch_size: int = 256
    """Examples of one evaluation step; fewer are taken where they are long."""
    accumulation_steps: int = 1
    """Split each step's rows in this many slices that run one after another, to save memory."""
    steps_per_dispatch: int = 1
    """Hand the device up to N steps of one batch shape at once, which pays where a step is short; the steps stay the same,
    a signal waits for them."""
    epochs: int = 3
    """Passes over the training examples."""
    max_steps: int | None = None
    """Stop after this many optimizer steps, whatever `epochs` says."""
    seed: int = 0
    """Seed of everything random: order, new weights, dropout, the validation split."""
    log_every: int = 20
    """Write a line of metrics every N steps."""
    eval_every: int | None = None
    """Evaluate on the validation set every N steps; left out, after each epoch."""
    checkpoint_every: int | None = None
    """Save a checkpoint every N steps; left out, after each epoch."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints are kept; the best is kept as well."""
    best_metric: str = "accuracy"
    """The validation metric that chooses the best checkpoint; `loss` is minimized, all others maximized."""
    keep_best: bool = True
    """Export the best checkpoint instead of the last where there is a validation set."""
    max_bad_steps: int = 10
    """Stop after this many steps in a row whose loss or gradient was not finite; each of them changes nothing."""
    early_stopping_patience: int | None = None
    """Stop after this many evaluations in a row without a better `best_metric`."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all labels."""
    class_weights: ClassWeights = "none"
    """Weight of each label in the loss: none, balanced (inverse to its frequency), or a list in label order."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float = 5e-5
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up: to 0 along a line or a cosine, or not at all."""
    warmup_ratio: float = 0.1
    """Share of all steps over which the rate rises from 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay; biases and LayerNorm are left out."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; null switches clipping off."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Term added to the denominator."""


@dataclass(frozen=True)
class PrecisionConfig:
    """Number formats."""

    compute: str = "auto"
    """Format of the matrix products: auto, float32 or bfloat16; parameters stay float32. auto: bfloat16 on GPU and TPU,
    float32 on CPU."""
    fp8: bool = False
    """EXPERIMENTAL, UNMEASURED, for H100 and H200: multiply with the layers' weights in float8 (e4m3, gradients e5m2)
    while training."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; one of the three may be -1 for all that remain."""

    data: int = -1
    """Devices over which rows are spread."""
    fsdp: int = 1
    """Devices over which rows, parameters and optimizer state are spread."""
    tensor: int = 1
    """Devices over which attention heads and feed-forward columns are spread."""


@dataclass(frozen=True)
class LaunchConfig:
    """How the processes of a run on several machines find each other; none of it changes what is computed."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """Whether this process is one of several. auto: what TPU VM, Slurm, Open MPI, JobSet or the JAX_ variables say; on:
    the same, and an error where nothing is said; off: it runs alone."""
    coordinator: str | None = None
    """HOST:PORT where process 0 listens; left out, as the cluster says."""
    num_processes: int | None = None
    """How many processes the run has; left out, as the cluster says."""
    process_id: int | None = None
    """Which of them this one is, from 0; goes with num_processes."""
    timeout_seconds: int = 300
    """How long a start waits for all processes."""
    heartbeat_seconds: int = 100
    """How long a process may be silent before the others take it for dead and end."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return nested plain dictionaries, ready for YAML."""
        return dataclasses.asdict(self)


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
    _check_at_least(config, 0, "train.seed", "optimizer.weight_decay")
    _check_range(config, 2, 2**17 + 1, "model.num_labels")
    _check_at_least(config, 3, "data.max_length")
    _check_range(
        config, 0, 1, "model.dropout", "model.attention_dropout", "data.validation_fraction", "train.label_smoothing"
    )
    _check_range(config, 0, 1, "optimizer.warmup_ratio", "optimizer.b1", "optimizer.b2")
    optimizer, data, train = config.optimizer, config.data, config.train
    _require(optimizer.learning_rate > 0, "optimizer.learning_rate", optimizer.learning_rate, "above 0")
    _require(optimizer.eps > 0, "optimizer.eps", optimizer.eps, "above 0")
    _require(
        optimizer.clip_norm is None or optimizer.clip_norm > 0, "optimizer.clip_norm", optimizer.clip_norm, "above 0"
    )
    if data.row_length and data.max_length and data.max_length > data.row_length:
        raise UserError(
            f"data.max_length ({data.max_length}) is above data.row_length ({data.row_length}): "
            "lower the first or raise the second"
        )
    if data.validation and data.validation_fraction:
        raise UserError("data.validation and data.validation_fraction are both set: keep one of them")
    _check_finite(config)
    _check_compute(config.precision.compute)
    _check_class_weights(train.class_weights)
    _check_mesh(config.mesh)
    check_launch(config.launch)


def _check_finite(config: Config) -> None:
    for section, values in config.to_dict().items():
        for name, value in values.items():
            numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)]
            _require(all(map(math.isfinite, numbers)), f"{section}.{name}", value, "finite")


def _check_compute(compute: str) -> None:
    if compute in ("float16", "fp16", "half"):
        raise UserError(
            f"precision.compute is {compute!r}, whose small gradients vanish without loss scaling, and there is none here: "
            "take bfloat16, which has the range of float32"
        )
    _require(compute in COMPUTE_FORMATS, "precision.compute", compute, f"one of {', '.join(COMPUTE_FORMATS)}")


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
