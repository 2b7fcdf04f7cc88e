"""The only place where devices are arranged and arrays are assigned to them."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxbert.config import MeshConfig
from jaxbert.errors import UserError
from jaxbert.models.attention.select import Spread
from jaxbert.models.functional import Params

ROWS = ("data", "fsdp")
"""Mesh axes over which the rows of a batch are spread."""

# First match wins. A dimension that its axis does not divide stays whole.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"layer/.*(query|key|value)/kernel", PartitionSpec(None, "fsdp", "tensor")),
    (r"layer/.*(query|key|value)/bias", PartitionSpec(None, "tensor")),
    (r"layer/attention/output/dense/kernel", PartitionSpec(None, "tensor", "fsdp")),
    (r"layer/intermediate/dense/kernel", PartitionSpec(None, "fsdp", "tensor")),
    (r"layer/intermediate/dense/bias", PartitionSpec(None, "tensor")),
    (r"layer/output/dense/kernel", PartitionSpec(None, "tensor", "fsdp")),
    # By width: few vocabularies are a multiple of anything, and what moves is then the tokens of a step, not the table.
    (r"word_embeddings/embedding", PartitionSpec(None, "fsdp")),
    (r".*", PartitionSpec()),
)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Arrange the devices in axes `data`, `fsdp` and `tensor`.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(config)
    given = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % given or (-1 not in sizes.values() and given != len(devices)):
        raise UserError(
            f"mesh {sizes} does not fit {len(devices)} devices: set one axis to -1, or sizes whose product is {len(devices)}"
        )
    shape = [len(devices) // given if size == -1 else size for size in sizes.values()]
    axis_types = (AxisType.Auto,) * len(shape)
    # A torus of TPUs may be cut anywhere: 8 of a slice of 4 x 4 x 4 is half of one of its axes.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, tuple(sizes), axis_types=axis_types)


def platform_of(mesh: Mesh) -> str:
    """Return the platform of the mesh's devices: `cpu`, `gpu` or `tpu`, whatever this process runs on."""
    return mesh.devices.flat[0].platform


def row_sharding(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
    """Return the sharding of every device-side array of a packed batch: its first axis over the data devices.

    Batches that are stacked have an axis before it.
    """
    return NamedSharding(mesh, PartitionSpec(None, ROWS) if stacked else PartitionSpec(ROWS))


def row_devices(mesh: Mesh) -> int:
    """Return over how many devices the rows are spread."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def row_alignment(mesh: Mesh) -> int:
    """Return of what number rows should be a multiple: a TPU's lanes and a kernel's whole tiles, except on CPU."""
    return 8 if mesh.devices.flat[0].platform == "cpu" else 128


def attention_spread(mesh: Mesh) -> Spread:
    """Return how attention lies on the mesh: rows like the batch, heads like the columns of queries, keys and values."""
    return Spread(mesh, ROWS, "tensor")


def param_shardings(mesh: Mesh, abstract_params: Params) -> Params:
    """Return the sharding of every parameter by `RULES`, as a tree like the parameters."""
    flat = traverse_util.flatten_dict(abstract_params, sep="/")
    return traverse_util.unflatten_dict(
        {n: NamedSharding(mesh, _spec(mesh, n, x.shape)) for n, x in flat.items()}, sep="/"
    )


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...]) -> PartitionSpec:
    rule = next(spec for pattern, spec in RULES if re.search(pattern, name))
    fits = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=False)
    ]
    return PartitionSpec(*fits)


def state_shardings(mesh: Mesh, tx: optax.GradientTransformation, abstract_params: Params) -> dict[str, Any]:
    """Return shardings of a train state: moments lie where their parameters lie, counters everywhere."""

    def sharding_of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        """Go by the name of the parameter, which ends the path of its moments; a counter's is empty."""
        name = "/".join(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))
        return NamedSharding(mesh, _spec(mesh, name, leaf.shape))

    return {
        "step": NamedSharding(mesh, PartitionSpec()),
        "params": param_shardings(mesh, abstract_params),
        "opt_state": jax.tree.map_with_path(sharding_of, jax.eval_shape(tx.init, abstract_params)),
    }


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, *, stacked: bool = False) -> dict[str, jax.Array]:
    """Send the device-side arrays of a packed batch to their devices; `example_ids` stays on the host."""
    on_device = {name: array for name, array in batch.items() if name != "example_ids"}
    return jax.device_put(on_device, row_sharding(mesh, stacked=stacked))
