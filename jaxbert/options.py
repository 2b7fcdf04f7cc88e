"""Options that are not part of a run's configuration: how a model answers, explains, is served, and is measured at shares.

A field's docstring is its help text, as in `config`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from jaxbert.config import ComputeFormat, MaxLength
from jaxbert.errors import UserError
from jaxbert.ranges import NotNegative, NotNegativeNumber, Positive, PositiveNumber, Range, check_fields

Engine = Literal["auto", "jax", "onnx"]
Quantize = Literal["int8", "fp16"]
"""The number formats of an ONNX graph besides float32."""
CURVE_FOLDS, FRACTIONS = 5, "1/16,1/8,1/4,1/2,1"
"""The number of folds and the shares of the training rows of a learning curve (`jaxbert curve`), if none are given."""


@dataclass(frozen=True)
class InferenceOptions:
    """How a trained model computes its answers (`jaxbert predict`, `jaxbert evaluate`, `jaxbert.load`)."""

    max_length: MaxLength | None = None
    """Length limit of an example in tokens. If not set, the limit that the model was trained with."""
    lower_case: bool | None = None
    """Whether to change texts to lower case, for a model whose folder does not say so."""
    batch_size: Positive | None = None
    """Number of examples per step; fewer if they are long. null: as in the model's run, or 256 if that is not known."""
    precision: ComputeFormat = "auto"
    """Number format of the matrix products. auto: the setting of the model's run if the device is of the same kind, else
    bfloat16 on GPU and TPU and float32 on CPU."""
    top_k: Positive | None = None
    """Number of labels whose probabilities an answer shows, the best first. If not set, all labels if there are up to 20,
    else 5."""
    abstain_below: Annotated[float, Range(above=0, most=1)] | None = None
    """Smallest score of an answer; below it the label is null. summary.json of a run shows, for some values, how many
    answers are left and how many of them are right."""
    coverage: Annotated[float, Range(above=0, below=1)] | None = None
    """Adds `label_set` to each answer: the labels that cannot be ruled out. The true label is in the set for this share of
    the texts."""
    engine: Engine = "auto"
    """The library that computes the model. onnx: onnxruntime on the CPU, with the packed graph of the model's folder, or, if
    there is none, with a graph made from the weights (pip install 'jaxbert[onnx]'). auto: onnx with quantize, and where
    `jaxbert serve` runs on a CPU and onnxruntime can compute the model; else jax."""
    quantize: Quantize | None = None
    """Number format of onnxruntime's graph. If not set, float32, also if the folder has other graphs."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)
        if self.engine == "jax" and self.quantize is not None:
            raise UserError("quantize chooses the graph of engine onnx: set engine to onnx, or leave quantize out")
        if self.uses_onnx and self.precision == "bfloat16":
            raise UserError(
                "precision is bfloat16, which engine onnx does not have: leave it out (quantize is its own key)"
            )

    @property
    def uses_onnx(self) -> bool:
        """Whether the options ask for onnxruntime."""
        return self.engine == "onnx" or self.quantize is not None


@dataclass(frozen=True)
class ExplainOptions:
    """How an answer is explained (`jaxbert explain`, `Model.explain`)."""

    method: Literal["integrated_gradients", "gradient_x_input", "occlusion"] = "integrated_gradients"
    """How words get their weights. integrated_gradients: the mean gradient between the baseline and the text;
    gradient_x_input: only the gradient at the text, fast and rough; occlusion: how much the value falls if the word is
    replaced."""
    label: str | None = None
    """The label to explain. If not set, the label that the model gives (the most probable one)."""
    steps: Annotated[int, Range(least=1, most=1000)] = 32
    """Number of points between the baseline and the text; only for integrated_gradients."""
    baseline: Literal["pad", "mask", "zero"] = "pad"
    """What replaces the embedding of a word that is taken away: that of the padding token (pad) or of the mask token (mask),
    or zeros (zero). gradient_x_input always takes zeros. Special tokens stay."""
    unit: Literal["log_odds", "probability"] = "log_odds"
    """What the weights add up to: a change of the label's log-odds, ln(p / (1 - p)), or of its probability p. The answer to
    a question is explained in ln p instead of log-odds, a score in its own unit."""
    neighbours: Annotated[int, Range(least=0, most=1000)] = 0
    """Number of training examples to show that are nearest to each text; the model must be a run folder with its data."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)


@dataclass(frozen=True)
class NewWordsOptions:
    """Which words become tokens (`jaxbert vocabulary extend`, `jaxbert.extend_vocabulary`)."""

    size: Positive = 1000
    """Largest number of new tokens: first unknown characters, then the words that save the most tokens."""
    min_count: Positive = 5
    """A word or character becomes a token only if it is at least this often in the corpus."""
    min_pieces: Annotated[int, Range(least=2)] = 3
    """A word becomes a token only if the model cuts it into this many pieces or more."""
    bias: Literal["counted", "mean"] = "counted"
    """Initial bias of a new word in a head for masked words: the mean of its pieces' biases (mean), or this mean minus the
    logarithm of how many times rarer the word is in the corpus than its pieces (counted)."""
    reuse_unused: bool = True
    """Whether new tokens first take the rows of [unused1], [unused2], ... false: only new rows."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)


@dataclass(frozen=True)
class RobustnessOptions:
    """How texts are disturbed (`jaxbert robustness`, `Model.robustness`)."""

    kinds: list[str] | None = None
    """Kinds of disturbances. If not set, all that are installed."""
    strengths: list[float] | None = None
    """Shares of a text's letters or words that are changed. If not set, 0.05, 0.1 and 0.2."""
    seed: NotNegative = 0
    """Random seed of the changes; each change depends on the seed, the kind, the strength and the number of the row."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)
        for strength in self.strengths or ():
            if not 0 < strength <= 1:
                raise UserError(f"strengths: {strength:g} is not a share of a text: give numbers above 0 and up to 1")


@dataclass(frozen=True)
class ServeOptions:
    """How a server listens, what it accepts, and how it batches (`jaxbert serve`)."""

    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: only this machine; 0.0.0.0: every network of this machine."""
    port: Annotated[int, Range(least=0, most=65_535)] = 8080
    """Port to listen on. 0: any free port; the log names it."""
    workers: Annotated[int, Range(least=1, most=256)] = 1
    """Number of processes behind the port; each has its own copy of the models."""
    devices: Annotated[int, Range(least=1, most=256)] | None = None
    """Number of GPUs or TPUs that compute, each its own batches with its own copy of the models. If not set, all of them."""
    api_key: str | None = None
    """Key that each request must send as `Authorization: Bearer KEY`; /health needs none. If not set, the value of the
    variable JAXBERT_API_KEY, if it is there."""
    batch_tokens: Positive | None = None
    """Largest number of tokens of a batch. If not set, 16384 on each GPU or TPU; 256 on CPU, or fewer on a slow one."""
    max_queue: Positive = 512
    """Largest number of requests that wait for a model; others get status 429."""
    max_wait: PositiveNumber = 1.0
    """Longest expected wait of a request for a model in seconds, by the speed measured so far; others get status 429."""
    max_texts: Positive = 256
    """Largest number of texts of a request; with more it gets status 413."""
    max_characters: Positive = 100_000
    """Largest number of characters of a text; with more the request gets status 413."""
    max_tokens: Positive = 32_768
    """Largest number of tokens of a request; with more it gets status 413."""
    max_body: Positive = 2_000_000
    """Largest number of bytes of a request; with more it gets status 413."""
    body_seconds: PositiveNumber = 20.0
    """Longest time in seconds in which the body of a request must arrive; slower requests get status 408. A new connection
    without a request is closed after this time too."""
    explain: bool = False
    """Whether requests may ask for an explanation, which takes as long as dozens of answers."""
    drain_seconds: NotNegativeNumber = 0.5
    """Seconds for which the server still accepts requests after SIGTERM, so that clients have time to choose another
    server."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)


@dataclass(frozen=True)
class SearchOptions:
    """Which keys are searched, how, and for how long (`jaxbert search`)."""

    space: list[str] = field(default_factory=list)
    """A key and its values; give the flag once for each key. KEY=log:A:B: between A and B on a logarithmic scale;
    KEY=lin:A:B: between A and B; KEY=int:A:B: whole numbers; KEY=V1,V2,V3: one of these."""
    method: Literal["tpe", "random", "grid", "asha"] = "tpe"
    """How values are chosen. tpe: near the values of good trials; random: at random; grid: all combinations of values; asha:
    at random, and only the best third of the trials continues after a ninth and after a third of the steps."""
    trials: Positive = 20
    """Number of trials; with a larger number, the same command adds trials."""
    seconds: PositiveNumber | None = None
    """Seconds after which no trial begins. If not set, all trials run."""
    seed: NotNegative = 0
    """Random seed of the values that are tried."""
    objectives: str | None = None
    """The values that are compared: a metric of the validation set, examples_per_second, or several separated by commas. If
    not set, the main metric of the task."""
    stopping: Literal["median", "none"] = "median"
    """Whether trials end early. median: if the best evaluation so far is worse than the median of five or more complete
    trials; asha has its own rule, and with several objectives no trial ends early."""
    storage: str | None = None
    """Where processes share the trials: the path of a journal file, or a database as postgresql://..., mysql://... If not
    set, a journal in the folder."""
    keep: Literal["best", "all"] = "best"
    """Trials whose exported models are kept: the best ones (best), or all."""

    def __post_init__(self) -> None:
        check_fields(self, "search.{}".format)
