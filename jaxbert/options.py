"""Options that are not part of a run's configuration: how a model answers, explains, is served, and is measured at shares.

A field's docstring is its help text, as in `config`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from jaxbert.config import ComputeFormat, MaxLength
from jaxbert.errors import UserError
from jaxbert.ranges import NotNegative, NotNegativeNumber, Positive, PositiveNumber, Range, check_fields

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
    """Least score of an answer: below it the label is null. summary.json of a run says how many answers are left at some
    scores, and how many of them are right."""
    coverage: Annotated[float, Range(above=0, below=1)] | None = None
    """Share of the texts whose true label is to be in `label_set`, which is added to each answer: all labels that are not
    ruled out at this share."""
    engine: Literal["jax", "onnx"] = "jax"
    """What computes the model. onnx: onnxruntime on the CPU, by the packed graph in the model's folder, or, if there is
    none, by one that is made of the weights (pip install 'jaxbert[onnx]')."""
    quantize: Quantize | None = None
    """Number format of the graph, only for engine onnx. If not set, float32, also where the folder holds other graphs."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)
        if self.engine == "jax" and self.quantize is not None:
            raise UserError("quantize chooses the graph of engine onnx: set engine to onnx, or leave quantize out")
        if self.engine == "onnx" and self.precision == "bfloat16":
            raise UserError(
                "precision is bfloat16, which engine onnx does not have: leave it out (quantize is its own key)"
            )


@dataclass(frozen=True)
class ExplainOptions:
    """How an answer is explained (`jaxbert explain`, `Model.explain`)."""

    method: Literal["integrated_gradients", "gradient_x_input", "occlusion"] = "integrated_gradients"
    """How words get their weights. integrated_gradients: the mean gradient on the way from the baseline to the text;
    gradient_x_input: the gradient at the text, one step, rough; occlusion: what is lost if the word is replaced."""
    label: str | None = None
    """The label to explain. If not set, the label that the model gives (the most probable one)."""
    steps: Annotated[int, Range(least=1, most=1000)] = 32
    """Number of points on the way from the baseline to the text; only for integrated_gradients."""
    baseline: Literal["pad", "mask", "zero"] = "pad"
    """What stands in place of a word that is taken away: the embedding of the padding token or of the mask token, or zeros.
    gradient_x_input always takes zeros. The special tokens stay."""
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
    """Most new tokens: characters that are unknown first, then the words that save most tokens."""
    min_count: Positive = 5
    """A word or character of the corpus becomes a token only if it is there this often."""
    min_pieces: Annotated[int, Range(least=2)] = 3
    """A word becomes a token only if the model cuts it into this many pieces or more."""
    bias: Literal["counted", "mean"] = "counted"
    """What the score of a new word starts with in a head over words, besides its row: the mean of its pieces' biases, less
    the logarithm of how much rarer it is in the corpus than they are (counted), or the mean alone (mean)."""
    reuse_unused: bool = True
    """Whether the rows of the tokens [unused1], [unused2], ... are taken first. false: new rows only."""

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
    """Decides every change, together with the number of the row."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)
        for strength in self.strengths or ():
            if not 0 < strength <= 1:
                raise UserError(f"strengths: {strength:g} is no share of a text: give numbers above 0 and up to 1")


@dataclass(frozen=True)
class ServeOptions:
    """How a server listens, what it accepts, and how it batches (`jaxbert serve`)."""

    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: only this machine; 0.0.0.0: every network of this machine."""
    port: Annotated[int, Range(least=0, most=65_535)] = 8080
    """Port to listen on. 0: any free one, which the log tells."""
    workers: Annotated[int, Range(least=1, most=256)] = 1
    """Number of processes behind the port; each has its own copy of the models."""
    devices: Annotated[int, Range(least=1, most=256)] | None = None
    """Number of GPUs or TPUs that compute, each its own batches with its own copy of the models. If not set, all of them."""
    api_key: str | None = None
    """Key that each request must send as `Authorization: Bearer KEY`; /health needs none. If not set, the value of the
    variable JAXBERT_API_KEY, if it is there."""
    batch_tokens: Positive | None = None
    """Most tokens of a batch. If not set, 16384 on each GPU or TPU, and 256 on CPU, fewer if a batch takes above 30 ms."""
    max_queue: Positive = 512
    """Most requests that wait for a model; others get 429."""
    max_wait: PositiveNumber = 1.0
    """Most seconds that a request may be expected to wait for a model, by the speed measured so far; others get 429."""
    max_texts: Positive = 256
    """Most texts of a request; more get 413."""
    max_characters: Positive = 100_000
    """Most characters of a text; more get 413."""
    max_tokens: Positive = 32_768
    """Most tokens of a request; more get 413."""
    max_body: Positive = 2_000_000
    """Most bytes of a request; more get 413."""
    body_seconds: PositiveNumber = 20.0
    """Most seconds that a body may take to arrive; slower ones get 408. A new connection without a request is closed after
    this time too."""
    explain: bool = False
    """Whether requests may ask for an explanation, which takes as long as some dozens of answers."""
    drain_seconds: NotNegativeNumber = 0.5
    """Seconds for which the server still accepts requests after SIGTERM, so that clients learn to go elsewhere."""

    def __post_init__(self) -> None:
        check_fields(self, "{}".format)


@dataclass(frozen=True)
class SearchOptions:
    """Which keys are searched, how, and for how long (`jaxbert search`)."""

    space: list[str] = field(default_factory=list)
    """A key and its values; give the flag once for each key. KEY=log:A:B: between A and B, even in the logarithm;
    KEY=lin:A:B: even; KEY=int:A:B: whole numbers; KEY=V1,V2,V3: one of these."""
    method: Literal["tpe", "random", "grid", "asha"] = "tpe"
    """How values are chosen. tpe: where earlier trials were good; random: anywhere; grid: all combinations of values; asha:
    anywhere, and only the best third of the trials goes on after a ninth and after a third of the steps."""
    trials: Positive = 20
    """Number of trials; with a larger number, the same command adds trials."""
    seconds: PositiveNumber | None = None
    """Seconds after which no trial begins. If not set, all trials run."""
    seed: NotNegative = 0
    """Random seed of the values that are tried."""
    objectives: str | None = None
    """What is compared: metrics of the validation set, examples_per_second, or several with commas between. If not set, the
    main metric of the task."""
    stopping: Literal["median", "none"] = "median"
    """Whether trials end early. median: if the best evaluation so far is worse than the median of five or more complete
    trials; asha has its own rule, and with several objectives no trial ends early."""
    storage: str | None = None
    """Where processes share the trials: the path of a journal file, or a database as postgresql://..., mysql://... If not
    set, a journal in the folder."""
    keep: Literal["best", "all"] = "best"
    """Whose exported models are kept: those of the best trials, or of all."""

    def __post_init__(self) -> None:
        check_fields(self, "search.{}".format)
