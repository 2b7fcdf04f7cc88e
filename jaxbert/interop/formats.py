"""Read one file of weights: safetensors, PyTorch `.bin`, legacy Flax msgpack.

A reader returns the tensors under the names in the file. Nothing but tensors is ever built from a file: PyTorch pickles
go through `weights_only=True`. Which files make up a checkpoint, and common names for them, are `read`'s part.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util
from safetensors import SafetensorError, safe_open

from jaxbert.errors import UserError

Tensors = dict[str, np.ndarray]

_KNOWN_LAYOUTS = ("pt", "flax", "np", "mlx")


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _damaged(path: Path, kind: str, why: object) -> UserError:
    return UserError(f"{path} is not a complete {kind} file ({why}): download or copy it again")


def _check_start(path: Path, kind: str) -> None:
    """Name the two commonest broken files before a parser stumbles over them."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise _damaged(path, kind, "it is empty")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not weights: run `git lfs pull` in its folder")


def read_safetensors(path: Path) -> Tensors:
    """Read a safetensors file; its header is checked whole, its numbers carry no checksum."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
            layout = metadata.get("format") if metadata else "pt"
            if layout not in _KNOWN_LAYOUTS:
                raise _damaged(path, "safetensors", f"its layout is {layout!r}, expected {' or '.join(_KNOWN_LAYOUTS)}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, "safetensors", one_line(error)) from error


def read_bin(path: Path) -> Tensors:
    """Read a PyTorch file by `weights_only=True`, after its checksums."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} is a PyTorch file: reading it needs `pip install 'jaxbert[torch]'`") from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken:
                raise ValueError(f"the checksum of {broken} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler meets damage with almost any exception
        reason = "it holds objects that are not tensors" if "nsupported" in str(error) else one_line(error)
        raise _damaged(path, "PyTorch weights", reason) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is not a state dict: save it by `torch.save(model.state_dict(), ...)`")
    return {str(name): _from_torch_tensor(tensor) for name, tensor in state.items()}


def _from_torch_tensor(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def read_msgpack(path: Path) -> Tensors:
    """Read a legacy `flax_model.msgpack`, its nested names joined by dots."""
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        flat = traverse_util.flatten_dict(tree, sep=".")
    except Exception as error:  # damage can surface anywhere in the decoders
        raise _damaged(path, "Flax msgpack", one_line(error)) from error
    if not flat or not all(isinstance(leaf, np.ndarray) for leaf in flat.values()):
        raise _damaged(path, "Flax msgpack", "some leaves are not tensors")
    if all(name.startswith("params.") for name in flat):
        flat = {name.removeprefix("params."): leaf for name, leaf in flat.items()}
    return flat


_READERS: dict[str, tuple[str, Callable[[Path], Tensors]]] = {
    ".safetensors": ("safetensors", read_safetensors),
    ".bin": ("PyTorch weights", read_bin),
    ".msgpack": ("Flax msgpack", read_msgpack),
}


def read_file(path: Path) -> Tensors:
    """Read one file of weights by its ending.

    Raises:
      UserError: if it is missing, empty, damaged or of another kind.
    """
    if path.suffix not in _READERS:
        raise UserError(f"{path} is no file of weights: expected {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"{path} is missing: download or copy it again")
    kind, reader = _READERS[path.suffix]
    _check_start(path, kind)
    return reader(path)
