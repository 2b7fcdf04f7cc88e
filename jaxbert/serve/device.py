"""One device of a server: a thread that computes one batch after the other with its own copy of the model.

Every device takes its batches from the same queue, so that none waits while another has work. The engine packs the batches
and gives the requests their answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import numpy as np

from jaxbert.config import MeshConfig
from jaxbert.data.batches import HOST_KEYS, Batch
from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.models.attention.select import Attention
from jaxbert.serve.onnx_engine import is_onnx
from jaxbert.serve.scheduler import Packed
from jaxbert.train.evaluate import Ensemble
from jaxbert.train.inference import TrainedModel
from jaxbert.train.sharding import batch_spread, make_mesh, platform_of, row_sharding


@dataclass
class ReadyBatch:
    """A batch that is ready for a device, or was computed."""

    packed: Packed
    examples: Examples
    batch: Batch
    values: list[np.ndarray] = field(default_factory=list)
    """Predictions of each model, [B, S, ...] or [B, T, ...]."""
    seconds: float = 0.0
    """Seconds from the first copy to the device to the last result."""


class Work(Protocol):
    """Where a device gets its batches, and what it does with them; every method may be called from several threads."""

    def next_batch(self, *, may_wait: bool) -> ReadyBatch | None:
        """Return the next batch; None if nobody waits, or, if it `may_wait`, there will be no more."""

    def next_if_full(self) -> ReadyBatch | None:
        """Return the next batch if it would not change by waiting."""

    def give(self, batch: ReadyBatch) -> None:
        """Take the predictions of a batch."""

    def fail(self, packed: Packed, error: Exception) -> None:
        """Take the error of a batch."""


class Device:
    """Computes batches on one device."""

    def __init__(self, model: TrainedModel, work: Work, name: str) -> None:
        """Prepare the thread, which `start` begins.

        Args:
          model: a model whose mesh is this device.
          work: the batches.
          name: the name of the thread.
        """
        self.model, self._work = model, work
        self._members = model.params if isinstance(model.predictor, Ensemble) else [model.params]
        self._overlaps = not is_onnx(model)  # JAX computes while this thread goes on; onnxruntime keeps it
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.start: Callable[[], None] = self._thread.start

    @property
    def alive(self) -> bool:
        """Whether it computes."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until there are no more batches."""
        if self._thread.ident is not None:
            self._thread.join()

    def compute(self, batch: Batch) -> list[np.ndarray]:
        """Compute a batch at once, in the calling thread; return the predictions of each model."""
        return [jax.device_get(handle) for handle in self._dispatch(batch)]

    def _run(self) -> None:
        """Compute batches until there are no more."""
        ready: ReadyBatch | None = None
        finished: ReadyBatch | None = None
        while True:
            current = ready or self._work.next_batch(may_wait=finished is None)
            if current is None and finished is None:
                return
            begun = time.perf_counter()
            handles = None if current is None else self._begin(current)
            if finished is not None:
                self._work.give(finished)  # while the next batch is computed
            ready = finished = None
            if current is not None and handles is not None:
                ready = self._work.next_if_full() if self._overlaps else None
                finished = self._finish(current, handles, begun)
            if finished is not None and not self._overlaps:
                self._work.give(finished)  # now: its requests would wait for the next batch too
                finished = None

    def _begin(self, batch: ReadyBatch) -> list[Any] | None:
        """Send a batch to the device; None, after its requests have failed, if there is an error."""
        try:
            return self._dispatch(batch.batch)
        except Exception as error:
            self._work.fail(batch.packed, error)
            return None

    def _finish(self, batch: ReadyBatch, handles: list[Any], begun: float) -> ReadyBatch | None:
        """Wait for a batch; None, after its requests have failed, if there is an error."""
        try:
            batch.values = [jax.device_get(handle) for handle in handles]
        except Exception as error:
            self._work.fail(batch.packed, error)
            return None
        batch.seconds = time.perf_counter() - begun
        return batch

    def _dispatch(self, batch: Batch) -> list[Any]:
        # JAX sends the arrays to the device of the parameters itself, in a quarter of the time of `device_put`.
        arrays: Any = {name: array for name, array in batch.items() if name not in HOST_KEYS}
        return [self.model.predictor.step(params, arrays) for params in self._members]


def copies_of(model: TrainedModel, count: int | None) -> list[TrainedModel]:
    """Return a copy of a model for each of `count` devices; None: for every GPU or TPU, or one on CPU.

    Raises:
      UserError: if there are not so many devices.
    """
    devices = list(model.predictor.mesh.devices.flat)
    if count is not None and count > len(devices):
        raise UserError(f"--devices is {count}, but this process has {len(devices)}: lower it, or leave it out")
    if len(devices) == 1:
        return [model]
    wanted = count or (1 if platform_of(model.predictor.mesh) == "cpu" else len(devices))
    return [_copy_on(model, device) for device in devices[:wanted]]


def _copy_on(model: TrainedModel, device: jax.Device) -> TrainedModel:
    """Return a model that computes on one device."""
    mesh = make_mesh(MeshConfig(), [device])
    spread, call = batch_spread(mesh), model.predictor.call
    assert isinstance(call.attention, Attention)
    changed = replace(
        call,
        fuse_lookup=device.platform == "cpu",
        attention=replace(call.attention, spread=spread),
        residual_norm=replace(call.residual_norm, spread=spread),
        rows=row_sharding(mesh),
    )
    predictor = replace(model.predictor, mesh=mesh, call=changed)
    return replace(model, predictor=predictor, params=jax.tree.map(lambda array: _part_on(array, device), model.params))


def _part_on(array: Any, device: jax.Device) -> jax.Array:
    """Return an array on one device: what is there already, if it is whole."""
    if isinstance(array, jax.Array) and array.is_fully_replicated:
        for shard in array.addressable_shards:
            if shard.device == device:
                return shard.data
    return jax.device_put(array, device)
