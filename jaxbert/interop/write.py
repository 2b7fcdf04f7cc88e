"""Write a Hugging Face folder that transformers with PyTorch load without changes.

Each file is written to a temporary folder and renamed, so that a reader sees the old file or the new one. The caller gives
the parameters and labels.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import save_file
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.models.families import family_of

SAFETENSORS, MSGPACK = "model.safetensors", "flax_model.msgpack"
_UNITS = {
    "": 1,
    "K": 1000,
    "M": 1000**2,
    "G": 1000**3,
    "T": 1000**4,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def save_folder(
    folder: Path | str,
    params: Mapping[str, Any],
    config: BertConfig,
    tokenizer: Any = None,
    *,
    architecture: str = "ForSequenceClassification",
) -> Path:
    """Write `config.json`, `model.safetensors` and, if given, the tokenizer's files; return the folder.

    `params` is the stacked tree; its arrays keep their dtype, which the configuration names. `architecture` is PyTorch's
    class, with or without the name of the family.

    Raises:
      UserError: if the folder cannot be written.
    """
    return save_tensors(folder, names.to_torch(params), config, tokenizer, architecture=architecture)


def save_tensors(
    folder: Path | str,
    tensors: Mapping[str, np.ndarray],
    config: BertConfig,
    tokenizer: Any = None,
    *,
    architecture: str,
    max_shard_size: int | None = None,
    flax_tree: Mapping[str, Any] | None = None,
) -> Path:
    """Do `save_folder` for tensors under PyTorch names, which may be only a part of a model's.

    Args:
      folder: the folder to write.
      tensors: the tensors, with the family's prefix in their names.
      config: the model's configuration.
      tokenizer: the tokenizer; None to write none.
      architecture: PyTorch's class, with or without the name of the family.
      max_shard_size: the most bytes of one file; larger weights become shards with an index. None for one file.
      flax_tree: a per-layer tree on the host that is also written as `flax_model.msgpack`.
    """
    folder, family = Path(folder), family_of(config)
    architecture = family.class_of(architecture)
    tensors = names.add_untied_copies(dict(tensors), family)
    if architecture == family.class_of("Model"):  # without a head, PyTorch saves no prefix
        tensors = {name.removeprefix(f"{family.prefix}."): tensor for name, tensor in tensors.items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
            staged = Path(scratch)
            content = config_dict(config, architecture, tensors)
            (staged / "config.json").write_text(_legible(content) + "\n", "utf-8")
            _write_weights(staged, SAFETENSORS, tensors, max_shard_size, _write_safetensors)
            if flax_tree is not None:
                flat = traverse_util.flatten_dict(flax_tree, sep="/")
                _write_weights(staged, MSGPACK, flat, max_shard_size, _write_msgpack)
            if tokenizer is not None:
                tokenizer.save_pretrained(staged)
            _publish(staged, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def _legible(content: dict[str, Any]) -> str:
    """Return indented JSON in which a list of numbers is one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    numbers = re.compile(r"\[\n\s*([-+\d.eE]+(?:,\n\s*[-+\d.eE]+)*)\n\s*\]")  # in a string there is no line feed
    return numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def parse_size(size: int | str) -> int:
    """Return a number of bytes, given as a number or as text such as "300MB" or "2GiB".

    Raises:
      UserError: for any other text, or a number below 1.
    """
    match = re.fullmatch(r"(\d+) *([KMGT]?|[KMGT]I)B", size.strip().upper()) if isinstance(size, str) else None
    count = int(match[1]) * _UNITS[match[2]] if match else size
    if not isinstance(count, int) or count < 1:
        raise UserError(f"max_shard_size is {size!r}, but it must be a number of bytes, or text like '300MB' or '2GiB'")
    return count


def weights_in(folder: Path) -> set[str]:
    """Return the names of files in a folder that `save_tensors` may have written as weights, shards or indices."""
    kinds = (SAFETENSORS, MSGPACK)
    patterns = [re.escape(name).replace(r"\.", r"(-\d{5}-of-\d{5})?\.") + r"(\.index\.json)?" for name in kinds]
    return {p.name for p in folder.iterdir() if any(re.fullmatch(pattern, p.name) for pattern in patterns)}


def _write_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, np.ndarray],
    most: int | None,
    write: Callable[[dict[str, np.ndarray], Path], None],
) -> None:
    """Write one file with this name, or shards of at most `most` bytes and an index."""
    stem, suffix = name.split(".")
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=stem + "{suffix}." + suffix,
        max_shard_size=most or sum(tensor.nbytes for tensor in tensors.values()) + 1,
    )
    for file, keys in split.filename_to_tensors.items():
        write({key: tensors[key] for key in keys}, folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{name}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def _write_safetensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    shutil.copymode(path.parent / "config.json", path)  # safetensors makes it private


def _write_msgpack(tensors: dict[str, np.ndarray], path: Path) -> None:
    path.write_bytes(serialization.to_bytes(traverse_util.unflatten_dict(tensors, sep="/")))


def _publish(staged: Path, folder: Path) -> None:
    """Move the finished files to the folder, the configuration last: a folder with a configuration is complete.

    Weights come right before it, so that a stop seldom leaves them with the configuration of others. Weights, shards and
    `flax_model.msgpack` of an earlier save are removed if no file replaces them, since some readers prefer them.
    """
    weights = weights_in(staged)
    stale = weights_in(folder) - weights
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in sorted(staged.iterdir(), key=lambda path: (path.name == "config.json", path.name in weights)):
        target = folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
            continue
        if path.name == "config.json":
            for name in stale:
                (folder / name).unlink()
        path.replace(target)


def config_dict(config: BertConfig, architecture: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the content of `config.json`, always with label names and without paths of this machine."""
    content = config.to_diff_dict()
    content.pop("_name_or_path", None)
    id2label = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    content |= {
        "architectures": [architecture],
        "model_type": config.model_type,
        "dtype": _common_dtype(tensors),
        "id2label": {str(index): label for index, label in id2label.items()},
        "label2id": {label: index for index, label in id2label.items()},
    }
    if architecture.endswith("ForSequenceClassification"):
        problem = getattr(config, "problem_type", None)
        content["problem_type"] = problem or ("single_label_classification" if len(id2label) > 1 else None)
    return dict(sorted(content.items()))


def _common_dtype(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the name of the tensors' widest dtype: transformers load the complete model with this dtype."""
    return max((tensor.dtype for tensor in tensors.values()), key=lambda dtype: dtype.itemsize).name
