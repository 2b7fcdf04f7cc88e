"""What a task is: how it reads its data, what it computes, how it is measured and what it answers.

The trainer knows packed batches, sums and predictions, and nothing of labels or losses. A new task is a folder here, or a
class in another package, that derives from `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from flax import nnx
from jax import Array
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import Batch as HostBatch
from jaxbert.data.examples import Examples
from jaxbert.data.labels import Head
from jaxbert.data.overview import Overview

Batch = dict[str, Array]
Sums = dict[str, Array]
_LISTED = 20
_FIRST = 5


class Task:
    """One way to train and use BERT; immutable, and made by `read` from training data or by `reopen` from an export."""

    name: ClassVar[str]
    """The value of `task` in a configuration."""
    assumes: ClassVar[str] = ""
    """What is assumed of a model of this task that another program has trained."""
    label_names_in_head: ClassVar[bool] = False
    """Whether the outputs of the head have the names of labels, which a configuration keeps as `id2label`."""
    has_text_labels: ClassVar[bool] = False
    """Whether whole texts have labels, to which `data.label_map` and `data.label_format` apply."""
    answer_keys: tuple[str, ...]
    """The keys of an answer, in order."""
    per_token: bool = False
    """Whether predictions belong to tokens, [B, T, ...], and not to examples, [B, S, ...]."""
    default_metric: str
    """The metric that chooses the best checkpoint where the user names none."""

    @property
    def head(self) -> type[nnx.Module]:
        """The module that is trained."""
        raise NotImplementedError

    @property
    def architecture(self) -> str:
        """The class of transformers that loads the export, without the family's name: `ForTokenClassification`."""
        raise NotImplementedError

    @property
    def reading_length(self) -> int | None:
        """The longest example in tokens that the model was taught to read; None where its own limit will do."""
        return None

    # What is read. No JAX.

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read every data set of a run; the small ones first, so that a mistake in them is found soon.

        The labels are in the order of `head`, the trained one of the model, where it has the same.

        Raises:
          UserError: for anything wrong in the files.
        """
        raise NotImplementedError

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source to evaluate.

        Raises:
          UserError: for anything wrong in it, or a label that the model does not know.
        """
        raise NotImplementedError

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> TaskInputs:
        """Open one source to predict; the columns `kept` are copied into the answers.

        Raises:
          UserError: if it cannot be opened.
        """
        raise NotImplementedError

    # What an export remembers.

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Return a copy that carries what the task learned: label names, and what else `reopen` needs."""
        raise NotImplementedError

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> Self:
        """Return the task of an exported model.

        Raises:
          UserError: if the model is of another task.
        """
        raise NotImplementedError

    def learned(self, evaluation: dict[str, Any]) -> Self:
        """Return the task with what an evaluation on the validation set has found for it; most find nothing."""
        return self

    # What is computed.

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the model's outputs, in order; empty where they have none."""
        return ()

    def describe(self) -> str:
        """Say in a few words what is learned, `labels: neg, pos`."""
        raise NotImplementedError

    def totals(self, batch: Batch) -> Sums:
        """Count what the loss of a whole step is divided by, before it is cut into slices; `examples` always."""
        return {"examples": count_examples(batch)}

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Return sums over the real examples of a batch, or of a slice of the step that `totals` counted.

        Training minimizes `loss` divided by `totals["examples"]`.
        """
        raise NotImplementedError

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return what evaluation needs of each example, [B, S, ...], or of each token, [B, T, ...]."""
        raise NotImplementedError

    # What comes of it. No JAX.

    def metrics(self, predictions: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Return all metrics by name, the headline ones first.

        Args:
          predictions: [N, ...] in the order of the examples, or aligned with `examples.tokens.ids`.
          examples: with labels.
        """
        raise NotImplementedError

    def tally(self, examples: Examples) -> Tally:
        """Return what makes the same metrics of predictions that come piece by piece; unless overridden, it gathers all."""
        return GatheredTally(self, examples)

    def metric_names(self) -> list[str]:
        """Return the metrics by which a best checkpoint can be chosen."""
        raise NotImplementedError

    def answers(self, predictions: np.ndarray, examples: Examples, first: int, last: int) -> list[dict[str, Any]]:
        """Return one JSON-ready answer for each document from `first` to `last - 1`, in the order of the source."""
        raise NotImplementedError


@dataclass(frozen=True)
class Inputs:
    """The examples of a run, and the task that its training rows define."""

    train: Examples
    validation: dict[str, Examples]
    """By name; one that has none is "validation", as the only test set is "test"."""
    test: dict[str, Examples]
    task: Task
    overview: Overview
    """What was understood of the data."""
    new_head: bool = False
    """Whether the model's trained head has none of the task's labels, so that another one is drawn."""
    collate: Callable[[HostBatch, int | None], HostBatch] | None = None
    """What is done to each batch on its way to the device, in an epoch; None stands for evaluation."""


class AnswerPart(Protocol):
    """Some inputs of a source, as they were read."""

    def __len__(self) -> int: ...

    def kept_rows(self) -> Sequence[Mapping[str, Any]]:
        """Return for each input the columns that are copied into its answer."""
        ...


class TaskInputs(Protocol):
    """The inputs of a source that a model is to answer."""

    @property
    def name(self) -> str:
        """The source, as messages name it."""
        ...

    @property
    def tokenize(self) -> Callable[[list[Any]], Examples]:
        """Return the tokens of some parts."""
        ...

    def parts(self) -> Iterator[Any]:
        """Read the source, part by part as its lines come.

        Raises:
          UserError: for what is malformed.
        """
        ...

    def say_first(self) -> None:
        """Say what was noticed for the first time: how often it occurs is known at the end alone."""
        ...

    def say(self) -> None:
        """Say what was noticed in all inputs so far."""
        ...


class Tally(Protocol):
    """Metrics in the making: of the predictions for a whole set it keeps what the metrics need, and no more."""

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Take the predictions [n, ...] of examples, or of tokens, at these places; in any order, each once."""
        ...

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by name, when everything was added."""
        ...


class Gathered:
    """Predictions that come piece by piece, put together."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: np.ndarray | None = None

    def add(self, ids: np.ndarray, predictions: np.ndarray) -> None:
        """Put a piece in its place."""
        if self._rows is None:
            self._rows = np.zeros((self._count, *predictions.shape[1:]), predictions.dtype)
        self._rows[ids] = predictions

    @property
    def rows(self) -> np.ndarray:
        """All predictions, in order."""
        assert self._rows is not None, "no examples"
        return self._rows


class GatheredTally(Gathered):
    """The metrics of a task that needs all predictions at once, where they are a few numbers an example or a token."""

    def __init__(self, task: Task, examples: Examples) -> None:
        super().__init__(count_predictions(task, examples))
        self._task, self._examples = task, examples

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of all."""
        return self._task.metrics(self.rows, self._examples)


def metrics_of(tally: Tally, predictions: np.ndarray) -> dict[str, Any]:
    """Return the metrics of predictions that are there at once."""
    tally.add(np.arange(len(predictions)), predictions)
    return tally.metrics()


def count_predictions(task: Task, examples: Examples) -> int:
    """Count the rows of a set's predictions: one for each example, or for each token."""
    return len(examples.tokens.ids) if task.per_token else len(examples.tokens)


def list_names(names: Sequence[str]) -> str:
    """Name labels on one line: all of a few, else the first few and how many there are."""
    if len(names) <= _LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_FIRST])}, ... ({len(names):,})"


def count_examples(batch: Batch) -> Array:
    """Count the documents of a batch; an example that is none's window is one."""
    if "example_index" in batch:
        return (batch["example_index"] * batch["example_mask"]).max() + 1
    return batch["example_mask"].sum()
