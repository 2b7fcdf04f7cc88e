"""Every setting of a run: its default, its range, and the rules between settings.

A field's docstring is its help text on the command line; its type holds its range. An object of these classes that breaks a
range or a rule cannot be made. The task is open to other packages: `tasks.check_task` checks its name.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from jaxbert.config.data import COLUMN_KEYS as COLUMN_KEYS
from jaxbert.config.data import FILE_KEYS as FILE_KEYS
from jaxbert.config.data import DataConfig as DataConfig
from jaxbert.config.data import MaxLength as MaxLength
from jaxbert.config.smaller import Augmenting as Augmenting
from jaxbert.config.smaller import Distilling as Distilling
from jaxbert.config.smaller import Pruning as Pruning
from jaxbert.config.smaller import SelfTraining as SelfTraining
from jaxbert.errors import UserError
from jaxbert.ranges import (
    NotNegative,
    NotNegativeNumber,
    Positive,
    PositiveNumber,
    Range,
    Share,
    ThresholdRule,
    check_fields,
    insist_on,
    listed_choices,
)

ClassWeights = str | list[float]
OptimizerName = Literal["adamw", "lamb", "lion", "adafactor", "sgd", "muon"]
Devices = Annotated[int, Range(least=1, also=(-1, "for all that remain"))]
ComputeFormat = Literal["auto", "float32", "bfloat16"]
FOLD_TASKS = ("classification", "multi_label", "regression", "multiple_choice")
"""The tasks that can be trained in folds (`train.folds`)."""
AUGMENT_TASKS = ("classification", "multi_label", "regression")
"""The tasks whose texts can be changed in training (`train.augment`)."""
TUNING_KEYS = ("calibration", "threshold", "positive_label", "thresholds")
"""The keys of the section `train` about what is chosen on held-out examples after training."""
COMPUTE_FORMATS: tuple[str, ...] = typing.get_args(ComputeFormat)

OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "lamb": {"b1": 0.9, "b2": 0.999, "eps": 1e-6},
    "lion": {"b1": 0.9, "b2": 0.99},
    "adafactor": {"eps": 1e-30, "parameter_scale": False},
    "sgd": {"momentum": 0.9, "nesterov": False},
    "muon": {"momentum": 0.95, "nesterov": True, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
}
"""The settings that only some optimizers have: for each optimizer, its own and their defaults."""


@dataclass(frozen=True)
class ModelConfig:
    """The model, and how it is computed."""

    name_or_path: str = "bert-base-uncased"
    """The model that training starts from: a local folder, a name on the Hugging Face Hub, or the size of a new model
    (tiny, mini, small, base, large)."""
    layers: int | list[int] | None = None
    """Layers of a trained model to start from: their number (evenly spaced, with the first and the last one), or a list of
    places from 0. If not set, all."""
    num_labels: Annotated[int, Range(least=1, most=2**17)] | None = None
    """Number of labels. If not set, the labels of the training data are counted."""
    head: Literal["auto", "new"] = "auto"
    """Whether the head of a trained model is kept. auto: kept if it has the same number of labels with the same names; new:
    always replaced by a new head."""
    vocab: str | None = None
    """Vocabulary file of a new model, one token per line."""
    lower_case: bool | None = None
    """Whether to change texts to lower case. If not set, the model's folder decides; for a vocabulary file alone, texts are
    lower-cased if its words have no capitals."""
    dropout: Share | None = None
    """Dropout rate of hidden states and attention weights. If not set, the rates of the checkpoint."""
    attention_dropout: Share | None = None
    """Dropout rate of the attention weights alone. If not set, the same as `dropout`. Attention by splash or cudnn needs
    0."""
    scan_layers: bool | None = None
    """Whether to run the layers as one compiled loop (a small program) instead of unrolled. If not set, the faster one on
    this device, as `jaxbert bench --tune` measured it, or else the usual one."""
    attention: Literal["auto", "xla", "cudnn", "pallas", "mosaic", "splash"] = "auto"
    """How attention is computed: xla works everywhere, cudnn and pallas need an NVIDIA GPU, mosaic and splash a TPU; auto
    chooses by device and row length. If the device or another setting does not allow the choice, xla is used and a line says
    so."""
    pooling: Literal["mean", "max", "first"] = "mean"
    """How the outputs of a text's windows become one output (with `data.long_texts: windows`): their mean, their maximum, or
    the first window only."""
    remat: Literal["none", "dots", "full"] = "none"
    """How much of each layer is computed again in the backward pass to save memory: nothing (none), everything except the
    products with weights (dots), or everything (full)."""

    def __post_init__(self) -> None:
        check_fields(self, "model.{}".format)
        if self.layers is not None:
            listed = [self.layers] if isinstance(self.layers, int) else [layer + 1 for layer in self.layers]
            rising = all(type(layer) is int and layer >= 1 for layer in listed) and listed == sorted(set(listed))
            expected = "a number of layers, at least 1, or a rising list of their numbers from 0"
            insist_on(rising and bool(listed), "model.layers", self.layers, expected)


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining (`jaxbert pretrain`): how raw text becomes examples."""

    mask: Literal["token", "word"] = "token"
    """What is masked: single tokens (token), or all tokens of a word together (word)."""
    masking_probability: Annotated[float, Range(above=0, below=1)] = 0.15
    """Fraction of the tokens that the model must predict."""
    next_sentence: bool = True
    """Whether the model also predicts if the second half of an example follows the first, or comes from another document."""
    documents: Literal["blank", "heading", "line", "file"] = "blank"
    """What ends a document in a text file: a blank line (blank), a heading such as `= Title =` or `# Title` (heading), every
    line end (line), or the end of the file (file). In a table, each row is a document."""
    sentences: Literal["split", "line"] = "split"
    """Whether lines are split into sentences (split), or each line is one sentence (line)."""
    segmented: bool = False
    """Whether spaces in the text separate Chinese words, for `mask: word`. If false, each Chinese character is a word."""
    vocab_size: Annotated[int, Range(least=100, also=(0, "for none"))] | None = None
    """Number of tokens of a WordPiece vocabulary that is first trained on `data.train`, for a new model; it is kept in the
    run folder. If not set, none is trained."""

    def __post_init__(self) -> None:
        check_fields(self, "pretrain.{}".format)
        if self.segmented and self.mask != "word":
            raise UserError("pretrain.segmented says where words end, but pretrain.mask is token: set it to word")


@dataclass(frozen=True)
class TrainConfig:
    """The training run: length, seed, evaluation and checkpoints."""

    output_dir: str = "runs/classifier"
    """Folder for checkpoints, metrics and the exported model, also in a bucket (gs://..., s3://...). Run the same command
    again to resume."""
    batch_size: Positive = 32
    """Number of examples per optimizer step, packed or not."""
    eval_batch_size: Positive = 256
    """Number of examples per evaluation step; fewer if they are long."""
    accumulation_steps: Positive = 1
    """Number of parts into which the rows of a step are split; the parts run one after another, to save memory."""
    steps_per_dispatch: Positive | None = None
    """Number of steps of one batch shape that are sent to the device at once, which helps if steps are short. The results
    are the same; a signal waits for all of them. If not set, the number that `jaxbert bench --tune` found, or else 1."""
    epochs: NotNegative = 3
    """Number of passes over the training examples. 0 is possible only with `method` contrastive or prompt: then the model is
    not trained."""
    max_steps: Positive | None = None
    """Number of optimizer steps after which training stops; replaces `epochs`."""
    seed: NotNegative = 0
    """Random seed of the order, new weights, dropout and the validation split."""
    log_every: Positive = 20
    """Number of steps between two lines of metrics; the last step has a line too."""
    eval_every: Positive | None = None
    """Number of steps between two evaluations on the validation set. If not set, once after each epoch."""
    checkpoint_every: Positive | None = None
    """Number of steps between two checkpoints. If not set, one after each epoch."""
    keep_checkpoints: Positive = 2
    """Number of latest checkpoints to keep; the best one is kept too."""
    best_metric: str | None = None
    """Validation metric that chooses the best checkpoint: the smallest value of loss, perplexity, mse, mae, brier and
    errors, the largest of any other. If not set, the main metric of the task (accuracy for classification)."""
    keep_best: bool = True
    """Whether to export the best checkpoint instead of the last one, if there is a validation set."""
    max_bad_steps: Positive = 10
    """Number of consecutive steps with a loss or gradient that is not finite, after which training stops. Such a step
    changes no weights."""
    early_stopping_patience: Positive | None = None
    """Number of consecutive evaluations without a better `best_metric`, after which training stops. If not set, it does not
    stop early."""
    method: Literal["plain", "contrastive", "prompt"] = "plain"
    """How a classification is learned. plain: a classifier on top of the model. For few labelled texts: contrastive, from
    pairs of texts; prompt, by words that the model puts into a template (`prompt`). docs/few-labels.md"""
    prompt: dict[str, Any] | None = None
    """For `method: prompt`: a template with [MASK] in the place of the answer, and the words of each label: {template:
    "{text} It was [MASK].", verbalizers: {good: [great], bad: [terrible]}}."""
    label_smoothing: Share = 0.0
    """Fraction of the target probability that is spread over all labels."""
    class_weights: ClassWeights = "none"
    """Weight of each label in the loss: none, balanced (higher for rare labels), or a list of numbers in label order."""
    focal_gamma: NotNegativeNumber = 0.0
    """Focal loss of classification and multi_label: the loss of a label with probability p is multiplied by (1 - p)**gamma,
    so that hard examples count more. 0: the plain loss. docs/harder.md"""
    r_drop: NotNegativeNumber = 0.0
    """R-Drop: weight of the divergence between the answers with two dropout masks; each example is computed twice. 0: no
    R-Drop. docs/harder.md"""
    adversarial: Literal["none", "fgm"] = "none"
    """Adversarial training. fgm: each step also learns from word embeddings that are moved in the direction in which the
    loss grows; a step takes two passes. docs/harder.md"""
    adversarial_epsilon: PositiveNumber = 0.1
    """How far `adversarial` moves the word embeddings: the length of the change of a text, over all its tokens."""
    ema: Share = 0.0
    """Decay of a moving average of the parameters, such as 0.999. Evaluations, the best checkpoint and the export use the
    average. 0: no average. docs/harder.md"""
    folds: Annotated[int, Range(least=2)] | None = None
    """Number K of parts into which the training rows are divided: K models are trained, each on K - 1 parts, and each
    predicts the part that it did not see (cross-validation). If not set, there are no folds."""
    folds_final: bool = True
    """Folds: whether a last model is trained on all rows and exported. If false, the run is an ensemble: one model whose
    probabilities are the mean of those of the folds."""
    calibration: Literal["none", "temperature"] = "none"
    """Whether the probabilities of the trained model are calibrated. temperature: the logits are divided by the number that
    gives the smallest loss on held-out rows (in a run: the validation set); the exported weights contain it."""
    threshold: str | None = None
    """Two labels: how the threshold of the positive label is chosen on the held-out rows: f_beta=1 (largest F-beta),
    precision=0.9 or recall=0.95 (at least this value, and the largest recall or precision), cost=1:5 (costs of a false
    positive and of a false negative). If not set, the more probable label is the answer."""
    positive_label: str | None = None
    """The label that `threshold` is for. It may be left out if the names are a known pair: 0 and 1, no and yes, ..."""
    thresholds: Literal["one", "per_label"] = "one"
    """multi_label: the thresholds that are chosen on the held-out rows: one for all labels (largest micro F1), or one for
    each (per_label: the largest F1 of the label)."""
    teacher: str | None = None
    """Model whose answers the trained model also learns (distillation): a run folder, an exported folder or a name on the
    Hub, of the same task, labels and tokenizer. docs/smaller.md"""
    distill: dict[str, float] | None = None
    """How much is learned from `teacher`: {temperature: 2, weight: 0.5, hidden: 0}. `weight` is the teacher's share of the
    loss, `hidden` the weight of the first token's vectors after each layer."""
    prune: dict[str, int | float | list[int]] | None = None
    """How much of the model is left after pruning: {layers: 4, heads: 6, intermediate: 0.5}, numbers or shares below 1. The
    least important ones are removed before the first step or, with {steps: [100, 200]}, in parts before these steps.
    docs/smaller.md"""
    augment: dict[str, float | str] | None = None
    """Changes of the training texts, new in each epoch: {word_dropout: 0.1, swap: 0.1, punctuation: 0.3, share: 0.5}, or
    {refill: 0.1, refill_model: MODEL}, words that a model fills in. docs/augmentation.md"""
    self_training: dict[str, int | float] | None = None
    """How data.unlabelled is learned without a teacher: {rounds: 1, threshold: 0.9}. The model labels the texts for which
    its probability is at least the threshold, and a new model is trained on all. docs/self-training.md"""
    accept_changed_data: bool = False
    """Whether a run may resume although its data have changed, if the label names are the same; the changes are printed. If
    false, such a run is refused."""

    def __post_init__(self) -> None:
        check_fields(self, "train.{}".format)
        if self.threshold is not None:
            ThresholdRule.parse(self.threshold, "train.threshold")
        if self.distill is not None:
            Distilling.of(self.distill)
            if self.teacher is None:
                raise UserError("train.distill is set, but train.teacher is not: name a teacher, or leave it out")
        if self.prune is not None:
            Pruning.of(self.prune)
        if self.augment is not None:
            Augmenting.of(self.augment)
        if (self.method == "prompt") != (self.prompt is not None):
            missing = "train.prompt is not" if self.prompt is None else "train.method is not prompt"
            raise UserError(
                f"train.{'method is prompt' if self.prompt is None else 'prompt is set'}, but {missing}: set both"
            )
        if self.prompt is not None:
            from jaxbert.config.few_labels import Prompt

            Prompt.of(self.prompt)
        if self.self_training is not None:
            SelfTraining.of(self.self_training)
        if self.adversarial == "none" and self.adversarial_epsilon != TrainConfig.adversarial_epsilon:
            raise UserError(
                "train.adversarial_epsilon is set, but train.adversarial is not: set it to fgm, or leave it out"
            )
        weights = self.class_weights
        if isinstance(weights, list):
            numeric = all(isinstance(w, numbers.Real) and w >= 0 and math.isfinite(w) for w in weights)
            given = numeric and sum(weights) > 0
        else:
            given = weights in ("none", "balanced")
        insist_on(
            given, "train.class_weights", weights, "none, balanced or a list of finite weights, at least 0, not all 0"
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: OptimizerName = "adamw"
    """Optimizer. docs/optimizer.md says what each one is good for, and how much memory it needs."""
    learning_rate: PositiveNumber = 5e-5
    """Highest learning rate, reached after the warmup."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warmup: to 0 along a line (linear) or a cosine (cosine), or not at all
    (constant)."""
    warmup_ratio: Share = 0.1
    """Fraction of all steps in which the learning rate rises from 0."""
    weight_decay: NotNegativeNumber = 0.01
    """Decoupled weight decay; not used for biases and LayerNorm."""
    clip_norm: PositiveNumber | None = 1.0
    """Global norm to which larger gradients are scaled down; null: no clipping."""
    layer_decay: Annotated[float, Range(above=0, most=1)] | None = None
    """Factor D of the learning rate from each layer to the layer below: 1 for the head, D for the last layer, D**(N+1) for
    the embeddings of a model with N layers. If not set, all layers have the same rate."""
    freeze: list[str] | None = None
    """Regular expressions. A parameter is not trained if one of them matches anywhere in its name; each layer has names of
    its own, such as bert/encoder/layer/3/output/dense/kernel."""
    train_only: Literal["head"] | None = None
    """head: train only the pooler and the layers after it, not the embeddings and the encoder (a linear probe)."""
    b1: Share | None = None
    """adamw, lamb, lion, muon: decay of the first moment. If not set, 0.9."""
    b2: Share | None = None
    """adamw, lamb, muon: decay of the second moment; if not set, 0.999. lion: decay of its one moment; if not set, 0.99."""
    eps: PositiveNumber | None = None
    """adamw, lamb, muon: number added to the denominator; if not set, 1e-8 (lamb 1e-6). adafactor: number added to the
    squared gradient; if not set, 1e-30."""
    momentum: Share | None = None
    """sgd: decay of the sum of gradients; if not set, 0.9; 0: no momentum. muon: decay of the moment of the layers' kernels;
    if not set, 0.95."""
    nesterov: bool | None = None
    """sgd, muon: whether to use Nesterov momentum. If not set, false for sgd and true for muon."""
    parameter_scale: bool | None = None
    """adafactor: whether the learning rate is multiplied by the root mean square of each tensor (at least 1e-3), as in the
    paper. If not set, false: the rate is absolute, as with the other optimizers."""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer.{}".format)
        for key in sorted({key for settings in OPTIMIZERS.values() for key in settings}):
            value, having = getattr(self, key), [name for name, settings in OPTIMIZERS.items() if key in settings]
            if value is not None and self.name not in having:
                raise UserError(
                    f"optimizer.{key} is {value!r}, but optimizer.name is {self.name}, which has no such setting "
                    f"({', '.join(having)} {'have' if len(having) > 1 else 'has'} it): leave it out"
                )
        for pattern in self.freeze or ():
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError, TypeError) as error:
                raise UserError(f"optimizer.freeze: {pattern!r} is not a regular expression ({error})") from error

    @property
    def own(self) -> dict[str, Any]:
        """Return the settings that not every optimizer has and this one has, with its defaults."""
        given = {key: getattr(self, key) for key in OPTIMIZERS[self.name]}
        return OPTIMIZERS[self.name] | {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class PrecisionConfig:
    """Number formats."""

    compute: str = "auto"
    """Number format of the matrix products: float32, bfloat16, or auto (bfloat16 on GPU and TPU, float32 on CPU). Parameters
    are always float32."""
    fp8: bool = False
    """EXPERIMENTAL, UNMEASURED, needs an H100 or H200: whether to multiply with the layers' weights in float8 (e4m3,
    gradients e5m2) while training."""

    def __post_init__(self) -> None:
        check_fields(self, "precision.{}".format)
        if self.compute in ("float16", "fp16", "half"):
            raise UserError(
                f"precision.compute is {self.compute!r}, in which small gradients vanish without loss scaling, "
                "and jaxbert has none: take bfloat16, which has the range of float32"
            )
        insist_on(self.compute in COMPUTE_FORMATS, "precision.compute", self.compute, listed_choices(COMPUTE_FORMATS))


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged. One of the three numbers may be -1, for all devices that remain."""

    data: Devices = -1
    """Number of devices that share the rows of a batch."""
    fsdp: Devices = 1
    """Number of devices that share rows, parameters and optimizer state."""
    tensor: Devices = 1
    """Number of devices that share attention heads and feed-forward columns."""

    def __post_init__(self) -> None:
        check_fields(self, "mesh.{}".format)
        rest = [f"mesh.{name}" for name, size in dataclasses.asdict(self).items() if size == -1]
        if len(rest) > 1:
            raise UserError(f"{' and '.join(rest)} are all -1, but only one of them may be: give the others a number")


@dataclass(frozen=True)
class ReportConfig:
    """The page `report.html` about a finished run. It does not change the run."""

    at_end: bool = True
    """Whether to write the page at the end of a run. `jaxbert report RUN` writes it at any time."""
    slices: list[str] | None = None
    """Columns of the validation and test data by whose values the scores are shown, such as source or language."""

    def __post_init__(self) -> None:
        check_fields(self, "report.{}".format)
        insist_on(
            len(set(self.slices or ())) == len(self.slices or ()), "report.slices", self.slices, "different columns"
        )


@dataclass(frozen=True)
class LaunchConfig:
    """How the processes of a run on several machines find each other. It does not change the results."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """Whether this process is one of several. auto: as a TPU VM, Slurm, Open MPI, JobSet or the JAX_ variables say; on: the
    same, but an error if none of them says so; off: this process runs alone."""
    coordinator: str | None = None
    """HOST:PORT on which process 0 listens. If not set, as the cluster says."""
    num_processes: Positive | None = None
    """Number of processes of the run. If not set, as the cluster says."""
    process_id: NotNegative | None = None
    """Number of this process, from 0; needs num_processes."""
    timeout_seconds: Positive = 300
    """Seconds to wait for all processes at the start."""
    heartbeat_seconds: Positive = 100
    """Seconds of silence after which a process counts as dead and the others end."""

    def __post_init__(self) -> None:
        check_fields(self, "launch.{}".format)
        number, process = self.num_processes, self.process_id
        if (number is None) != (process is None):
            given, missing = ("process_id", "num_processes") if number is None else ("num_processes", "process_id")
            raise UserError(f"launch.{given} is set, but launch.{missing} is not: set both, or neither")
        if number is not None and process is not None and process >= number:
            raise UserError(
                f"launch.process_id is {process}, but it must be below launch.num_processes, which is {number}"
            )
        if self.coordinator is not None:
            insist_on(is_address(self.coordinator), "launch.coordinator", self.coordinator, "HOST:PORT")
        for name in ("coordinator", "num_processes"):
            if self.distributed == "off" and getattr(self, name) is not None:
                raise UserError(f"launch.distributed is off, but launch.{name} is set: keep one of them")


def is_address(text: str) -> bool:
    """Return whether a text has the form HOST:PORT."""
    host, _, port = text.rpartition(":")
    return bool(host.strip()) and port.isascii() and port.isdigit() and 0 < int(port) < 2**16


@dataclass(frozen=True)
class Config:
    """A whole run."""

    task: str = "classification"
    """The task to learn: classification (one label per text), multi_label (any number of labels per text), regression (a
    number per text), token_classification (a tag per word), question_answering (the place of the answer in a context),
    multiple_choice (the right one of several choices), pretraining (the language itself), or a task of another package as
    package.module:Class."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)
        _check_labels(self)
        self._check_windows()
        self._check_folds()
        if self.train.self_training is not None:
            self._check_self_training()
        self._check_smaller()
        self._check_augment()
        if self.train.method != "plain":
            from jaxbert.config.few_labels import check_method

            check_method(self)
        elif self.train.epochs == 0 and self.train.max_steps is None:
            raise UserError(
                "train.epochs is 0, which only train.method contrastive and prompt allow: set it to 1 or more"
            )
        if self.pretrain.vocab_size and self.model.vocab:
            raise UserError("pretrain.vocab_size and model.vocab are both set: train a vocabulary, or give one")

    def _check_folds(self) -> None:
        group, train = self.data.group, self.train
        if train.folds is None:
            if group is not None or not train.folds_final:
                key = "train.folds_final is false" if group is None else "data.group is set"
                raise UserError(f"{key}, which is for folds: set train.folds, or leave it out")
            return
        if self.task not in FOLD_TASKS and ":" not in self.task:
            raise UserError(
                f"train.folds does not work with task {self.task}, only with {', '.join(FOLD_TASKS)}: leave it out"
            )
        if group is not None and self.data.validation_fraction:
            raise UserError(
                "data.group and data.validation_fraction are both set, but groups are kept together only in folds: give "
                "data.validation, or no validation set"
            )
        if train.accept_changed_data:
            raise UserError(
                "train.accept_changed_data does not work with train.folds, because changed data have other folds: "
                "leave one of them out"
            )

    def _check_smaller(self) -> None:
        train = self.train
        if self.data.unlabelled is not None and train.teacher is None and train.self_training is None:
            raise UserError(
                "data.unlabelled is set, but only a teacher can answer for rows without a label: set train.teacher, or "
                "train.self_training"
            )
        if train.folds is not None:
            for key, value in (("data.unlabelled", self.data.unlabelled), ("train.prune", train.prune)):
                if value is not None:
                    raise UserError(f"{key} does not work with train.folds: leave one of them out")
        frozen = self.optimizer.freeze is not None or self.optimizer.train_only is not None
        if train.prune is not None and frozen:
            raise UserError(
                "train.prune does not work with optimizer.freeze and optimizer.train_only: prune first, and train the result"
            )
        if train.prune is not None and Pruning.of(train.prune).steps[-1] and self.optimizer.name == "adafactor":
            raise UserError(
                "train.prune: steps after the first do not work with optimizer.name adafactor, whose statistics cannot be "
                "cut: take steps [0], or another optimizer"
            )

    def _check_augment(self) -> None:
        if self.train.augment is None:
            return
        if self.task not in AUGMENT_TASKS and ":" not in self.task:
            raise UserError(
                f"train.augment does not work with task {self.task}, only with {', '.join(AUGMENT_TASKS)}: leave it out"
            )
        if self.train.teacher is not None:
            raise UserError(
                "train.augment does not work with train.teacher, which answers once for the texts as they are: leave one out"
            )

    def _check_self_training(self) -> None:
        data, train = self.data, self.train
        if self.task != "classification":
            raise UserError(f"train.self_training works with task classification, not with {self.task}: leave it out")
        if data.unlabelled is None:
            raise UserError("train.self_training is set, but data.unlabelled is not: name texts without labels")
        if not (data.validation or data.validation_fraction):
            raise UserError(
                "train.self_training needs a validation set, on which the confidence is calibrated: give data.validation or "
                "data.validation_fraction"
            )
        for key in ("teacher", "folds", "prune", "augment", "accept_changed_data"):
            if getattr(train, key) not in (None, False):
                raise UserError(f"train.{key} does not work with train.self_training: leave one of them out")

    def _check_windows(self) -> None:
        data = self.data
        if data.long_texts == "cut" or self.task not in ("classification", "multi_label", "regression"):
            return
        if data.text_pair is not None:
            raise UserError(
                f"data.long_texts is {data.long_texts}, which does not work with pairs (data.text_pair): leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for YAML: the task, and a dictionary for each section."""
        return dataclasses.asdict(self)


def _check_labels(config: Config) -> None:
    data, task = config.data, config.task
    if config.model.num_labels == 1 and task != "regression":
        raise UserError("model.num_labels is 1, but it must be at least 2; only task: regression has 1")
    if isinstance(data.label, list):
        distinct = len(set(data.label)) == len(data.label) > 1
        insist_on(distinct, "data.label", data.label, "one column, or several different ones")
        if task != "multi_label":
            raise UserError(
                f"data.label names {len(data.label)} columns, which only task: multi_label allows: name one"
            )
        if data.label_format not in ("auto", "multi_hot"):
            raise UserError(
                f"data.label_format is {data.label_format}, but several columns of data.label are multi_hot"
            )
    if data.label_format == "multi_hot" and task != "multi_label":
        raise UserError("data.label_format is multi_hot, which only task: multi_label allows: leave it out")
    if task == "regression" and (data.label_format != "auto" or data.label_map):
        raise UserError("task regression learns numbers, not labels: remove data.label_format and data.label_map")
    if task == "pretraining" and config.model.head != "auto":
        raise UserError("model.head is for tasks with labels, and pretraining has none: leave it out")
