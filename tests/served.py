"""Small models of every task behind an engine or a whole server, for tests of serving."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runs import LABELS, VOCAB, small_config
from tiny import random_params
from transformers import BertTokenizer

from jaxbert.data.tokens import LongTexts, Reading
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.options import InferenceOptions, ServeOptions
from jaxbert.serve.engine import Computed, Engine
from jaxbert.serve.onnx_engine import open_engine
from jaxbert.serve.service import Service
from jaxbert.tasks.base import Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.decision import Decision
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import PlainTags

WINDOWS = LongTexts("windows", 3)
TASKS: dict[str, Task] = {
    "classification": Classification(LABELS, decision=Decision(positive=1, threshold=0.4, temperature=1.5)),
    "documents": Classification(("a", "b", "c"), reading=Reading(WINDOWS, "mean", 12)),
    "pairs": Classification(LABELS, reading=Reading(pairs=True)),
    "multi_label": MultiLabel(("a", "b", "c"), threshold=0.4),
    "regression": Regression(),
    "token_classification": PlainTags(("A", "B", "O"), "word", 0.0, Reading(WINDOWS, None, 12)),
    "question_answering": QuestionAnswering(reading=Reading(WINDOWS, None, 14)),
    "multiple_choice": MultipleChoice(),
}
"""Tasks with all that changes an answer: thresholds, temperatures, windows that are pooled, pairs."""


def write_export(folder: Path, task: Task, outputs: int = 2, seed: int = 3) -> Path:
    """Write an export with random parameters, far enough from 0 that answers differ."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    names = task.output_names or tuple(f"LABEL_{i}" for i in range(outputs))
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = task.configure(small_config(num_hidden_layers=1, **labels))
    model = make_model(task.head, config)
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    save_folder(folder, random_params(model, seed=seed), model.config, tokenizer, architecture=task.architecture)
    return folder


def open_service(
    sources: dict[str, Path], inference: InferenceOptions | None = None, *, warm: bool = True, **options: Any
) -> Service:
    """Open models as the command does, and compile them."""
    service = Service(
        {name: str(folder) for name, folder in sources.items()},
        lambda source: open_engine(source, inference),
        ServeOptions(**options),
    )
    if warm:
        service.warm_up()
    return service


@contextmanager
def serving(sources: dict[str, Path], inference: InferenceOptions | None = None, **options: Any) -> Iterator[Service]:
    """Open a service for a block."""
    service = open_service(sources, inference, **options)
    try:
        yield service
    finally:
        service.close()


class Question:
    """A request that waits for its answer."""

    def __init__(self, engine: Engine, items: Sequence[Any], *, raw: bool = False) -> None:
        self.read = engine.read(items)
        self._arrived = threading.Event()
        self._outcome: Computed | Exception | None = None
        assert self.read.examples is not None
        self.waiting = engine.submit(self.read.examples, self._done, raw=raw)

    def _done(self, outcome: Computed | Exception) -> None:
        assert self._outcome is None, "answered twice"
        self._outcome = outcome
        self._arrived.set()

    def answers(self) -> list[dict[str, Any]]:
        """Wait for the answers."""
        return self.computed().answers

    def computed(self) -> Computed:
        """Wait for all that was computed."""
        assert self._arrived.wait(30), "no answer"
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome
