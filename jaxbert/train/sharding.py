"""The mesh of devices and the sharding of every array. No other module arranges devices or assigns arrays to them."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import Array
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxbert.config import MeshConfig
from jaxbert.data.batches import HOST_KEYS
from jaxbert.errors import UserError
from jaxbert.interop.names import layer_axis
from jaxbert.models.attention.base import Spread
from jaxbert.models.functional import Params

logger = logging.getLogger("jaxbert")

ROWS = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are sharded."""
_NEVER_MIB = 1_000_000
"""A limit of size that no product reaches, in MiB."""

# The first match wins. A dimension whose size is not a multiple of its axis is replicated.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"layer/.*(query|key|value)/kernel", PartitionSpec(None, "fsdp", "tensor")),
    (r"layer/.*(query|key|value)/bias", PartitionSpec(None, "tensor")),
    (r"layer/attention/output/dense/kernel", PartitionSpec(None, "tensor", "fsdp")),
    (r"layer/intermediate/dense/kernel", PartitionSpec(None, "fsdp", "tensor")),
    (r"layer/intermediate/dense/bias", PartitionSpec(None, "tensor")),
    (r"layer/output/dense/kernel", PartitionSpec(None, "tensor", "fsdp")),
    # By width: few vocabularies are a multiple of anything, and the devices then exchange the step's tokens, not the table.
    (r"word_embeddings/embedding", PartitionSpec(None, "fsdp")),
    (r".*", PartitionSpec()),
)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Arrange the devices in axes `data`, `fsdp` and `tensor`.

    Raises:
      UserError: if the product of the sizes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(config)
    given = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % given or (-1 not in sizes.values() and given != len(devices)):
        raise UserError(
            f"mesh {sizes} does not fit {len(devices)} devices: set one axis to -1, or sizes whose product is {len(devices)}"
        )
    shape = [len(devices) // given if size == -1 else size for size in sizes.values()]
    return Mesh(arrange(shape, devices), tuple(sizes), axis_types=(AxisType.Auto,) * len(shape))


def arrange(shape: list[int], devices: list[Any]) -> np.ndarray:
    """Put devices that are neighbours in the mesh close together on the hardware.

    Slices of TPUs and nodes of GPUs are joined by a slower network, which only `data` uses where possible. A torus of TPUs
    may be cut anywhere: 8 devices of a slice of 4 x 4 x 4 are half of one of its axes.
    """
    slices = len({_slice_of(device) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, *within = shape
    if data % slices == 0:
        return mesh_utils.create_hybrid_device_mesh(
            [data // slices, *within], [slices, 1, 1], devices, allow_split_physical_axes=True
        )
    message = (
        "mesh.fsdp or mesh.tensor goes across %d slices or nodes, on a slow network: better mesh.data (%d or more)"
    )
    logger.info(message, slices, slices)
    return np.array(sorted(devices, key=lambda device: (_slice_of(device), device.id))).reshape(shape)


def _slice_of(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0


def platform_of(mesh: Mesh) -> str:
    """Return the platform of the mesh's devices, `cpu`, `gpu` or `tpu`, whatever platform this process runs on."""
    return mesh.devices.flat[0].platform


def xla_options(mesh: Mesh) -> dict[str, int] | None:
    """Return the options with which XLA compiles a program for a mesh; None for its own.

    XLA for TPU turns a product with a sharded kernel into a loop of small products, one for each device, and each reads and
    writes the complete result. The kernels of BERT are small: collecting them first moves half of the bytes (COMPILED,
    docs/performance.md).
    """
    if platform_of(mesh) != "tpu" or mesh.shape["fsdp"] == 1:
        return None
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": _NEVER_MIB}


def row_sharding(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
    """Return the sharding of every device-side array of a packed batch: its first axis over the data devices.

    Stacked batches have one more axis before it, which is not sharded.
    """
    return NamedSharding(mesh, PartitionSpec(None, ROWS) if stacked else PartitionSpec(ROWS))


def word_sharding(mesh: Mesh, width: int) -> NamedSharding | None:
    """Return the sharding of word vectors [B, T, D] as they leave the table: rows over `data`, width over `fsdp`."""
    if mesh.shape["fsdp"] == 1 or width % mesh.shape["fsdp"]:
        return None
    return NamedSharding(mesh, PartitionSpec("data", None, "fsdp"))


def own_rows(mesh: Mesh, num_rows: int) -> np.ndarray | None:
    """Return a mask of the batch's rows that lie on devices of this process, bool [B]; None if all do."""
    if jax.process_count() == 1:
        return None
    own = np.zeros(num_rows, bool)
    for index in row_sharding(mesh).addressable_devices_indices_map((num_rows,)).values():
        own[index] = True
    return own


def row_devices(mesh: Mesh) -> int:
    """Return the number of devices over which the rows are sharded."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def row_alignment(mesh: Mesh) -> int:
    """Return the number of which the row length should be a multiple: a TPU's lanes or a kernel's tile; 8 on CPU."""
    return 8 if mesh.devices.flat[0].platform == "cpu" else 128


def batch_spread(mesh: Mesh) -> Spread:
    """Return the sharding of what the kernels compute: rows like the batch, heads like the columns of the QKV kernels."""
    return Spread(mesh, ROWS, "tensor")


def param_shardings(mesh: Mesh, abstract_params: Params) -> Params:
    """Return the sharding of every parameter by `RULES`, as a tree like the parameters."""
    flat = traverse_util.flatten_dict(abstract_params, sep="/")
    return traverse_util.unflatten_dict(
        {n: NamedSharding(mesh, _spec(mesh, n, x.shape)) for n, x in flat.items()}, sep="/"
    )


@dataclass(frozen=True)
class Placed:
    """The placement of one parameter."""

    name: str
    pattern: str
    """The pattern of the rule that matched the parameter's name."""
    spec: PartitionSpec
    """The partition spec as applied: axes that do not divide the dimension are left out."""
    shape: tuple[int, ...]
    device_shape: tuple[int, ...]
    """The shape of one device's part."""


def placements(mesh: Mesh, abstract_params: Params) -> list[Placed]:
    """Return the placement of each parameter, grouped by rule in the order of `RULES`."""
    flat = traverse_util.flatten_dict(abstract_params, sep="/")
    placed = []
    for name, leaf in flat.items():
        sharding = NamedSharding(mesh, _spec(mesh, name, leaf.shape))
        pattern, _ = _rule(name)
        placed.append(Placed(name, pattern, sharding.spec, leaf.shape, sharding.shard_shape(leaf.shape)))
    order = [pattern for pattern, _ in RULES]
    return sorted(placed, key=lambda p: (order.index(p.pattern), p.name))


def _rule(name: str) -> tuple[str, PartitionSpec]:
    return next(rule for rule in RULES if re.search(rule[0], name))


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...]) -> PartitionSpec:
    _, rule = _rule(name)
    fits = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=False)
    ]
    return PartitionSpec(*fits)


def owner(path: tuple[Any, ...], names: Collection[str]) -> str | None:
    """Return the name of the parameter to which a leaf of the state belongs, or None, as for a counter.

    The leaf's path ends with that name.
    """
    parts = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((name for name in ends if name in names), None)


def state_shardings(mesh: Mesh, abstract_state: dict[str, Any]) -> dict[str, Any]:
    """Return the shardings of a train state: a leaf with its parameter's shape is sharded like it, others are replicated.

    The others are small: counters, factored statistics and placeholders. For a stack that is trained in part, the state has
    fewer layers than the parameter.
    """
    params = traverse_util.flatten_dict(abstract_state["params"], sep="/")

    def sharding_of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name, shape = owner(path, params), leaf.shape
        if name is None:
            return replicated(mesh)
        whole = params[name].shape
        stacked = layer_axis(tuple(name.split("/"))) is not None
        alike = shape == whole or (stacked and len(shape) == len(whole) and shape[1:] == whole[1:])
        return NamedSharding(mesh, _spec(mesh, name, shape)) if alike else replicated(mesh)

    return jax.tree.map_with_path(sharding_of, abstract_state)


def optimizer_bytes(state_target: dict[str, Any]) -> dict[str, int]:
    """Return the bytes per device of optimizer state and moving average for each parameter that has any."""
    params = traverse_util.flatten_dict(state_target["params"], sep="/")
    held: dict[str, int] = {}
    kept = {name: part for name, part in state_target.items() if name in ("opt_state", "ema")}
    for path, leaf in jax.tree.leaves_with_path(kept):
        name = owner(path, params)
        if name is not None:
            size = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            held[name] = held.get(name, 0) + size
    return held


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: Any, shardings: Any) -> Any:
    """Send host arrays, the same in every process, to the devices that `shardings` (one, or a tree of them) names.

    Each process sends the parts of its own devices and does not communicate.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def send(array: Any, sharding: NamedSharding) -> jax.Array:
        on_host = np.asarray(array)
        return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])

    return jax.tree.map(send, tree, shardings)


def make_key(seed: int, sharding: NamedSharding | None = None) -> Array:
    """Return `jax.random.key(seed)`, made on the host, because JAX would compile two programs for it."""
    words: Any = np.array([0, seed % 2**32], np.uint32)
    if sharding is not None:
        words = place(words, sharding)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, *, stacked: bool = False) -> dict[str, jax.Array]:
    """Send the device-side arrays of a packed batch to their devices."""
    on_device = {name: array for name, array in batch.items() if name not in HOST_KEYS}
    return place(on_device, row_sharding(mesh, stacked=stacked))
