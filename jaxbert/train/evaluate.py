"""Predictions for any number of examples, in their own order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

from jaxbert.data.batches import Batch, batches
from jaxbert.data.packing import Layout, choose_layout
from jaxbert.data.tokens import Tokens
from jaxbert.models.encoder import Call
from jaxbert.models.functional import Model, Params
from jaxbert.tasks.base import Task
from jaxbert.train.compiled import Compiled
from jaxbert.train.prefetch import Prefetcher
from jaxbert.train.sharding import put_batch, row_devices
from jaxbert.train.step import make_predict_step


@dataclass
class Predictor:
    """A model that is ready to predict; one program a shape, kept for the next call."""

    model: Model
    task: Task
    mesh: Mesh
    call: Call
    batch_size: int = 256
    layouts: dict[Tokens, Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.step = Compiled(make_predict_step(self.model, self.task, self.call))

    def __call__(self, params: Params, tokens: Tokens) -> np.ndarray:
        """Return predictions [N, ...] in the order of `tokens`; every example is computed once."""
        layout = self._layout(tokens)
        source = batches(tokens, None, layout, self.batch_size, seed=None)
        results: np.ndarray | None = None
        for batch, values in self._run(params, source):
            real = batch["example_mask"]
            if results is None:
                results = np.empty((len(tokens), *values.shape[2:]), values.dtype)
            results[batch["example_ids"][real]] = values[real]
        assert results is not None, "no examples"
        return results

    def _run(self, params: Params, source: Iterator[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each batch with its values, one step late so that the device never waits for the host."""
        pending: tuple[Batch, jax.Array] | None = None
        with Prefetcher(source, lambda batch: (batch, put_batch(batch, self.mesh))) as loader:
            for batch, on_device in loader:
                values = self.step(params, on_device)
                if pending is not None:
                    yield pending[0], jax.device_get(pending[1])
                pending = batch, values
        if pending is not None:
            yield pending[0], jax.device_get(pending[1])

    def _layout(self, tokens: Tokens) -> Layout:
        """Choose the layout of a data set once: evaluations of the same set share their programs."""
        if tokens not in self.layouts:
            self.layouts[tokens] = choose_layout(
                tokens.lengths, self.batch_size, row_multiple=row_devices(self.mesh), seed=None
            )
        return self.layouts[tokens]
