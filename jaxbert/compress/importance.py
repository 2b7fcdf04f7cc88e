"""How much a model's loss depends on each of its parts, measured on examples.

Heads and columns: the first-order estimate of what the loss would change if a part gave 0: `w * dL/dw`, summed over the
part's rows of the kernel behind it, its absolute value for each batch (Michel et al., 2019, arXiv 1905.10650).
Layers: the loss itself without each of them, because a layer is too large for an estimate of first order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import Array

from jaxbert.compress.sizes import COLUMNS_OUT, HEADS_OUT, Remnant, Sizes
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.interop.names import layer_axis
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import FunctionalModel, Params, make_model
from jaxbert.tasks.base import Sums, Task
from jaxbert.train.programs import compute_dtype, training_layout
from jaxbert.train.run import Run
from jaxbert.train.sharding import own_rows, replicated, xla_options
from jaxbert.train.step import DeviceBatch


def choose_cut(run: Run, params: Params, sizes: Sizes, most: int) -> Remnant:
    """Choose what is left of a model of these parameters, by importance on up to `most` of the run's examples."""
    config = run.program.model.config
    now = Sizes.of(config)
    measured = [run.program.put(batch) for batch in _batches(run, most)]
    layers = np.arange(now.num_hidden_layers)
    heads, columns = (
        np.tile(np.arange(count), (len(layers), 1)) for count in (now.num_attention_heads, now.intermediate_size)
    )
    if (sizes.num_attention_heads, sizes.intermediate_size) != (now.num_attention_heads, now.intermediate_size):
        of_heads, of_columns = _scores(run, params, measured)
        heads, columns = _largest(of_heads, sizes.num_attention_heads), _largest(of_columns, sizes.intermediate_size)
    if sizes.num_hidden_layers != now.num_hidden_layers:
        layers = _layers(run, params, measured, sizes.num_hidden_layers)
    return Remnant(layers, heads[layers], columns[layers], config.hidden_size // now.num_attention_heads)


def _batches(run: Run, most: int) -> Iterator[Any]:
    """Yield batches of examples with labels: of the validation sets, else of the training set, the first ones of each."""
    sets = list(run.inputs.validation.values()) or [run.inputs.untaught().train]
    for examples in sets:
        part = examples.take(np.arange(min(len(examples), max(1, most // len(sets)))))
        layout = training_layout(run.config, part.tokens.lengths, run.program.mesh, windows=part.windows)
        size, own = run.config.train.batch_size, partial(own_rows, run.program.mesh)
        for batch in batches(_plain(part), layout, size, seed=None, own_rows=own):
            yield batch if run.inputs.collate is None else run.inputs.collate(batch, None)


def _plain(examples: Examples) -> Examples:
    return dataclasses.replace(examples, by_segment={}, by_token={})


def _loss(
    model: FunctionalModel, task: Task, call: ForwardOptions, params: Params, batch: DeviceBatch
) -> tuple[Array, Sums]:
    """Return the mean loss of a batch, without dropout, and its sums."""
    totals = task.totals(batch)
    sums = task.sums(model.apply(params, batch, None, call), batch, totals, train=False)
    return sums["loss"] / totals["examples"], sums


def _scores(run: Run, params: Params, measured: Sequence[DeviceBatch]) -> tuple[np.ndarray, np.ndarray]:
    """Return the importance of each head, float64 [N, H], and of each column, [N, F]."""
    program = run.program
    heads = program.model.config.num_attention_heads

    def of_batch(params: Params, batch: DeviceBatch) -> tuple[Array, Array]:
        loss = partial(_loss, program.model, program.task, program.call)
        grads = traverse_util.flatten_dict(jax.grad(loss, has_aux=True)(params, batch)[0])
        flat = traverse_util.flatten_dict(params)
        found = {path[at:]: flat[path] * grads[path] for path in flat if (at := layer_axis(path)) is not None}
        rows_ND = found[HEADS_OUT].sum(-1)
        return abs(rows_ND.reshape(len(rows_ND), heads, -1).sum(-1)), abs(found[COLUMNS_OUT].sum(-1))

    step = jax.jit(of_batch, out_shardings=replicated(program.mesh), compiler_options=xla_options(program.mesh))
    parts = [jax.device_get(step(params, batch)) for batch in measured]
    sums = [sum(part.astype(np.float64) for part in kind) for kind in zip(*parts, strict=True)]
    if not all(np.isfinite(kind).all() for kind in sums):
        raise UserError(
            "train.prune: the loss is not finite, so the importance of the parts cannot be measured: the model has diverged"
        )
    return sums[0], sums[1]


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest numbers of each row, rising; of equal ones the first."""
    return np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :count], axis=1)


def _layers(run: Run, params: Params, measured: Sequence[DeviceBatch], count: int) -> np.ndarray:
    """Remove, one after the other, the layer without which the loss is smallest; return those that are left."""
    left = np.arange(run.program.model.config.num_hidden_layers)
    while len(left) > count:
        without = [np.delete(left, place) for place in range(len(left))]
        losses = _losses(run, params, measured, without)
        left = without[int(np.argmin(losses))]
    return left


def _losses(run: Run, params: Params, measured: Sequence[DeviceBatch], choices: Sequence[np.ndarray]) -> list[float]:
    """Return the loss of the model with each choice of layers, all of one number."""
    program, mesh = run.program, run.program.mesh
    smaller = dataclasses.replace(Sizes.of(program.model.config), num_hidden_layers=len(choices[0]))
    dtype = compute_dtype(run.config.precision, mesh)
    model = make_model(program.model.head, smaller.applied(program.model.config), dtype)

    def of_batch(params: Params, batch: DeviceBatch, layers: Array) -> Mapping[str, Array]:
        flat = traverse_util.flatten_dict(params)
        kept = {path: leaf if layer_axis(path) is None else leaf[layers] for path, leaf in flat.items()}
        return _loss(model, program.task, program.call, traverse_util.unflatten_dict(kept), batch)[1]

    step = jax.jit(of_batch, out_shardings=replicated(mesh), compiler_options=xla_options(mesh))
    losses = []
    for layers in choices:
        sums = [jax.device_get(step(params, batch, layers)) for batch in measured]
        losses.append(sum(float(part["loss"]) for part in sums) / sum(int(part["examples"]) for part in sums))
    if not np.isfinite(losses).any():
        raise UserError("train.prune: the loss is not finite without any of the layers: the model has diverged")
    return [loss if np.isfinite(loss) else np.inf for loss in losses]
