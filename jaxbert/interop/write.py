"""Write a Hugging Face folder that PyTorch's transformers load as it is.

Each file is written beside its place and renamed, so that a reader sees the old file or the new one. Which
parameters and labels they are is the caller's knowledge.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.interop.tied import add_untied_copies


def save_folder(
    folder: Path | str,
    params: Mapping[str, Any],
    config: BertConfig,
    tokenizer: Any = None,
    *,
    architecture: str = "BertForSequenceClassification",
) -> Path:
    """Write `config.json`, `model.safetensors` and, where given, the tokenizer's files; return the folder.

    `params` is the stacked tree; its arrays keep their dtype, and the configuration says which.

    Raises:
      UserError: if the folder cannot be written.
    """
    folder = Path(folder)
    tensors = add_untied_copies(names.to_torch(params))
    if architecture == "BertModel":  # without a head, PyTorch saves no prefix
        tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
            staged = Path(scratch)
            save_file(tensors, staged / "model.safetensors", metadata={"format": "pt"})
            content = config_dict(config, architecture, tensors)
            (staged / "config.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
            shutil.copymode(staged / "config.json", staged / "model.safetensors")  # safetensors makes it private
            if tokenizer is not None:
                tokenizer.save_pretrained(staged)
            _publish(staged, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def _publish(staged: Path, folder: Path) -> None:
    """Move the finished files to their places, the configuration last: a folder with one is complete."""
    files = sorted((p for p in staged.iterdir()), key=lambda p: p.name == "config.json")
    for path in files:
        target = folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(target)


def config_dict(config: BertConfig, architecture: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the content of `config.json`, with the labels always spelled out and nothing of this machine."""
    content = config.to_diff_dict()
    content.pop("_name_or_path", None)
    id2label = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    content |= {
        "architectures": [architecture],
        "model_type": "bert",
        "dtype": _common_dtype(tensors),
        "id2label": {str(index): label for index, label in id2label.items()},
        "label2id": {label: index for index, label in id2label.items()},
    }
    if architecture.endswith("ForSequenceClassification"):
        problem = getattr(config, "problem_type", None)
        content["problem_type"] = problem or ("single_label_classification" if len(id2label) > 1 else None)
    return dict(sorted(content.items()))


def _common_dtype(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the widest dtype among the tensors: transformers load a whole model in the one that is named here."""
    return max((tensor.dtype for tensor in tensors.values()), key=lambda dtype: dtype.itemsize).name
