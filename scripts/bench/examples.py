"""Examples for the peers: raw TSV files through a transformers tokenizer, or random tokens of drawn lengths."""

from __future__ import annotations

import argparse
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Example = dict[str, Any]
Rows = list[tuple[str, str]]

_SYNTHETIC_STEPS = 64
_FIRST_WORD = 5
"""The first id that is not a special token."""


@dataclass(frozen=True)
class Parts:
    """Tokenized examples, unpadded, and the names of their labels."""

    train: list[Example]
    validation: list[Example] | None
    test: list[Example] | None

    @property
    def mean_tokens(self) -> float:
        """The mean length of the training examples in tokens, special tokens included."""
        return round(sum(len(example["input_ids"]) for example in self.train) / len(self.train), 3)

    @property
    def checksum(self) -> int:
        """A number that is the same for two tokenizations only if all training tokens and labels agree."""
        crc = 0
        for example in self.train:
            crc = zlib.crc32(np.array([*example["input_ids"], example["labels"]], np.int32).tobytes(), crc)
        return crc

    def describe(self) -> dict[str, Any]:
        """Return a description of the data for a result."""
        return {"train_examples": len(self.train), "mean_tokens": self.mean_tokens, "tokens_crc32": self.checksum}


def read_tsv(path: Path, text: str, label: str, columns: str | None, limit: int | None = None) -> Rows:
    """Read (text, label) pairs; fields are raw, and quotes have no special meaning."""
    lines = path.read_text("utf-8-sig").split("\n")
    names = columns.split(",") if columns else lines.pop(0).rstrip("\r").split("\t")
    missing = [name for name in (text, label) if name not in names]
    if missing:
        raise SystemExit(f"error: {path} has no column {missing[0]!r}: it has {', '.join(names)}")
    rows: Rows = []
    for line in lines:
        fields = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(fields) != len(names):
            raise SystemExit(f"error: {path}: {len(fields)} fields where {len(names)} were expected: {line[:80]!r}")
        rows.append((fields[names.index(text)], fields[names.index(label)].strip()))
    return rows[:limit]


def label_names(rows: Rows) -> list[str]:
    """Return the labels of the training rows in order: integers from 0 by value, names by alphabet."""
    found = {label for _, label in rows}
    if all(label.isdigit() for label in found):
        return [str(i) for i in range(max(int(label) for label in found) + 1)]
    return sorted(found)


def tokenize(rows: Rows, names: list[str], tokenizer: Any, max_length: int) -> list[Example]:
    """Turn rows into unpadded examples."""
    ids = {name: i for i, name in enumerate(names)}
    unknown = {label for _, label in rows} - set(ids)
    if unknown:
        raise SystemExit(f"error: labels {sorted(unknown)} are not among the training rows' {names}")
    encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=max_length)
    columns = list(encoded)
    return [{**{name: encoded[name][i] for name in columns}, "labels": ids[label]} for i, (_, label) in enumerate(rows)]


def training_rows(values: argparse.Namespace) -> Rows:
    """Read the training rows that the options name; empty if lengths are drawn."""
    if values.lengths:
        return []
    return read_tsv(values.train, values.text, values.label, values.columns, values.limit)


def open_parts(values: argparse.Namespace, rows: Rows, tokenizer: Any) -> Parts:
    """Tokenize all parts, or draw the training examples."""
    if values.lengths:
        return Parts(draw(values, len(tokenizer)), None, None)
    names = label_names(rows)
    others = [
        None if path is None else read_tsv(path, values.text, values.label, values.columns)
        for path in (values.validation, values.test)
    ]
    parts = [None if part is None else tokenize(part, names, tokenizer, values.max_length) for part in (rows, *others)]
    assert parts[0] is not None
    return Parts(parts[0], parts[1], parts[2])


def draw(values: argparse.Namespace, vocabulary: int) -> list[Example]:
    """Draw random tokens with two labels; the lengths are those of `jaxbert bench` with the same options."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # jaxbert may not be installed
    from jaxbert.plan.lengths import draw_lengths

    count = values.limit or _SYNTHETIC_STEPS * values.batch_size
    lengths = draw_lengths(values.lengths, count, values.max_length, values.seed)
    rng = np.random.default_rng(values.seed)
    ends = np.cumsum(lengths)
    ids = np.split(rng.integers(min(_FIRST_WORD, vocabulary - 1), vocabulary, ends[-1]), ends[:-1])
    labels = rng.integers(0, 2, count).tolist()
    return [
        {"input_ids": row.tolist(), "attention_mask": [1] * len(row), "labels": label}
        for row, label in zip(ids, labels, strict=True)
    ]


def read_changes(flags: list[str]) -> dict[str, dict[str, Any]]:
    """Return the keys of flags such as `--train.epochs 5` by their section, for `finetune` and `make_config`."""
    changes: dict[str, dict[str, Any]] = {}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        section, _, key = flag.removeprefix("--").partition(".")
        changes.setdefault(section, {})[key] = yaml.safe_load(value)
    return changes
