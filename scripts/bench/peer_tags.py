"""Train a token classifier with transformers in PyTorch, to compare its entity F1 with jaxbert's.

  python scripts/bench/peer_tags.py --new tiny --vocab vocab.txt --train train.bmes --validation dev.bmes \
      --seed 0 --start START
  python scripts/bench/peer_tags.py --model START --train train.bmes --validation dev.bmes --test test.bmes --epochs 15 \
      --learning-rate 1e-3 --output peer.json
  jaxbert train --config configs/resume-ner.yaml --model.name_or_path START --train.keep_best false

The first command draws a model that both sides start from. Files have a token and its tag on each line. Entities are
counted by seqeval, in its default mode; what BMES writes as M is I there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peer_loop
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoTokenizer, BertForTokenClassification

Sentence = tuple[list[str], list[str]]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = peer_loop.make_parser("Train a token classifier and count entities.", new=True)
    values = parser.parse_args(arguments)
    if (values.model is None) != (values.start is not None):
        parser.error("give --model to train, or --new, --vocab and --start to draw a model")
    return values


def read_sentences(path: Path) -> list[Sentence]:
    """Read tokens and tags; a blank line ends a sentence."""
    sentences = []
    for block in path.read_text("utf-8").split("\n\n"):
        pairs = [line.rsplit(" ", 1) for line in block.split("\n") if line]
        if pairs:
            sentences.append(([token for token, _ in pairs], [tag for _, tag in pairs]))
    return sentences


class Encoded:
    """Sentences as token ids, with the tag of a word at its first token."""

    def __init__(self, sentences: list[Sentence], tokenizer: Any, tags: list[str], max_length: int) -> None:
        self.sentences = sentences
        found = tokenizer(
            [words for words, _ in sentences], is_split_into_words=True, truncation=True, max_length=max_length
        )
        self.ids = found["input_ids"]
        self.words = [found.word_ids(i) for i in range(len(sentences))]
        index = {tag: i for i, tag in enumerate(tags)}
        self.labels = [
            [-100 if w is None or w in words[:i] else index[own[w]] for i, w in enumerate(words)]
            for words, (_, own) in zip(self.words, sentences, strict=True)
        ]

    def collate(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a padded batch."""
        return {
            "input_ids": peer_loop.pad([self.ids[i] for i in chosen]),
            "attention_mask": peer_loop.pad([[1] * len(self.ids[i]) for i in chosen]),
            "labels": peer_loop.pad([self.labels[i] for i in chosen], -100),
        }


def evaluate(model: Any, encoded: Encoded, tags: list[str]) -> dict[str, float]:
    """Return the metrics of seqeval; a word without a token counts as outside."""
    rows = [row for out in peer_loop.predict(model, len(encoded.ids), encoded.collate) for row in out.logits.argmax(-1)]
    found, expected = [], []
    for row, labels, words, (_, own) in zip(rows, encoded.labels, encoded.words, encoded.sentences, strict=True):
        predicted = ["O"] * len(own)
        for place, (label, word) in enumerate(zip(labels, words, strict=True)):
            if label != -100:
                predicted[word] = tags[int(row[place])]
        found.append([_common(tag) for tag in predicted])
        expected.append([_common(tag) for tag in own])
    scores = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: float(score(expected, found, zero_division=0)) for name, score in scores.items()}


def _common(tag: str) -> str:
    return tag.replace("M-", "I-", 1) if tag.startswith("M-") else tag


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a model, or train one and evaluate it."""
    values = parse_arguments(arguments)
    sentences = read_sentences(values.train)
    tags = sorted({tag for _, own in sentences for tag in own})
    if values.start is not None:
        labels = {"id2label": dict(enumerate(tags)), "label2id": {tag: i for i, tag in enumerate(tags)}}
        peer_loop.draw(values, BertForTokenClassification, **labels)
        return
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    model = BertForTokenClassification.from_pretrained(values.model)
    training = Encoded(sentences, tokenizer, tags, values.max_length)
    result = peer_loop.train(values, model, len(sentences), training.collate)
    for name in ("validation", "test"):
        path = getattr(values, name)
        if path is not None:
            held_out = Encoded(read_sentences(path), tokenizer, tags, values.max_length)
            result[name] = evaluate(model, held_out, tags)
    peer_loop.write(values, result)


if __name__ == "__main__":
    main()
