"""Predictions for any number of examples, in their own order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

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
from jaxbert.train.sharding import own_rows, put_batch, replicated, row_alignment, row_devices
from jaxbert.train.step import make_predict_step

_MOST_TOKENS = 16_384
"""Tokens of one step on one device, if all examples had the length of the longest."""


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
        step = make_predict_step(self.model, self.task, self.call)
        self.step = Compiled(step, out_shardings=replicated(self.mesh))  # every process sees all predictions

    def __call__(self, params: Params, tokens: Tokens) -> np.ndarray:
        """Return predictions [N, ...] in the order of `tokens`; every example is computed once."""
        own = partial(own_rows, self.mesh)
        source = batches(tokens, None, self._layout(tokens), self._examples_a_step(tokens), seed=None, own_rows=own)
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

    def _examples_a_step(self, tokens: Tokens) -> int:
        """Return `batch_size`, or fewer where examples are so long that their attention would not fit in memory."""
        longest = int(tokens.lengths.max())
        return min(self.batch_size, max(1, _MOST_TOKENS * row_devices(self.mesh) // longest))

    def _layout(self, tokens: Tokens) -> Layout:
        """Choose the layout of a data set once: evaluations of the same set share their programs."""
        if tokens not in self.layouts:
            self.layouts[tokens] = choose_layout(
                tokens.lengths,
                self._examples_a_step(tokens),
                row_multiple=row_devices(self.mesh),
                alignment=row_alignment(self.mesh),
                seed=None,
            )
        return self.layouts[tokens]
