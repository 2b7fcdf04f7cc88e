"""Read a checkpoint of any program to float32 arrays with PyTorch names.

Finds the weights of a folder (one file or shards), converts old and foreign names to current ones, drops buffers, widens
half precision and refuses numbers that are not finite. `load` decides whether the tensors fit a model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open

from jaxbert.errors import UserError, is_panic
from jaxbert.interop.formats import Tensors, read_tensor_file
from jaxbert.models.families import DEFAULT
from jaxbert.models.families.base import Family
from jaxbert.plain import listed, read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack")
"""File names of a checkpoint's weights, best first; each may be sharded, with an index `NAME.index.json`."""

_FLAX_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

logger = logging.getLogger("jaxbert")


def find_weights(folder: Path) -> Path | None:
    """Return the best file of weights or shard index in `folder`, or None."""
    for name in WEIGHT_FILES:
        for candidate in (folder / name, folder / f"{name}.index.json"):
            if candidate.is_file():
                return candidate
    return None


def has_classifier(folder: Path, family: Family = DEFAULT) -> bool:
    """Return whether a checkpoint of a family has a classifier; only the names are read, if the format allows it.

    Return False for a file that cannot be read: `read_tensors` raises the error.
    """
    return _has_layer(folder, family.classifier)


def has_word_scores(folder: Path, family: Family = DEFAULT) -> bool:
    """Return whether a checkpoint of a family has the layers that score words; False for a file that cannot be read."""
    return _has_layer(folder, (*family.word_scores.split("."), "transform", "dense"))


def _has_layer(folder: Path, layer: tuple[str, ...]) -> bool:
    source = find_weights(folder)
    try:
        if source is None:
            names: Iterable[str] = ()
        elif source.suffix == ".json":
            names = read_json(source).get("weight_map") or ()
        elif source.suffix == ".safetensors":
            with safe_open(source, framework="np") as file:
                names = list(file.keys())
        else:
            names = read_tensor_file(source)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            return False
        raise
    endings = tuple((*layer, leaf) for leaf in ("weight", "kernel"))
    return any(tuple(re.split(r"[./]", str(name))[-len(endings[0]) :]) in endings for name in names)


def read_tensors(checkpoint: Path, family: Family = DEFAULT, *, keep_half: bool = False) -> Tensors:
    """Read a checkpoint folder, or one file of weights, to float32 arrays under PyTorch names with the family's prefix.

    With `keep_half`, float16 and bfloat16 are kept.

    Raises:
      UserError: for a missing or damaged file, or for tensors with numbers that are not finite.
    """
    source = checkpoint if checkpoint.is_file() else find_weights(checkpoint)
    if source is None:
        raise UserError(f"{checkpoint} holds no weights: expected {', '.join(WEIGHT_FILES)} or shards with an index")
    raw = _read_shards(source) if source.suffix == ".json" else read_tensor_file(source)
    return _normalize(raw, source, family, keep_half)


def _read_shards(index: Path) -> Tensors:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no `weight_map`: download or copy it again")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    tensors: Tensors = {}
    for name in sorted(set(map(str, weight_map.values()))):
        if name != Path(name).name or "\\" in name or Path(name).suffix != suffix:
            raise UserError(f"{index} names the shard {name!r}: only {suffix} files of its own folder are read")
        shard = read_tensor_file(index.parent / name)
        twice = sorted(tensors.keys() & shard.keys())
        if twice:
            raise UserError(f"{index.parent / name} repeats tensors of another shard: {listed(twice)}")
        tensors |= shard
    separator = "/" if suffix == ".msgpack" else "."
    lost = sorted({name.replace(separator, ".") for name in weight_map} - tensors.keys())
    if lost:
        raise UserError(f"{index} names tensors that its shards do not hold: {listed(lost)}")
    return tensors


def _normalize(raw: Tensors, source: Path, family: Family, keep_half: bool) -> Tensors:
    """Convert names, layout and dtype to current ones; the order is kept, and `raw` is emptied."""
    wrapper = wrapper_of(raw, family)
    if wrapper and not family.look_alikes & set(wrapper.split(".")) and all(name.startswith(wrapper) for name in raw):
        logger.warning("%s: the name of every tensor begins with %s, which is removed", source, wrapper)
    else:
        wrapper = ""
    bare = not any(name.startswith(f"{family.prefix}.", len(wrapper)) for name in raw)
    bare_parts = tuple(f"{part}." for part in (*family.below_heads, family.pooler))
    tensors: Tensors = {}
    for raw_name in list(raw):
        tensor = raw.pop(raw_name)  # so that the complete half and float32 copies are never both in memory
        *parents, leaf = raw_name[len(wrapper) :].split(".")
        if leaf in _FLAX_LEAVES:
            tensor = tensor.T if leaf == "kernel" else tensor
            leaf = _FLAX_LEAVES[leaf]
        elif parents and parents[-1] in family.norms:
            leaf = family.old_leaves.get(leaf, leaf)
        name = ".".join((*parents, leaf))
        if parents and leaf in family.buffers:
            continue
        if bare and name.startswith(bare_parts):
            name = f"{family.prefix}.{name}"
        if name in tensors:
            raise UserError(f"{source} holds {name} twice, once under an older name: keep one")
        tensors[name] = _to_float(tensor, name, source, keep_half)
    broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if broken:
        raise UserError(
            f"{source} holds numbers that are not finite, in {listed(broken)}: "
            "the file is damaged or its training diverged; take another copy"
        )
    return tensors


def wrapper_of(names: Iterable[str], family: Family) -> str:
    """Return the prefix of the names of the only encoder in a file, as `module.` or `model.bert.`; empty for none."""
    prefix, query = re.escape(family.prefix), re.escape(".".join((*family.layers, "0", family.query)))
    first_query = re.compile(rf"((?:[^.]+\.)*?)(?:{prefix}\.)?{query}\.(?:weight|kernel)")
    found = {match[1] for name in names if (match := first_query.fullmatch(name))}
    return found.pop() if len(found) == 1 else ""


def _to_float(tensor: np.ndarray, name: str, source: Path, keep_half: bool) -> np.ndarray:
    if tensor.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise UserError(f"{source} holds {name} as {tensor.dtype.name}: only floating-point weights can be read")
    if keep_half and tensor.dtype.itemsize == 2:
        return tensor
    with np.errstate(over="ignore"):  # an overflow is reported as not finite
        return tensor.astype(np.float32, copy=False)
