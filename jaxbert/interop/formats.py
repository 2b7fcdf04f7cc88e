"""Read one file of weights: safetensors, PyTorch `.bin`, legacy Flax msgpack.

A reader returns the tensors under the names in the file. Only tensors are built from a file: PyTorch pickles are read with
`weights_only=True`. `read` finds the files of a checkpoint and normalizes the names.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
from flax import traverse_util
from safetensors import safe_open

from jaxbert.errors import UserError, is_panic, one_line
from jaxbert.plain import shown

Tensors = dict[str, np.ndarray]

_KNOWN_LAYOUTS = ("pt", "flax", "np", "mlx")
_MOST_HEADER = 2**23
"""The most bytes of a safetensors header; that of BERT-large has some ten thousand."""
_OLDEST_TORCH = (2, 10)
"""In older versions, a file read with `weights_only=True` could write outside its memory (CVE-2026-24747)."""
_TENSOR = 1
"""The msgpack extension code of a tensor; the other codes are single numbers."""
_MOST_AXES = 32
_HEADER_BYTES = 512
"""More bytes than the shape and dtype of any tensor need."""
_BINARY = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""The first byte of a msgpack binary value, and the number of bytes that give its length."""
_MOST_ENTRIES = 2**10
"""The most entries of one map; the largest map of a model holds its layers."""
_MOST_NAMES = 2**17
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def _damaged(path: Path, kind: str, why: object) -> UserError:
    return UserError(f"{path} is not a complete {kind} file ({why}): download or copy it again")


def _check_start(path: Path, kind: str) -> None:
    """Raise `UserError` for the two most common broken files, before a parser fails on them."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise _damaged(path, kind, "it is empty")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not weights: run `git lfs pull` in its folder")


def read_safetensors(path: Path) -> Tensors:
    """Read a safetensors file; its header is checked completely, its numbers have no checksum."""
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    if header_bytes > _MOST_HEADER:
        raise _damaged(path, "safetensors", f"its header claims {header_bytes} bytes")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
            layout = metadata.get("format") if metadata else "pt"
            if layout not in _KNOWN_LAYOUTS:
                raise ValueError(f"its layout is {shown(layout)}, expected {' or '.join(_KNOWN_LAYOUTS)}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except BaseException as error:
        if isinstance(error, MemoryError) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise _damaged(path, "safetensors", one_line(error)) from error


def read_bin(path: Path) -> Tensors:
    """Check the checksums of a PyTorch file, and read it with `weights_only=True`."""
    _check_torch(path)
    import torch

    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost any exception in the unpickler
        reason = "it holds objects that are not tensors" if "nsupported" in str(error) else one_line(error)
        raise _damaged(path, "PyTorch weights", reason) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is not a state dict: save it by `torch.save(model.state_dict(), ...)`")
    try:
        # Tied weights share numbers; if all tensors shared them, a small file could become any size.
        if sum(tensor.nbytes for tensor in state.values()) > 2 * path.stat().st_size:
            raise ValueError("its tensors overlap")
        return {str(name): _from_torch_tensor(tensor) for name, tensor in state.items()}
    except Exception as error:  # sparse, quantized or meta tensors raise different exceptions
        raise _damaged(path, "PyTorch weights", one_line(error)) from error


def _check_torch(path: Path) -> None:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} is a PyTorch file: reading it needs `pip install 'jaxbert[torch]'`") from error
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _OLDEST_TORCH:
        oldest = ".".join(map(str, _OLDEST_TORCH))
        raise UserError(
            f"{path} is a PyTorch file, and torch {torch.__version__} cannot read one safely: "
            f"`pip install 'torch>={oldest}'`, or take model.safetensors"
        )


def _check_archive(path: Path) -> None:
    """Compare checksums; compressed entries are refused, since PyTorch writes none and they could unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, which PyTorch's own files are not")
        broken = archive.testzip()
    if broken:
        raise ValueError(f"the checksum of {broken} does not match")


def _from_torch_tensor(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def read_msgpack(path: Path) -> Tensors:
    """Read a legacy `flax_model.msgpack`; its nested names are joined by dots."""
    try:
        flat = traverse_util.flatten_dict(_decode_tree(path.read_bytes()), sep=".")
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise any exception in the decoders
        raise _damaged(path, "Flax msgpack", one_line(error)) from error
    if not flat or not all(isinstance(leaf, np.ndarray) for leaf in flat.values()):
        raise _damaged(path, "Flax msgpack", "some leaves are not tensors")
    if all(name.startswith("params.") for name in flat):
        flat = {name.removeprefix("params."): leaf for name, leaf in flat.items()}
    return flat


def _decode_tree(content: bytes) -> dict[str, Any]:
    """Decode the msgpack that Flax wrote to nested dictionaries of read-only arrays, which share memory with `content`.

    The format can hold any objects, which take far more memory than the file: a MiB of empty maps became 65 MiB in Flax's
    own reader, which also copies each tensor twice. Here objects that no tree of tensors has are refused at once.

    Raises:
      ValueError: or another error of the decoders, for any other content.
    """
    names = 0

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal names
        names += len(pairs)
        if names > _MOST_NAMES:
            raise ValueError(f"it holds more than {_MOST_NAMES} names")
        return dict(pairs)

    tree = msgpack.unpackb(
        content,
        ext_hook=_unpack_tensor,
        object_pairs_hook=count,
        raw=False,
        strict_map_key=True,
        max_array_len=0,
        max_map_len=_MOST_ENTRIES,
    )
    if not isinstance(tree, dict):
        raise ValueError("it holds no tree of tensors")
    return _join_chunks(tree)


def _unpack_tensor(code: int, data: bytes) -> np.ndarray:
    """Decode a tensor: msgpack of (shape, dtype, bytes)."""
    if code != _TENSOR:
        raise ValueError("some leaves are not tensors")
    unpacker = msgpack.Unpacker(raw=False, max_array_len=_MOST_AXES, max_map_len=0, max_ext_len=0)
    unpacker.feed(data[:_HEADER_BYTES])
    if unpacker.read_array_header() != 3:
        raise ValueError("a tensor has no shape, dtype and numbers")
    shape, dtype = unpacker.unpack(), _DTYPES.get(unpacker.unpack())
    if dtype is None or not isinstance(shape, list) or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise ValueError("a tensor's shape or dtype is none")
    begin, length = _binary(data, unpacker.tell())
    if len(data) != begin + length or math.prod(shape) * dtype.itemsize != length:
        raise ValueError("a tensor has more or fewer numbers than its shape says")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape)


def _binary(data: bytes, at: int) -> tuple[int, int]:
    """Return the offset of the bytes of the binary value at `at`, and their declared number."""
    width = _BINARY.get(data[at])
    if width is None:
        raise ValueError("a tensor has no numbers")
    begin = at + 1 + width
    return begin, int.from_bytes(data[at + 1 : begin], "big")


def _join_chunks(tree: dict[str, Any]) -> Any:
    """Concatenate the chunks of tensors above one GiB."""
    if _CHUNKED not in tree:
        return {name: _join_chunks(part) if isinstance(part, dict) else part for name, part in tree.items()}
    shape, chunks = ([tree[part][str(i)] for i in range(len(tree[part]))] for part in ("shape", "chunks"))
    return np.concatenate(chunks).reshape(shape)


_READERS: dict[str, tuple[str, Callable[[Path], Tensors]]] = {
    ".safetensors": ("safetensors", read_safetensors),
    ".bin": ("PyTorch weights", read_bin),
    ".msgpack": ("Flax msgpack", read_msgpack),
}


def read_tensor_file(path: Path) -> Tensors:
    """Read one file of weights; its extension decides the format.

    Raises:
      UserError: if the file is missing, empty, damaged or of another kind.
    """
    if path.suffix not in _READERS:
        raise UserError(f"{path} is not a file of weights: expected {', '.join(_READERS)}")
    kind, reader = _READERS[path.suffix]
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing: download or copy it again")
        _check_start(path, kind)
        return reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
