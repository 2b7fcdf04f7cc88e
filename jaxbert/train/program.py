"""The training computation of a run on its devices: model, task, optimizer, where each array lies, and the jitted step.

Which examples it is fed, and when it is evaluated and saved, is the caller's part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.batches import Batch, BatchSize, batch_size_of, one_row
from jaxbert.data.packing import Layout, choose_layout, padded_layout
from jaxbert.models.attention.base import Request
from jaxbert.models.attention.select import visited_tile
from jaxbert.models.encoder import Call
from jaxbert.models.functional import Model, Params, make_model
from jaxbert.tasks.base import Task
from jaxbert.train.compiled import Compiled
from jaxbert.train.optimizer import make_optimizer
from jaxbert.train.sharding import put_batch, row_alignment, row_devices, row_sharding, state_shardings
from jaxbert.train.start import compute_dtype, layer_call, with_dropout
from jaxbert.train.step import DeviceBatch, State, init_state, make_train_step


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
    def tx(self) -> optax.GradientTransformation:
        """The optimizer."""
        return make_optimizer(self.config.optimizer, self.total_steps)

    @cached_property
    def state_shardings(self) -> State:
        """Where each part of the state lies."""
        return state_shardings(self.mesh, self.tx, self.model.abstract_params)

    @cached_property
    def call(self) -> Call:
        """How the layers run; one for training and evaluation, so that it says only once what it cannot have."""
        return layer_call(self.config.model, self.mesh)

    @property
    def state_target(self) -> State:
        """Shapes, dtypes and shardings of the state."""
        shapes = jax.eval_shape(partial(init_state, tx=self.tx), self.model.abstract_params)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.state_shardings
        )

    def first_state(self, params: Params) -> State:
        """Spread the first parameters over the devices and make the state around them."""
        shardings = self.state_shardings
        placed = jax.device_put(params, shardings["params"])
        return jax.jit(partial(init_state, tx=self.tx), out_shardings=shardings)(placed)

    def train_step(self) -> Compiled:
        """Return the step, `(state, batch, base_key) -> (state, sums)`; nothing is compiled yet."""
        slices = self.config.train.accumulation_steps
        return Compiled(
            make_train_step(self.model, self.task, self.tx, self.call, slices),
            donate_argnums=0,
            in_shardings=(self.state_shardings, row_sharding(self.mesh), None),
            out_shardings=(self.state_shardings, None),
        )

    @property
    def base_key(self) -> Array:
        """The key from which every step folds its own, on every device of the mesh."""
        return jax.device_put(jax.random.key(self.config.train.seed), self.state_shardings["step"])

    @property
    def key_target(self) -> jax.ShapeDtypeStruct:
        """Shape, dtype and sharding of the key."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=self.state_shardings["step"])

    def batch_target(self, layout: Layout, num_rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a batch of so many rows."""
        rows = row_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((num_rows, *array.shape[1:]), array.dtype, sharding=rows)
            for name, array in one_row(layout).items()
            if name != "example_ids"
        }

    def put(self, batch: Batch) -> DeviceBatch:
        """Send a packed batch to the devices."""
        return put_batch(batch, self.mesh)

    def count(self, batch: Batch) -> BatchSize:
        """Count a packed batch, with the pairs of tokens for which this program computes attention."""
        bert = self.model.config
        request = Request(
            dtype=jnp.dtype(compute_dtype(self.config.precision, self.mesh)).name,
            row_length=batch["segment_ids"].shape[1],
            head_width=bert.hidden_size // bert.num_attention_heads,
            dropout_rate=bert.attention_probs_dropout_prob,
        )
        return batch_size_of(batch, visited_tile(self.call.attention, request))


def make_task_model(config: Config, bert_config: BertConfig, task: Task, mesh: Mesh) -> Model:
    """Build the task's model with this run's dropout, and the number format of the mesh's devices."""
    dtype = compute_dtype(config.precision, mesh)
    return make_model(task.head, with_dropout(bert_config, config.model), dtype)


def training_layout(config: Config, lengths: np.ndarray, mesh: Mesh) -> Layout:
    """Choose row length, row counts and slots for training examples of these lengths."""
    batch_size = config.train.batch_size
    row_multiple = row_devices(mesh) * config.train.accumulation_steps
    if not config.data.packing:
        return padded_layout(lengths, batch_size, config.data.row_length, row_multiple)
    return choose_layout(
        lengths,
        batch_size,
        row_length=config.data.row_length,
        row_multiple=row_multiple,
        alignment=row_alignment(mesh),
        seed=config.train.seed,
    )
