"""Damaged weights and the files beside them: safetensors, msgpack, shard indices and `config.json`."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
from flax import serialization
from fuzz_mutations import damage_bytes, damage_value, set_keys, write_json
from safetensors.numpy import save
from tiny import random_params, tiny_config, tiny_model, write_tiny

from jaxbert.interop import names
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import fit_params
from jaxbert.interop.read import read_tensors
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead

_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F4", "I64", "U8", "BOOL", "C64", "f32", "V8", "O")
_HEADER_WORDS = ("__metadata__", "format", "pt", "dtype", "shape", "data_offsets", [0, 0], [8, 0], [0, 2**60], *_DTYPES)
_LENGTHS = (0, 1, 7, 2**20, 2**27, 2**31, 2**32, 2**60, 2**63, 2**64 - 1)


def _tensors(dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "bert.embeddings.LayerNorm.gamma": (4,),
        "bert.pooler.dense.weight": (4, 4),
        "bert.encoder.layer.0.attention.self.query.kernel": (4, 3),
        "classifier.bias": (3,),
        "empty.weight": (0, 4),
    }
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


class Safetensors:
    """One file: its header's bytes, what the header says, or the length in front of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.safetensors"
        self._seeds = [
            save(_tensors(), metadata={"format": "pt"}),
            save(_tensors("float16")),
            save({"classifier.bias": np.zeros(3, np.float32)}, metadata={"format": "flax", "note": "x" * 50}),
        ]

    def write(self, rng: Random) -> list[Path]:
        """Write a damaged file."""
        seed = rng.choice(self._seeds)
        length = struct.unpack("<Q", seed[:8])[0]
        header, numbers = seed[8 : 8 + length], seed[8 + length :]
        kind = rng.randrange(10)
        if kind < 4:
            content = damage_bytes(rng, seed, tuple(json.dumps(word).encode() for word in _HEADER_WORDS))
        else:
            if kind < 9:
                header = write_json(rng, damage_value(rng, json.loads(header), _HEADER_WORDS))
            declared = rng.choice(_LENGTHS) if rng.random() < (0.1 if kind < 9 else 1) else len(header)
            content = struct.pack("<Q", declared) + header + numbers
        self.path.write_bytes(content)
        return [self.path]

    def read(self) -> None:
        """Read it as a model's weights."""
        read_tensors(self.path)


class Msgpack:
    """One file: its bytes, the tree in it, a tensor's own encoding, or lengths that nothing follows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "flax_model.msgpack"
        self._tree = {"params": names.unstack_layers(names.from_torch(_whole())), "empty": {}}
        big = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3}}
        chunks = {"0": np.arange(4, dtype=np.float32), "1": np.arange(2, dtype=np.float32)}
        self._trees: list[Any] = [
            {"classifier": {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float16)}},
            {"a": {**big, "chunks": chunks}, "b": np.ones((), jnp.bfloat16)},
            self._tree["params"],
        ]

    def write(self, rng: Random) -> list[Path]:
        """Write a damaged file."""
        kind = rng.randrange(8)
        if kind == 0:
            content = _unkept_promises(rng)
        elif kind < 4:
            tree = damage_value(
                rng, rng.choice(self._trees[:2]), (np.float32(1), {"0": 2}, "__msgpack_chunked_array__")
            )
            content = _pack(rng, tree)
        else:
            content = damage_bytes(
                rng, serialization.to_bytes(rng.choice(self._trees)), (b"\xdd", b"\xdf", b"\xc9\x01")
            )
        self.path.write_bytes(content[: 2**19])
        return [self.path]

    def read(self) -> None:
        """Read it as a model's weights."""
        read_tensors(self.path)


def _whole() -> dict[str, np.ndarray]:
    model = tiny_model(num_hidden_layers=1, hidden_size=4, num_attention_heads=1, intermediate_size=4, vocab_size=8)
    return names.to_torch(random_params(model))


def _pack(rng: Random, tree: Any) -> bytes:
    """Encode as Flax does, each tensor with parts of its own encoding replaced now and then."""

    def encode(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray | np.generic):
            return str(leaf)
        parts: list[Any] = [list(leaf.shape), leaf.dtype.name, leaf.tobytes()]
        if rng.random() < 0.4:
            parts = damage_value(
                rng, parts[:2], ("object", "V4", "S0", "float64", "(9,)f4", "M8", -1, [2**40], [2**32] * 4)
            )
            parts = [*parts, leaf.tobytes()] if isinstance(parts, list) else [parts]
        code = rng.choice((1, 1, 1, 1, 2, 3, 4, -1))
        return msgpack.ExtType(code, _packed(parts))

    return _packed(tree, encode)


def _packed(value: Any, encode: Any = str) -> bytes:
    try:
        return msgpack.packb(value, default=encode)
    except (OverflowError, ValueError):  # numbers and depths that the format cannot hold
        return msgpack.packb(str(value)[:1000], unicode_errors="surrogatepass")


def _unkept_promises(rng: Random) -> bytes:
    """Nest arrays, maps and strings that declare far more than the file holds."""
    heads = (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")
    content = b""
    for _ in range(rng.choice((1, 3, 600, 2000))):
        head = rng.choice(heads[:2] if rng.random() < 0.9 else heads)
        content += head + rng.choice((2**10, 2**13, 2**18, 2**31, 2**32 - 1)).to_bytes(4, "big")
        content += b"\xa1a" if head == b"\xdf" else b""
    return content + rng.choice((b"\0", b"\x80", b"\x90")) * rng.choice((0, 2000, 500_000))


class Index:
    """A shard index beside two good shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "model"
        self._folder.mkdir()
        self.path = self._folder / "model.safetensors.index.json"
        listed = sorted(_tensors())
        self._seed: dict[str, Any] = {"metadata": {"total_size": 100}, "weight_map": {}}
        for i, part in enumerate((listed[::2], listed[1::2]), 1):
            name = f"model-0000{i}-of-00002.safetensors"
            (self._folder / name).write_bytes(save({n: _tensors()[n] for n in part}))
            self._seed["weight_map"] |= dict.fromkeys(part, name)
        (folder / "secret.safetensors").write_bytes(save({"classifier.bias": np.ones(3, np.float32)}))
        shards = (
            "../secret.safetensors",
            str(folder / "secret.safetensors"),
            "x" * 300 + ".safetensors",
            "a\0.safetensors",
        )
        self._words = (*shards, ".safetensors", "..", "config.json", "weight_map", "model-00001-of-00002.safetensors")

    def write(self, rng: Random) -> list[Path]:
        """Write a damaged index."""
        if rng.random() < 0.4:
            content = damage_bytes(rng, json.dumps(self._seed).encode(), tuple(map(str.encode, self._words)))
        else:
            content = write_json(rng, damage_value(rng, self._seed, self._words))
        self.path.write_bytes(content)
        return [self.path, *self._folder.glob("*.safetensors")]

    def read(self) -> None:
        """Read the folder."""
        found = read_tensors(self._folder)
        assert found.get("classifier.bias") is None or not (found["classifier.bias"] == 1).all(), "a file from outside"


class Config:
    """The `config.json` of a model, up to the list of the tensors that it should have."""

    def __init__(self, folder: Path) -> None:
        self._tensors = write_tiny(folder)
        self.path = folder / "config.json"
        self._seed = json.loads(self.path.read_text())
        bert = tiny_config().to_dict()
        methods = (
            "to_dict",
            "__class__",
            "__dict__",
            "from_dict",
            "save_pretrained",
            "num_labels",
            "auto_map",
            "_name_or_path",
        )
        keys = ("classifier_dropout", "problem_type", "attn_implementation", "configuration_files", "per_layer_config")
        self._keys = ("num_labels", "num_labels", *(key for key in self._seed if key != "model_type"))
        self._words = (
            *methods,
            *keys,
            *bert,
            "bert",
            "gelu",
            "load",
            "torch.load",
            {"AutoConfig": "evil.Config"},
            "regression",
        )

    def write(self, rng: Random) -> list[Path]:
        """Write a damaged configuration."""
        kind = rng.randrange(8)
        if kind < 2:
            content = damage_bytes(rng, json.dumps(self._seed).encode(), (b'"', b"{", b"[", b"null", b"1e999", b"\xff"))
        elif kind < 5:
            content = write_json(rng, damage_value(rng, self._seed, self._words))
        else:
            seed = {key: value for key, value in self._seed.items() if kind == 5 or "label" not in key}
            content = write_json(rng, set_keys(rng, seed, self._keys, (10**7, 10**9, 10**12)))
        self.path.write_bytes(content)
        return [self.path]

    def read(self) -> None:
        """Read it, and fit the weights to the model that it describes."""
        config = read_config(self.path.parent)
        fit_params(self._tensors, make_model(SequenceClassificationHead, config), key=None, source="model.safetensors")
