"""Predictions for any number of examples, in their own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxbert.data.batches import Batch, batches, lengths_of
from jaxbert.data.examples import Examples
from jaxbert.data.packing import WINDOW, Layout, choose_layout
from jaxbert.models.encoder import Call
from jaxbert.models.functional import Model, Params
from jaxbert.tasks.base import Gathered, Task, count_predictions
from jaxbert.tasks.direction import value_of
from jaxbert.train.compiled import Compiled
from jaxbert.train.prefetch import Prefetcher
from jaxbert.train.sharding import own_rows, put_batch, replicated, row_alignment, row_devices
from jaxbert.train.step import make_predict_step

_MOST_TOKENS = 16_384
"""Tokens of one step on one device, if all examples had the length of the longest."""
_MOST_VALUES = 2**25
"""Predicted values of what waits at once for the rest of its text, and of one step."""


@dataclass
class Predictor:
    """A model that is ready to predict; one program a shape, kept for the next call."""

    model: Model
    task: Task
    mesh: Mesh
    call: Call
    batch_size: int = 256
    dress: Callable[[Batch, int | None], Batch] | None = None
    """What is done to each batch before it is sent."""
    layouts: dict[Examples, Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        step = make_predict_step(self.model, self.task, self.call)
        self.step = Compiled(step, out_shardings=replicated(self.mesh))  # every process sees all predictions

    def __call__(self, params: Params, examples: Examples) -> np.ndarray:
        """Return predictions; every example is computed once.

        They are [N, ...] in the order of the examples, or, where the task predicts for tokens, aligned with
        `examples.tokens.ids`.
        """
        gathered = Gathered(count_predictions(self.task, examples))
        for ids, predictions in self.pieces(params, examples):
            gathered.add(ids, predictions)
        return gathered.rows

    def metrics(self, params: Params, sets: Mapping[str, Examples], task: Task | None = None) -> dict[str, Any]:
        """Evaluate one or several sets, by the metrics of `task` where it has learned something since."""
        return over_sets({name: self._measure(params, examples, task or self.task) for name, examples in sets.items()})

    def _measure(self, params: Params, examples: Examples, task: Task) -> dict[str, Any]:
        """Evaluate a set without keeping its predictions: those of many labels may not fit in memory."""
        tally = task.tally(examples)
        for ids, predictions in self.pieces(params, examples):
            tally.add(ids, predictions)
        return tally.metrics()

    def pieces(self, params: Params, examples: Examples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield predictions as they are computed: the places of examples, or of tokens, and a row for each."""
        single = Examples(examples.tokens, token_labels=examples.token_labels)  # windows need not share a step
        layout, size = self.layout(examples), self._examples_a_step(examples)
        source = batches(single, layout, size, seed=None, own_rows=partial(own_rows, self.mesh))
        for batch, values in self._run(params, source):
            if self.task.per_token:
                places, targets = _token_places(batch, examples)
                yield targets, values.reshape(-1, *values.shape[2:])[places]
            else:
                real = batch["example_mask"]
                yield batch["example_ids"][real], values[real]

    def _run(self, params: Params, source: Iterator[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each batch with its values, one step late so that the device never waits for the host."""
        pending: tuple[Batch, jax.Array] | None = None
        if self.dress is not None:
            source = (self.dress(batch, None) for batch in source)
        with Prefetcher(source, lambda batch: (batch, put_batch(batch, self.mesh))) as loader:
            for batch, on_device in loader:
                values = self.step(params, on_device)
                if pending is not None:
                    yield pending[0], jax.device_get(pending[1])
                pending = batch, values
        if pending is not None:
            yield pending[0], jax.device_get(pending[1])

    def _examples_a_step(self, examples: Examples) -> int:
        """Return `batch_size`, or fewer where their attention or their predictions would not fit in memory."""
        longest = int(examples.tokens.lengths.max())
        values = self.model.config.num_labels or 1
        if self.task.per_token:
            values *= longest
        elif examples.windows is not None:
            values *= WINDOW  # so many steps apart the windows of a text may be
        most = min(_MOST_TOKENS * row_devices(self.mesh) // longest, _MOST_VALUES // values)
        return min(self.batch_size, max(1, most))

    def layout(self, examples: Examples) -> Layout:
        """Choose the layout of a data set once: evaluations of the same set share their programs."""
        if examples not in self.layouts:
            self.layouts[examples] = choose_layout(
                examples.tokens.lengths,
                self._examples_a_step(examples),
                row_multiple=row_devices(self.mesh),
                alignment=row_alignment(self.mesh),
                seed=None,
            )
        return self.layouts[examples]


def _token_places(batch: Batch, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return where the real tokens lie in a batch of B rows of T, counted in B * T, and where in `examples.tokens.ids`.

    They follow from what every process has whole: the rows of others have no tokens here, but predictions.
    """
    real = batch["example_mask"]
    row_length, lengths = batch["segment_ids"].shape[1], lengths_of(batch)[real]
    starts = np.nonzero(real)[0] * row_length + batch["cls_positions"][real]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    sources = examples.tokens.begins[batch["example_ids"][real]]
    return np.repeat(starts, lengths) + within, np.repeat(sources, lengths) + within


def over_sets(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of the only set, or the mean over several of each number, and in `sets` those of each."""
    if len(results) == 1:
        return next(iter(results.values()))
    names = dict.fromkeys(name for part in results.values() for name, value in part.items() if isinstance(value, float))
    means = {name: float(np.mean([value_of(part, name) for part in results.values()])) for name in names}
    return means | {"sets": results}


def numbers_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the single numbers among metrics, those of each set too: what a line and a checkpoint hold.

    What is there of each label, and of pairs of them, is left out: it grows with them.
    """
    numbers: dict[str, Any] = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if "sets" in metrics:
        numbers["sets"] = {name: numbers_of(part) for name, part in metrics["sets"].items()}
    return numbers


def with_details(numbers: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what `numbers_of` left, with all else of `metrics`, which are of the same parameters."""
    whole = metrics | numbers
    if "sets" in numbers:
        whole["sets"] = {name: metrics["sets"][name] | part for name, part in numbers["sets"].items()}
    return whole
