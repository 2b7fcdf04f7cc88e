"""Complete runs that no training made, for tests of their reports: real data, random predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from runs import make_config
from scipy.special import log_softmax
from transformers import BertTokenizer

from jaxbert.data.memory import hold
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import task_class
from jaxbert.tasks.base import Outcome, count_predictions
from jaxbert.tasks.pretraining.masking import FREQUENCIES
from jaxbert.tasks.reading import set_name
from jaxbert.train.inference import Finished, TrainedModel
from jaxbert.train.sharding import make_mesh

SPEED = {
    "steps": 2,
    "timed_steps": 2,
    "examples_per_second": 10.0,
    "real_tokens_per_second": 100.0,
    "packing_efficiency": 0.9,
    "data_wait_fraction": 0.01,
    "tflops_per_second": 0.5,
    "mfu": None,
    "compile_seconds": 1.0,
    "peak_memory_bytes": 3 * 2**20,
    "device": "cpu",
    "devices": 1,
    "jax_version": "0",
    "parameters": 10,
    "trained_parameters": 10,
    "exported_step": 2,
}


def tokenizer_of(folder: Path, words: Sequence[str]) -> BertTokenizer:
    """Make a tokenizer of these words."""
    path = folder / "words.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", encoding="utf-8")
    return BertTokenizer(vocab=str(path))


@contextmanager
def made_up_run(
    folder: Path, task: str, rows: Sequence[Any] | str, tokenizer: BertTokenizer, seed: int = 0, **changes: Any
) -> Iterator[Finished]:
    """Yield a run whose training and validation rows are `rows`, in memory or a file, or those of `data__validation`."""
    with nullcontext(rows) if isinstance(rows, str) else hold(rows, "train") as spec:
        usual = {"data__train": spec, "data__validation": spec, "data__cache_dir": None}
        config = make_config(task, **(usual | changes))
        inputs = task_class(task).read(config, tokenizer, 64)
        rng = np.random.default_rng(seed)
        outcomes = {}
        for name, examples in inputs.validation.items():
            predictions = _predictions(
                task, rng, count_predictions(inputs.task, examples), len(inputs.task.output_names)
            )
            first = Outcome(inputs.task, examples, predictions)
            outcomes[set_name("validation", name)] = replace(first, task=inputs.task.learned(first.metrics))
        metrics = {name: outcome.metrics for name, outcome in outcomes.items()}
        several = {"sets": {name.partition(".")[2]: found for name, found in metrics.items()}}
        evaluation = metrics.get("validation", several)
        summary = SPEED | {"eval": evaluation, "test": None, "data": inputs.overview.to_dict()}
        run = RunFolder(folder)
        folder.mkdir(exist_ok=True)
        for step in (1, 2):
            run.log(step, {"train_loss": 1 / step, "learning_rate": 5e-5, "grad_norm": 1.0, "eval_loss": 2 / step})
        model = SimpleNamespace(config=SimpleNamespace(vocab_size=100))
        predictor: Any = SimpleNamespace(mesh=make_mesh(config.mesh), model=model)
        yield Finished(config, run, inputs, TrainedModel(inputs.task, tokenizer, {}, predictor, 64), outcomes, summary)


def _predictions(task: str, rng: np.random.Generator, count: int, labels: int) -> np.ndarray:
    if task == "regression" or task == "multiple_choice":
        return rng.normal(size=count).astype(np.float32)
    if task == "question_answering":
        return -np.abs(rng.normal(size=(count, 2))).astype(np.float32)
    if task == "pretraining":
        return np.abs(rng.normal(size=(count, 1 + 2 * len(FREQUENCIES) + 2))).astype(np.float32)
    values = rng.normal(size=(count, labels)).astype(np.float32)
    return values if task == "multi_label" else log_softmax(values, axis=-1)


class Parsed(HTMLParser):
    """The elements, attributes and texts of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All texts, one after the other."""
        return "".join(self.texts)


def seconds_of(work: Any) -> float:
    """Return the processor seconds of a call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin
