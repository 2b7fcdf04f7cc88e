"""What the trainer asks of the host's half of a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.batches import Batch
from jaxbert.data.examples import Examples
from jaxbert.data.label_fit import Head
from jaxbert.data.overview import Overview
from jaxbert.tasks.base import Task

SETTINGS = "jaxbert"
"""The key of `config.json` under which an export keeps what our own inference needs."""

COMPUTATION = "computation"
"""Of these settings the one that says how evaluations were computed; the others are a task's."""


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
    dress: Callable[[Batch, int | None], Batch] | None = None
    """What is done to each batch on its way to the device, in an epoch; None stands for evaluation."""


class Part(Protocol):
    """Some inputs of a source, as they were read."""

    def __len__(self) -> int: ...

    def kept_rows(self) -> Sequence[Mapping[str, Any]]:
        """Return for each input the columns that are copied into its answer."""
        ...


class Feed(Protocol):
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


class Kind(Protocol):
    """How a task reads its data."""

    def read(self, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read every data set of a run; the small ones first, so that a mistake in them is found soon.

        The labels are in the order of `head`, the trained one of the model, where it has the same.

        Raises:
          UserError: for anything wrong in the files.
        """
        ...

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Return a copy that carries what the task learned: label names, and what else `reopen` needs."""
        ...

    def reopen(self, bert_config: BertConfig) -> Task:
        """Return the task of an exported model.

        Raises:
          UserError: if the model is of another task.
        """
        ...

    def reading_length(self, task: Task) -> int | None:
        """Return the longest example that the model was taught to read; None where its own limit will do."""
        ...

    def read_for(self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Read one source to evaluate.

        Raises:
          UserError: for anything wrong in it, or a label that the model does not know.
        """
        ...

    def feed(
        self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> Feed:
        """Open one source to predict; the columns `kept` are copied into the answers.

        Raises:
          UserError: if it cannot be opened.
        """
        ...


def with_settings(bert_config: BertConfig, task: str, **settings: Any) -> BertConfig:
    """Return a copy that names its task, and what is to be known of it, under `SETTINGS`; `COMPUTATION` stays."""
    changed = copy.deepcopy(bert_config)
    kept = {key: value for key, value in settings_of(bert_config).items() if key == COMPUTATION}
    setattr(changed, SETTINGS, dict(sorted({"task": task, **settings, **kept}.items())))
    return changed


def settings_of(bert_config: BertConfig) -> dict[str, Any]:
    """Return what `with_settings` left in a configuration; nothing where it is another program's."""
    settings = getattr(bert_config, SETTINGS, None)
    return dict(settings) if isinstance(settings, dict) else {}
