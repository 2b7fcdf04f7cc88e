"""Every setting of a run and its default.

A field's docstring is its help text on the command line. Ranges and contradictions are `checks`' part.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

ClassWeights = str | list[float]
OptimizerName = Literal["adamw", "lamb", "lion", "adafactor", "sgd", "muon"]

OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "lamb": {"b1": 0.9, "b2": 0.999, "eps": 1e-6},
    "lion": {"b1": 0.9, "b2": 0.99},
    "adafactor": {"eps": 1e-30, "parameter_scale": False},
    "sgd": {"momentum": 0.9, "nesterov": False},
    "muon": {"momentum": 0.95, "nesterov": True, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
}
"""The settings that not every optimizer has: those of each, and their defaults there."""


@dataclass(frozen=True)
class ModelConfig:
    """What is trained and from where it starts."""

    name_or_path: str = "bert-base-uncased"
    """A local folder, a Hub name, or a size for a new model: tiny, mini, small, base, large."""
    num_labels: int | None = None
    """How many labels; left out, they are counted in the training data."""
    head: Literal["auto", "new"] = "auto"
    """Whether a trained head goes on: auto keeps one for as many labels of the same names, new always draws a fresh one."""
    vocab: str | None = None
    """The vocabulary file of a new model, one token a line."""
    lower_case: bool | None = None
    """Whether texts are lower-cased; left out, as the model's folder says, and a vocabulary alone by whether its words have
    capitals."""
    dropout: float | None = None
    """Dropout rate of hidden states and attention; left out, the checkpoint's own."""
    attention_dropout: float | None = None
    """Dropout rate of the attention weights alone; left out, as `dropout`. At 0, splash and cudnn can be used."""
    scan_layers: bool | None = None
    """Run the layers by one compiled loop (small program) or unrolled; left out, the faster on this device."""
    attention: Literal["auto", "xla", "cudnn", "pallas", "splash"] = "auto"
    """How attention is computed: xla anywhere, cudnn and pallas on NVIDIA GPUs, splash on TPUs; auto: by device and row
    length. What the device or the other settings do not allow is computed by xla, and a line says so."""
    pooling: Literal["mean", "max", "first"] = "mean"
    """With data.long_texts: windows, how the outputs of a text's windows become one: their mean, the largest of each, or
    those of the first."""
    remat: Literal["none", "dots", "full"] = "none"
    """Save memory by computing parts of each layer again in the backward pass: all but the products with weights (dots),
    or all (full)."""


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they become rows of tokens."""

    train: str | None = None
    """Training examples: a file (csv, tsv, jsonl, json, parquet, also compressed), a folder or a pattern of such files, a
    folder of datasets.save_to_disk, hf:ORG/NAME[/CONFIG][:SPLIT] or tfds:NAME[:SPLIT]."""
    validation: str | dict[str, str] | None = None
    """Examples that are evaluated during training, named like `train`; or several sets by name, {en: FILE, zh: FILE}, whose
    metrics are shown one by one and in the mean."""
    test: str | dict[str, str] | None = None
    """Examples that are evaluated once, after training; or several sets by name."""
    validation_fraction: float = 0.0
    """With no validation set: the share of the training rows that is split off, stratified by label; whole contexts
    with their questions for question answering."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text of a pair."""
    label: str | list[str] = "label"
    """Column of the label: names or integers; lists of them for multi_label, or several columns of 0 and 1, [NAME, ...]; a
    score for regression."""
    label_separator: str = ","
    """What stands between the labels of a text, where a column holds several in one field."""
    label_format: Literal["auto", "names", "indices", "multi_hot"] = "auto"
    """What numbers in the label column are: names as they are written, indices of the labels from 0, or in lists 0 or 1 for
    each label (multi_hot). auto: the whole column decides, and what has two readings is refused."""
    label_map: str | dict[str, str | int] | None = None
    """Other names for labels, before they are compared with any: {pos: positive}, or a YAML or JSON file of such pairs."""
    tokens: str = "tokens"
    """Token classification: column of a text's words, a list. In files with a token a line, its number from 1 or, where the
    file names its columns, its name; left out, the first that holds words."""
    tag_column: str | None = None
    """Token classification: column of the words' tags; left out, `tags` or `ner_tags`. In files with a token a line, its
    number from 1 or its name; left out, UPOS of CoNLL-U, and the last column of others."""
    tag_scheme: Literal["auto", "BIO", "BIOES", "BMES", "BILOU", "plain"] = "auto"
    """Token classification: whether tags mark entities, and by which letters, or are plain: each word's tag counts by
    itself. auto: what fits all tags of the training texts."""
    comment_lines: Literal["auto", "skip", "tokens"] = "auto"
    """Token classification, files with a token a line: what lines are that begin with #: comments (skip), tokens, or
    what their columns and tags make them in the file as a whole (auto)."""
    spans: str = "entities"
    """Token classification: column of the spans marked in `text`, a list of {start, end, label}."""
    question: str = "question"
    """Question answering and multiple choice: column of the question."""
    context: str = "context"
    """Question answering: column of the text that answers it. Multiple choice: column of what the question is about; it may
    not be there."""
    choices: str | list[str] = "choices"
    """Multiple choice: column of the choices, a list; or several columns of one choice each, [NAME, ...], of which the
    last may be empty. data.label says which is right: its number, its letter or its text."""
    answers: str = "answers"
    """Question answering: column of the answers, {text: [...], answer_start: [...]}; empty where the text has none."""
    no_answer_threshold: float = 0.0
    """Question answering: how much larger the log-score of no answer must be than that of the best answer, to be given;
    counts where questions of the training set have no answer."""
    columns: list[str] | None = None
    """Column names of a file that has no header line."""
    separator: str | None = None
    """What stands between the fields of a row in csv, tsv and txt, whatever the extension says: one character, or `tab`;
    left out, as the header or the first rows show."""
    quoting: Literal["csv", "none"] = "csv"
    """How fields are quoted in csv and tsv: `csv` for quotes around those that need them, `none` for raw fields."""
    quote: str | None = None
    """The quote of `quoting: csv`, one character; left out, the double quote."""
    encoding: str | None = None
    """Encoding of text files, as Python names it: gbk, gb18030, cp1252, shift_jis, utf-16; left out, UTF-8, or what the
    byte-order mark says."""
    bad_rows: Literal["error", "skip"] = "error"
    """What becomes of malformed or empty rows: the first one ends the program (error), or all are left out and counted
    (skip)."""
    label_names: list[str] | None = None
    """Names of integer labels, in order from 0; for token classification the tags, where some of them are in no training
    text or a column holds their numbers."""
    max_length: int | None = None
    """Longest example in tokens, special tokens included; left out, the model's own limit."""
    long_texts: Literal["cut", "head_tail", "windows"] = "cut"
    """What becomes of a longer text: its end is cut off (cut), or its middle (head_tail), or it is read in windows whose
    outputs `model.pooling` makes one (windows)."""
    window_stride: int | None = None
    """Tokens that neighbouring windows of a text longer than `max_length` share, in tasks that read long texts in windows;
    left out, a quarter of `max_length`, 128 at most."""
    limit: int | None = None
    """Take the first N training rows only."""
    packing: bool = True
    """Let several examples share a row."""
    row_length: int | None = None
    """Tokens of a row; left out, chosen from the lengths of the examples."""
    cache_dir: str | None = "auto"
    """Folder that keeps tokens for the next start; auto: $XDG_CACHE_HOME/jaxbert/tokens; null: none are kept."""


COLUMN_KEYS = (
    *("text", "text_pair", "label", "label_separator", "label_format", "label_map"),
    *("tokens", "tag_column", "comment_lines", "spans", "question", "context", "choices", "answers"),
)
"""Keys of the section `data` that say which columns are read, and what labels in them are."""
FILE_KEYS = ("columns", "separator", "quoting", "quote", "encoding", "bad_rows")
"""Keys of the section `data` that say how files are read."""


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining (`jaxbert pretrain`): how raw text becomes examples, and what is predicted."""

    mask: Literal["token", "word"] = "token"
    """Mask single tokens, or all tokens of a word together."""
    masking_probability: float = 0.15
    """Share of the tokens that are predicted."""
    next_sentence: bool = True
    """Predict as well whether the second half of an example follows the first or comes from another document."""
    documents: Literal["blank", "heading", "line", "file"] = "blank"
    """What divides the documents of a text file: blank lines, headings (`= Title =` or `# Title`), every line, or only
    the end of the file. A row of a table is a document."""
    sentences: Literal["split", "line"] = "split"
    """Whether lines are split into sentences, or each line is one already."""
    segmented: bool = False
    """With `mask: word`: white space in the text separates Chinese words. Without it, each character is a word."""
    vocab_size: int | None = None
    """Train a WordPiece vocabulary of so many tokens on `data.train` first, for a new model; it is kept in the run
    folder."""


@dataclass(frozen=True)
class TrainConfig:
    """The run: its length, its seed, what is saved and when it is evaluated."""

    output_dir: str = "runs/classifier"
    """Folder of checkpoints, metrics and export, or gs://..., s3://... of a bucket; the same goes on where it stopped."""
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
    best_metric: str | None = None
    """The validation metric that chooses the best checkpoint: the smallest loss, perplexity, mse or mae, the largest of all
    others; left out, the task's own (accuracy for classification)."""
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
    accept_changed_data: bool = False
    """Go on in a run whose data have changed since it began, where the label names are the same; how they changed is said.
    Otherwise such a start is refused."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: OptimizerName = "adamw"
    """How gradients become updates; what each keeps in memory, and when to take it: docs/optimizer.md."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up: to 0 along a line or a cosine, or not at all."""
    warmup_ratio: float = 0.1
    """Share of all steps over which the rate rises from 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay; biases and LayerNorm are left out."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient of what is trained; null switches clipping off."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one below it: 1 for the head, D for the last layer, D**(N+1) for
    the embeddings of N layers; left out, all learn at the same rate."""
    freeze: list[str] | None = None
    """Regular expressions: a parameter whose name one of them matches somewhere is not trained; each layer has names of
    its own, such as bert/encoder/layer/3/output/dense/kernel."""
    train_only: Literal["head"] | None = None
    """head: train the pooler and what follows it, and neither embeddings nor layers (a linear probe)."""
    b1: float | None = None
    """adamw, lamb, lion, muon: decay of the first moment; left out, 0.9."""
    b2: float | None = None
    """adamw, lamb, muon: decay of the second moment; left out, 0.999. lion: decay of the moment that is kept; left out,
    0.99."""
    eps: float | None = None
    """adamw, lamb, muon: term added to the denominator; left out, 1e-8, lamb 1e-6. adafactor: term added to the squared
    gradient; left out, 1e-30."""
    momentum: float | None = None
    """sgd: decay of the sum of gradients; left out, 0.9; 0 keeps none. muon: decay of the moment of the layers' kernels;
    left out, 0.95."""
    nesterov: bool | None = None
    """sgd, muon: whether momentum looks one step ahead (Nesterov); left out, not for sgd, but for muon."""
    parameter_scale: bool | None = None
    """adafactor: whether the learning rate is a share of each tensor's root mean square (of 1e-3 at least), as it was
    published; left out, it is absolute as with all others."""

    @property
    def own(self) -> dict[str, Any]:
        """Return the settings that not every optimizer has and this one has, with its defaults."""
        given = {key: getattr(self, key) for key in OPTIMIZERS[self.name]}
        return OPTIMIZERS[self.name] | {key: value for key, value in given.items() if value is not None}


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

    task: str = "classification"
    """What the model learns: classification (one label a text), multi_label (any number of labels a text), regression (a
    score), token_classification (a tag a word), question_answering (the place of the answer in a context), multiple_choice
    (one of some choices for a question), pretraining (the language itself), or a task of another package, as
    package.module:Class."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for YAML: the task, and a dictionary of each section."""
        return dataclasses.asdict(self)
