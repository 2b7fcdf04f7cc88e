"""Record the outputs of the Flax classes of transformers 4.57.6, for tests/parity/test_legacy_recorded.py.

  bash scripts/bench/legacy_env.sh .venv-legacy
  .venv-legacy/bin/python scripts/bench/legacy_record.py tests/api/flax/recorded

Writes a folder for each class: `config.json` and `flax_model.msgpack` of a tiny model with only random tensors, and
`recorded.npz` with three rows of tokens (padded on the right, on the left, and not at all) and all outputs for them; a
tuple of arrays is `out_NAME_0`, `out_NAME_1` and so on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import transformers

CLASSES = (
    "FlaxBertForPreTraining",
    "FlaxBertForNextSentencePrediction",
    "FlaxBertForMultipleChoice",
    "FlaxBertForQuestionAnswering",
)
ROWS, TOKENS, WORDS = 3, 8, 32


def make_model(name: str) -> Any:
    """Make a tiny model; every tensor is drawn, scales around 1."""
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=TOKENS,
    )
    model = getattr(transformers, name)(config)
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.Array) -> np.ndarray:
        return rng.normal(1.0 if path[-1].key == "scale" else 0.0, 0.3, leaf.shape).astype(np.float32)

    model.params = jax.tree_util.tree_map_with_path(draw, model.params)
    return model


def make_inputs(name: str) -> dict[str, np.ndarray]:
    """Draw rows [B, T], or two choices of the same rows [B, 2, T]."""
    rng = np.random.default_rng(1)
    shown = np.array([[1] * 5 + [0] * 3, [0] * 2 + [1] * 6, [1] * 8], np.int32)
    inputs = {
        "input_ids": rng.integers(1, WORDS, (ROWS, TOKENS), dtype=np.int32),
        "attention_mask": shown,
        "token_type_ids": np.tile((np.arange(TOKENS) > 3).astype(np.int32), (ROWS, 1)),
    }
    if name.endswith("MultipleChoice"):
        inputs = {key: np.stack([value, value[:, ::-1]], axis=1) for key, value in inputs.items()}
    return inputs


def record(name: str, folder: Path) -> None:
    """Write the folder of one class."""
    model, inputs = make_model(name), make_inputs(name)
    model.save_pretrained(folder)
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    arrays = {}
    for key, value in outputs.items():
        parts = {f"{key}_{i}": part for i, part in enumerate(value)} if isinstance(value, tuple) else {key: value}
        arrays |= {f"out_{part}": np.asarray(array) for part, array in parts.items()}
    np.savez_compressed(folder / "recorded.npz", **inputs, **arrays)


if __name__ == "__main__":
    for class_name in CLASSES:
        record(class_name, Path(sys.argv[1]) / class_name)
