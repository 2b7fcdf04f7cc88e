"""The training computation of a run on its devices: model, task, optimizer, where each array lies, and the jitted step.

Which examples it is fed, and when it is evaluated and saved, is the caller's part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.batches import HOST_KEYS, Batch, BatchSize, batch_size_of
from jaxbert.data.examples import Windows
from jaxbert.data.packing import Layout, choose_layout, padded_layout
from jaxbert.models.attention.base import Request
from jaxbert.models.attention.select import visited_tile
from jaxbert.models.encoder import Call
from jaxbert.models.functional import Model, Params, make_model
from jaxbert.tasks.base import Task
from jaxbert.train.compiled import Compiled
from jaxbert.train.dispatch import StepPrograms
from jaxbert.train.optimizer import make_optimizer, make_schedule
from jaxbert.train.sharding import (
    place,
    put_batch,
    replicated,
    row_alignment,
    row_devices,
    row_sharding,
    state_shardings,
    word_sharding,
)
from jaxbert.train.start import check_fp8, compute_dtype, layer_call, make_key, with_dropout
from jaxbert.train.step import Descent, DeviceBatch, State, init_state, make_group_step, make_train_step
from jaxbert.train.trained import Trained, choose_trained, rate_shares


@dataclass(frozen=True)
class Program:
    """What is compiled and where it runs."""

    config: Config
    mesh: Mesh
    model: Model
    task: Task
    total_steps: int
    """Optimizer steps over which the learning rate falls."""

    @cached_property
    def trained(self) -> Trained:
        """What is not frozen."""
        return choose_trained(self.config.optimizer, self.model.abstract_params)

    @cached_property
    def descent(self) -> Descent:
        """The optimizer."""
        config = self.config.optimizer
        shares = None if config.layer_decay is None else rate_shares(config.layer_decay, self.trained)
        schedule = make_schedule(config, self.total_steps)
        return Descent(make_optimizer(config, self.total_steps, shares), schedule, self.trained)

    @cached_property
    def state_shardings(self) -> State:
        """Where each part of the state lies."""
        return state_shardings(self.mesh, self._abstract_state)

    @cached_property
    def call(self) -> Call:
        """How the layers run; one for training and evaluation, so that it says only once what it cannot have."""
        words = word_sharding(self.mesh, self.model.config.hidden_size)
        return replace(layer_call(self.config.model, self.mesh), words=words)

    @property
    def state_target(self) -> State:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self._abstract_state, self.state_shardings
        )

    @property
    def _abstract_state(self) -> State:
        return jax.eval_shape(partial(init_state, descent=self.descent), self.model.abstract_params)

    def first_state(self, params: Params) -> State:
        """Spread the first parameters over the devices and make the state around them."""
        shardings = self.state_shardings
        placed = place(params, shardings["params"])
        return jax.jit(partial(init_state, descent=self.descent), out_shardings=shardings)(placed)

    def train_step(self) -> Compiled:
        """Return the step, `(state, batch, base_key) -> (state, sums)`; nothing is compiled yet."""
        return self.step_programs().one

    def step_programs(self) -> StepPrograms:
        """Return the step, and several of them in a loop; nothing is compiled yet."""
        slices = self.config.train.accumulation_steps
        call = replace(self.call, fp8=self.config.precision.fp8, frozen_layers=self.trained.frozen_layers)
        step = make_train_step(self.model, self.task, self.descent, call, slices)

        def compiled(fn: Callable, batch_sharding: NamedSharding) -> Compiled:
            return Compiled(
                fn,
                donate_argnums=0,
                in_shardings=(self.state_shardings, batch_sharding, None),
                out_shardings=(self.state_shardings, replicated(self.mesh)),
            )

        return StepPrograms(
            one=compiled(step, row_sharding(self.mesh)),
            several=compiled(make_group_step(step), row_sharding(self.mesh, stacked=True)),
        )

    @property
    def base_key(self) -> Array:
        """The key from which every step folds its own, on every device of the mesh."""
        return make_key(self.config.train.seed, self.state_shardings["step"])

    @property
    def key_target(self) -> jax.ShapeDtypeStruct:
        """Shape, dtype and sharding of the key."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=self.state_shardings["step"])

    def batch_target(self, like: Batch, num_rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a batch like another, of so many rows."""
        rows = row_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((num_rows, *array.shape[1:]), array.dtype, sharding=rows)
            for name, array in like.items()
            if name not in HOST_KEYS
        }

    def put(self, batch: Batch) -> DeviceBatch:
        """Send a packed batch to the devices."""
        return put_batch(batch, self.mesh)

    def put_group(self, group: list[Batch]) -> DeviceBatch:
        """Send the batches of a group to the devices: stacked, or the only one as it is."""
        if len(group) == 1:
            return self.put(group[0])
        stacked = {name: np.stack([batch[name] for batch in group]) for name in group[0]}
        return put_batch(stacked, self.mesh, stacked=True)

    def count(self, batch: Batch) -> BatchSize:
        """Count a packed batch, with the pairs of tokens for which this program computes attention."""
        request = self.attention_request(batch["segment_ids"].shape[1])
        return batch_size_of(batch, visited_tile(self.call.attention, request))

    def attention_request(self, row_length: int) -> Request:
        """Return what a training step asks of the attention's backend, for rows of so many tokens."""
        bert = self.model.config
        return Request(
            dtype=jnp.dtype(compute_dtype(self.config.precision, self.mesh)).name,
            row_length=row_length,
            head_width=bert.hidden_size // bert.num_attention_heads,
            dropout_rate=bert.attention_probs_dropout_prob,
        )


def make_task_model(config: Config, bert_config: BertConfig, task: Task, mesh: Mesh) -> Model:
    """Build the task's model with this run's dropout, and the number format of the mesh's devices.

    Raises:
      UserError: if the devices lack the format.
    """
    check_fp8(config.precision, mesh.devices.flat[0])
    dtype = compute_dtype(config.precision, mesh)
    return make_model(task.head, with_dropout(bert_config, config.model), dtype)


def training_layout(
    config: Config, lengths: np.ndarray, mesh: Mesh, alignment: int | None = None, windows: Windows | None = None
) -> Layout:
    """Choose row length, row counts and slots for training examples of these lengths.

    `alignment` is what row lengths are a multiple of; left out, what suits the mesh's devices.
    """
    batch_size = config.train.batch_size
    row_multiple = row_devices(mesh) * config.train.accumulation_steps
    if not config.data.packing:
        return padded_layout(lengths, batch_size, config.data.row_length, row_multiple, windows)
    return choose_layout(
        lengths,
        batch_size,
        row_length=config.data.row_length,
        row_multiple=row_multiple,
        alignment=alignment or row_alignment(mesh),
        seed=config.train.seed,
        windows=windows,
    )
