"""Decode the msgpack that Flax wrote: nested maps of tensors, and nothing else.

The format can spell out any objects, and those take far more memory than the file: a MiB of empty maps became 65 MiB in
Flax's own reader, which also copies each tensor twice. Here what no tree of tensors has is refused where it stands, and
the tensors share the bytes that were read.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

_TENSOR = 1
"""The one kind of extension in a tree of parameters; the others are single numbers."""
_MOST_AXES = 32
_HEADER_BYTES = 512
"""More than the shape and dtype of any tensor take."""
_BINARY = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""How many bytes say the length of binary that follows, by its first byte."""
_MOST_ENTRIES = 2**10
"""Of one map; a model's layers are the most that stand side by side."""
_MOST_NAMES = 2**17
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def decode_tree(content: bytes) -> dict[str, Any]:
    """Return nested dictionaries of read-only arrays.

    Raises:
      ValueError: or another error of the decoders, for anything else.
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
        ext_hook=_tensor,
        object_pairs_hook=count,
        raw=False,
        strict_map_key=True,
        max_array_len=0,
        max_map_len=_MOST_ENTRIES,
    )
    if not isinstance(tree, dict):
        raise ValueError("it holds no tree of tensors")
    return _join_chunks(tree)


def _tensor(code: int, data: bytes) -> np.ndarray:
    """Decode (shape, dtype, bytes), which is msgpack once more."""
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
    """Return where the bytes of the binary value at `at` begin, and how many it declares."""
    width = _BINARY.get(data[at])
    if width is None:
        raise ValueError("a tensor has no numbers")
    begin = at + 1 + width
    return begin, int.from_bytes(data[at + 1 : begin], "big")


def _join_chunks(tree: dict[str, Any]) -> Any:
    """Put together the tensors above one GiB, which are written in parts."""
    if _CHUNKED not in tree:
        return {name: _join_chunks(part) if isinstance(part, dict) else part for name, part in tree.items()}
    shape, chunks = ([tree[part][str(i)] for i in range(len(tree[part]))] for part in ("shape", "chunks"))
    return np.concatenate(chunks).reshape(shape)
