"""The interface of a task: it reads its data, computes losses and predictions, measures metrics and writes answers.

The trainer knows packed batches, sums and predictions, but no labels or losses. A new task is a folder here, or a class in
another package, that derives from `Task`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from flax import nnx
from jax import Array
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import Batch as HostBatch
from jaxbert.data.examples import Examples
from jaxbert.data.labels import Head
from jaxbert.data.overview import Overview
from jaxbert.errors import UserError
from jaxbert.tasks.decision import Tuning

Batch = dict[str, Array]
Sums = dict[str, Array]
Explained = Literal["log_odds", "log_probability", "score"]
"""What an explanation divides among words: ln(p / (1 - p)) or ln(p) of an output's probability p, or a score itself."""
_LISTED = 20
_FIRST = 5


class Task:
    """One way to train and use BERT; immutable. `read` makes it from training data, `reopen` from an export."""

    name: ClassVar[str]
    """The value of `task` in a configuration."""
    assumes: ClassVar[str] = ""
    """The assumption about a model of this task from another program, for a warning."""
    label_names_in_head: ClassVar[bool] = False
    """Whether each output of the head has the name of a label, kept as `id2label` in the configuration."""
    has_text_labels: ClassVar[bool] = False
    """Whether texts have labels, to which `data.label_map` and `data.label_format` apply."""
    last_layer: ClassVar[str | None] = None
    """The name of the layer that makes the logits, if its outputs divided by a temperature are calibrated probabilities."""
    per_token: bool = False
    """Whether there is a prediction for each token, [B, T, ...], and not for each segment, [B, S, ...]."""
    default_metric: str
    """The metric that chooses the best checkpoint if the user names none."""
    explains: ClassVar[Explained | None] = None
    """The value of an output that explanations divide among words; None for a task whose answers cannot be explained."""

    @property
    def head(self) -> type[nnx.Module]:
        """The head that is trained on top of the encoder."""
        raise NotImplementedError

    @property
    def architecture(self) -> str:
        """The class of transformers that loads the export, without the family's name: `ForTokenClassification`."""
        raise NotImplementedError

    @property
    def reading_length(self) -> int | None:
        """The longest segment in training, in tokens; None for the model's own limit."""
        return None

    # Reading data. No JAX.

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read every data set of a run, the small ones first, so that mistakes in them are found early.

        If `head`, the model's trained head, has the same labels, its order is kept.

        Raises:
          UserError: for any mistake in the files.
        """
        raise NotImplementedError

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source to evaluate.

        Raises:
          UserError: for any mistake in it, or a label that the model does not know.
        """
        raise NotImplementedError

    def read_unlabelled(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read texts without labels to train on, for which a teacher answers; the examples are as in training.

        Raises:
          UserError: for any mistake in the source, or a task that has no such training.
        """
        raise UserError(f"data.unlabelled does not work with task {self.name}: leave it out")

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> TaskInputs:
        """Open one source to predict; the columns `kept` are copied to the answers.

        Raises:
          UserError: if it cannot be opened.
        """
        raise NotImplementedError

    # Exporting and reopening.

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Return a copy with the label names and everything else that `reopen` needs."""
        raise NotImplementedError

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> Self:
        """Return the task of an exported model.

        Raises:
          UserError: if the model is of another task.
        """
        raise NotImplementedError

    def smoothed(self, amount: Any) -> Self:
        """Return the task with this label smoothing, a number or a traced array; None: none.

        A task without a field `label_smoothing` stays as it is.
        """
        return dataclasses.replace(self, label_smoothing=amount) if hasattr(self, "label_smoothing") else self  # type: ignore[type-var]

    def learned(self, evaluation: dict[str, Any]) -> Self:
        """Return the task with settings that an evaluation on the validation set has tuned; most tasks tune none."""
        return self

    def check_tuning(self, tuning: Tuning) -> None:
        """Check that this task has what is to be chosen on held-out examples.

        Raises:
          UserError: for a setting without a meaning for it.
        """
        tuning.refuse(f"task {self.name}")

    def at_temperature(self, temperature: float) -> Self:
        """Return the task for logits that are divided by `temperature`; only tasks with a `last_layer` have it."""
        raise NotImplementedError

    def loss_at(self, temperature: float, predictions: np.ndarray, examples: Examples) -> float:
        """Return the mean loss of the examples if their logits were divided by `temperature`, in float64."""
        raise NotImplementedError

    def untuned(self) -> Self:
        """Return the task without the settings that `learned` tunes, to tune them on other examples."""
        return self

    def tuned(self, outcomes: Sequence[Outcome], tuning: Tuning) -> tuple[Self, dict[str, Any]]:
        """Return the task with what is chosen on held-out examples, and the choices for `summary.json`.

        Args:
          outcomes: the predictions for these examples, all finite, of one or several sets.
          tuning: what is chosen.
        """
        return self, {}

    # Computing.

    @property
    def answer_keys(self) -> tuple[str, ...]:
        """The keys of an answer, in order."""
        raise NotImplementedError

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the model's outputs, in order; empty if they have none."""
        return ()

    def describe(self) -> str:
        """Return the labels in a few words, such as `labels: neg, pos`."""
        raise NotImplementedError

    def totals(self, batch: Batch) -> Sums:
        """Return the divisors of the loss, counted over a complete step before it is sliced; `examples` always."""
        return {"examples": count_examples(batch)}

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Return sums over the real examples of a batch, or of one slice of the step; `totals` are of the complete step.

        Training minimizes `loss` divided by `totals["examples"]`.
        """
        raise NotImplementedError

    reads_states: bool = False
    """Whether the loss in training reads the vectors after every layer."""

    def distance(self, outputs: dict[str, Any], batch: Batch, totals: Sums, temperature: float) -> Sums:
        """Return `loss`, how far the outputs are from a teacher's predictions, and `examples`, as `sums` does.

        The teacher's predictions, those of the method below, are in `batch["targets"]` for each segment, or in
        `batch["token_targets"]` for each token.

        Raises:
          UserError: for a task whose answers are not compared.
        """
        raise UserError(f"task {self.name} cannot compare answers: leave train.teacher and train.r_drop out")

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the predictions for evaluation, one for each segment, [B, S, ...], or for each token, [B, T, ...]."""
        raise NotImplementedError

    def explained(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the value that is explained, in any shape: for each example, that of the output `batch["labels"]`.

        The values are in the order of the batch's slots, or of the examples of the step where their windows are pooled. They
        are differentiable, and 0 in unused slots.

        Raises:
          NotImplementedError: for a task whose answers cannot be explained.
        """
        raise NotImplementedError

    # Metrics and answers. No JAX.

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Return all metrics by name, the headline ones first.

        Args:
          predictions: [N, ...] in the order of the segments, or aligned with `examples.tokens.ids`.
          examples: the examples with their labels.
        """
        raise NotImplementedError

    def tally(self, examples: Examples) -> Tally:
        """Return a tally that computes the same metrics from slices of the predictions; by default it gathers all."""
        return GatheredTally(self, examples)

    def probabilities(self, predictions: np.ndarray, examples: Examples) -> np.ndarray | None:
        """Return the probability of each label for each example, float64 [N, C]; None for a task without them.

        In single-label tasks a row sums to 1. For choices that differ in number, the columns after the last one are 0.
        """
        return None

    def average(self, parts: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return predictions whose probabilities, or scores, are the mean of those of several models.

        Args:
          parts: the predictions of each model, [N, ...] in the order of the segments.
          examples: the examples.

        Raises:
          NotImplementedError: if the answers of the task have no mean.
        """
        raise NotImplementedError

    def labels_and_answers(self, predictions: np.ndarray, examples: Examples) -> tuple[Any, Any]:
        """Return the labels and the answers of a set in the form in which a metric of the user's program gets them.

        Raises:
          NotImplementedError: if the task has no such metrics.
        """
        raise NotImplementedError

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that can choose the best checkpoint."""
        raise NotImplementedError

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return one JSON-ready answer for each example from `first` to `last - 1`, in the order of the source."""
        raise NotImplementedError


@dataclass(frozen=True)
class Inputs:
    """The examples of a run, and the task that its training examples define."""

    train: Examples
    validation: dict[str, Examples]
    """The sets by name; a single set without a name is "validation", and in `test` it is "test"."""
    test: dict[str, Examples]
    task: Task
    overview: Overview
    """A summary of the data."""
    new_head: bool = False
    """Whether the model's trained head has none of the task's labels, so that a new head is drawn."""
    collate: Callable[[HostBatch, int | None], HostBatch] | None = None
    """Changes each batch before it goes to the device, given the epoch (None in evaluation)."""
    labelled: Examples | None = None
    """The training examples as they were read, if `train` has a teacher's answers; None without a teacher."""

    def untaught(self) -> Inputs:
        """Return the inputs without a teacher's answers, and without the rows that only a teacher answers for."""
        return self if self.labelled is None else dataclasses.replace(self, train=self.labelled, labelled=None)


class AnswerPart(Protocol):
    """Some inputs of a source, as they were read."""

    def __len__(self) -> int: ...

    def kept_rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the columns that are copied to the answer of each input."""
        ...


class TaskInputs(Protocol):
    """The inputs of a source for prediction."""

    @property
    def name(self) -> str:
        """The source's name in messages."""
        ...

    @property
    def tokenize(self) -> Callable[[list[Any]], Examples]:
        """Return the tokens of some parts."""
        ...

    def parts(self) -> Iterator[Any]:
        """Read the source part by part, as its lines arrive.

        Raises:
          UserError: for malformed records.
        """
        ...

    def say_first(self) -> None:
        """Tell the user new kinds of findings at once; their numbers are known only at the end."""
        ...

    def say(self) -> None:
        """Tell the user the findings about all inputs so far."""
        ...


class Tally(Protocol):
    """Computes metrics from slices of the predictions; it keeps only the values that the metrics need."""

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Add the predictions [n, ...] of the segments, or tokens, with these indices; in any order, each once."""
        ...

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by name, after all predictions were added."""
        ...


class Gathered:
    """Gathers slices of the predictions in one array."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._rows: np.ndarray | None = None

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Store the predictions with these indices."""
        if self._rows is None:
            self._rows = np.zeros((self.count, *predictions.shape[1:]), predictions.dtype)
        self._rows[ids] = predictions

    @property
    def rows(self) -> np.ndarray:
        """All predictions, [N, ...], in order."""
        assert self._rows is not None, "no examples"
        return self._rows


class GatheredTally(Gathered):
    """Computes the metrics of a task that needs all predictions at once, a few numbers for each segment or token."""

    def __init__(self, task: Task, examples: Examples) -> None:
        super().__init__(count_predictions(task, examples))
        self._task, self._examples = task, examples

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all predictions."""
        return self._task.metrics(self.rows, self._examples)


def metrics_of(tally: Tally, predictions: np.ndarray) -> dict[str, Any]:
    """Return the metrics of an array of all predictions."""
    tally.add(np.arange(len(predictions)), predictions)
    return tally.metrics()


def count_predictions(task: Task, examples: Examples) -> int:
    """Return the number of predictions for a set: one for each segment, or for each token."""
    return len(examples.tokens.ids) if task.per_token else len(examples.tokens)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A model's predictions for the examples of one labelled set.

    Reports, calibration, the search for wrong labels and comparisons all read it, so there is one evaluation.
    """

    task: Task
    """The task of the predictions, with the settings that it has learned."""
    examples: Examples
    predictions: np.ndarray
    """[N, ...] in the order of the segments, or aligned with `examples.tokens.ids`, as `Predictor` returns them."""

    def __post_init__(self) -> None:
        assert len(self.predictions) == count_predictions(self.task, self.examples), "predictions of other examples"

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """The probability of each label for each example, float64 [N, C]; None for a task without them."""
        return self.task.probabilities(self.predictions, self.examples)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """All metrics by name."""
        return metrics_of(self.task.tally(self.examples), self.predictions)

    def answers(self, first: int = 0, last: int | None = None) -> list[dict[str, Any]]:
        """Return the answers of `jaxbert predict` for examples `first` to `last - 1`."""
        return self.task.answers(self.predictions, self.examples, first, len(self) if last is None else last)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one or several sets, and the outcome of each."""

    metrics: dict[str, Any]
    """All metrics by name; of several sets their means, with the metrics of each in `sets`."""
    outcomes: Mapping[str, Outcome]
    """The outcomes by the names of the sets. A set with more predictions than fit in memory has none."""


def list_names(names: Sequence[str]) -> str:
    """Return labels as one line: up to 20 labels, else the first 5 and their number."""
    if len(names) <= _LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_FIRST])}, ... ({len(names):,})"


def count_examples(batch: Batch) -> Array:
    """Count the examples of a batch; the windows of one example count once."""
    if "example_index" in batch:
        return (batch["example_index"] * batch["example_mask"]).max() + 1
    return batch["example_mask"].sum()
