"""A tiny BERT with every tensor random, and checkpoints of it, for tests of conversion and parity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from transformers import BertConfig, BertTokenizer

from jaxbert.interop import names
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import FunctionalModel, Params, make_model
from jaxbert.models.heads import MaskedLM, PreTraining, SequenceClassificationHead


def tiny_config(**changes: Any) -> BertConfig:
    """Three layers, three labels."""
    labels = ["bad", "fair", "good"]
    settings = {
        "vocab_size": 120,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return BertConfig(**(settings | changes))


def tiny_model(**changes: Any) -> FunctionalModel:
    """The pure view of a tiny classifier."""
    return make_model(SequenceClassificationHead, tiny_config(**changes))


def random_params(model: FunctionalModel, seed: int = 0) -> Params:
    """Draw every tensor, biases and scales as well, so that no mistake hides behind a zero or a one."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        center = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(center, 0.2, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, model.abstract_params)


def random_rows(seed: int = 0, rows: int = 4, tokens: int = 12) -> dict[str, np.ndarray]:
    """Right-padded rows with a first and a second sentence."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, tokens + 1, rows)
    attention_mask = (np.arange(tokens)[None] < lengths[:, None]).astype(np.int32)
    input_ids = rng.integers(1, 120, (rows, tokens)).astype(np.int32) * attention_mask
    token_type_ids = (np.arange(tokens)[None] >= lengths[:, None] // 2).astype(np.int32) * attention_mask
    return {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}


def unpacked_batch(rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Give unpacked rows the keys of a packed batch."""
    ids = jnp.asarray(rows["input_ids"])
    return {
        "input_ids": ids,
        "token_type_ids": jnp.asarray(rows["token_type_ids"]),
        "segment_ids": jnp.asarray(rows["attention_mask"]),
        "position_ids": jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape),
        "cls_positions": jnp.zeros((len(ids), 1), jnp.int32),
    }


def write_tiny(folder: Path, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Write a tiny classifier as a Hugging Face folder; return its tensors under PyTorch names."""
    model = tiny_model(**changes)
    params = random_params(model, seed)
    save_folder(folder, params, model.config)
    return names.to_torch(params)


def write_word_model(folder: Path, words: Sequence[str], head: Any = MaskedLM, **changes: Any) -> Path:
    """Write a model with a head over words; its vocabulary has two rows more than its tokenizer tokens."""
    settings = {"vocab_size": len(words) + 2, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**settings, intermediate_size=32, max_position_embeddings=40, pad_token_id=0, **changes)
    folder.mkdir()
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n")
    model = make_model(head, config)
    architecture = {MaskedLM: "ForMaskedLM", PreTraining: "ForPreTraining"}[head]
    save_folder(folder, random_params(model), config, BertTokenizer(vocab=str(vocab)), architecture=architecture)
    vocab.unlink()
    return folder


def write_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Replace the weights of a folder."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def assert_same_tensors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compare names, dtypes and every bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
