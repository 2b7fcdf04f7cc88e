"""Makes a PyTorch classifier and its tokenizer from options, for peer.py and varlen.py."""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch
from recipe import VOCABULARY, new_model_settings
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForSequenceClassification, BertTokenizer

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def open_model(
    values: argparse.Namespace,
    num_labels: int,
    kind: type[BertForSequenceClassification] = BertForSequenceClassification,
) -> tuple[BertForSequenceClassification, Any]:
    """Load the checkpoint with a new classifier, or draw a new model; return the model, of this kind, and its tokenizer."""
    if values.model is not None:
        config = AutoConfig.from_pretrained(values.model, num_labels=num_labels)
        tokenizer = AutoTokenizer.from_pretrained(values.model)
        model = kind.from_pretrained(values.model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True)
        return model, tokenizer
    if values.vocab is None:
        words = (*_SPECIAL, *(f"w{i}" for i in range(VOCABULARY - len(_SPECIAL))))
        tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    else:
        tokenizer = BertTokenizer(vocab=str(values.vocab), do_lower_case=True)
    sizes = new_model_settings(values.new_model)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=num_labels, **sizes)
    return kind(config), tokenizer


def choose_device(values: argparse.Namespace) -> torch.device:
    """Return the GPU if there is one and the options do not decline it."""
    cuda = values.device == "auto" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def programs() -> int:
    """Return the number of programs that torch.compile has made."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return the device, its peak memory in bytes, and the number of CPU threads."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        "torch_threads": torch.get_num_threads(),
    }
