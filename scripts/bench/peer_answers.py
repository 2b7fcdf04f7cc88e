"""Train question answering with transformers in PyTorch, to compare its F1 with jaxbert's.

  python scripts/bench/split_squad.py xquad.en.json DATA
  python scripts/bench/peer_answers.py --model MINILM --train DATA/train.json --validation DATA/dev.json \
      --seed 0 --start START
  python scripts/bench/peer_answers.py --model START --train DATA/train.json --validation DATA/dev.json --output peer.json
  jaxbert train --config configs/xquad-en.yaml --model.name_or_path START --data.train DATA/train.json \
      --data.validation DATA/dev.json --train.keep_best false

The second command puts a new head on the encoder, or draws a new model (`--new mini --vocab vocab.txt` instead of
`--model`), so that both sides start from the same weights. Windows, n-best lists and scores are our own code, after the
examples of transformers and SQuAD's definition; Chinese answers are compared by character.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peer_loop
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering, set_seed

_BEST = 20
_LONGEST = 30


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Return question, context and answers of each question."""
    articles = json.loads(path.read_text("utf-8"))["data"]
    return [
        {"question": entry["question"], "context": paragraph["context"], "answers": entry["answers"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]


class Encoded:
    """Questions and contexts as windows."""

    def __init__(self, questions: list[dict], tokenizer: Any, max_length: int, stride: int) -> None:
        self.questions = questions
        found = tokenizer(
            [q["question"] for q in questions],
            [q["context"] for q in questions],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        self.ids, self.types, self.offsets = found["input_ids"], found["token_type_ids"], found["offset_mapping"]
        self.of_question = found["overflow_to_sample_mapping"]
        self.in_context = [[part == 1 for part in found.sequence_ids(i)] for i in range(len(self.ids))]
        self.answers = [self._answer(i) for i in range(len(self.ids))]

    def _answer(self, window: int) -> tuple[int, int]:
        """Return the first and the last token of the first answer in a window, or 0 and 0."""
        answer = self.questions[self.of_question[window]]["answers"][0]
        start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
        places = [i for i, inside in enumerate(self.in_context[window]) if inside]
        offsets = self.offsets[window]
        if offsets[places[0]][0] > start or offsets[places[-1]][1] < end:
            return 0, 0
        touched = [i for i in places if offsets[i][1] > start and offsets[i][0] < end]
        return touched[0], touched[-1]

    def collate(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a padded batch."""
        return {
            "input_ids": peer_loop.pad([self.ids[i] for i in chosen]),
            "attention_mask": peer_loop.pad([[1] * len(self.ids[i]) for i in chosen]),
            "token_type_ids": peer_loop.pad([self.types[i] for i in chosen]),
            "start_positions": torch.tensor([self.answers[i][0] for i in chosen]),
            "end_positions": torch.tensor([self.answers[i][1] for i in chosen]),
        }


def answers_of(model: Any, encoded: Encoded) -> list[str]:
    """Return the best answer to each question: the span with the largest sum of logits over its windows."""
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(encoded.questions)

    def collate(chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        return {k: v for k, v in encoded.collate(chosen).items() if "positions" not in k}

    outputs = peer_loop.predict(model, len(encoded.ids), collate)
    starts = [row.numpy() for out in outputs for row in out.start_logits]
    ends = [row.numpy() for out in outputs for row in out.end_logits]
    for window, number in enumerate(encoded.of_question):
        inside, offsets = encoded.in_context[window], encoded.offsets[window]
        for first in np.argsort(-starts[window])[:_BEST]:
            for last in np.argsort(-ends[window])[:_BEST]:
                allowed = last < len(inside) and first < len(inside) and inside[first] and inside[last]
                if not allowed or not 0 <= last - first < _LONGEST:
                    continue
                score = float(starts[window][first] + ends[window][last])
                text = encoded.questions[number]["context"][offsets[first][0] : offsets[last][1]]
                best[number] = max(best[number], (score, text))
    return [text for _, text in best]


def words(text: str) -> list[str]:
    """Return the words of an answer that are compared; each Chinese character is a word."""
    if re.search("[\u4e00-\u9fff]", text):
        dropped = {c for c in text if unicodedata.category(c).startswith("P")} | set(string.punctuation)
        return re.findall("[\u4e00-\u9fff]|[^\\s\u4e00-\u9fff]+", "".join(c for c in text.lower() if c not in dropped))
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def f1(found: list[str], gold: list[str]) -> float:
    """Return F1 over words."""
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold)) if common else 0.0


def evaluate(model: Any, encoded: Encoded) -> dict[str, float]:
    """Return exact match and F1."""
    pairs = [
        (words(text), [words(answer["text"]) for answer in question["answers"]])
        for text, question in zip(answers_of(model, encoded), encoded.questions, strict=True)
    ]
    return {
        "f1": float(np.mean([max(f1(found, gold) for gold in golds) for found, golds in pairs])),
        "exact_match": float(np.mean([found in golds for found, golds in pairs])),
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = peer_loop.make_parser("Train question answering and count answers.", new=True)
    parser.add_argument("--stride", type=int, default=64)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Put a head on an encoder, or train and evaluate."""
    values = parse_arguments(arguments)
    if values.new is not None:
        peer_loop.draw(values, BertForQuestionAnswering)
        return
    set_seed(values.seed)
    tokenizer = AutoTokenizer.from_pretrained(values.model)
    model = BertForQuestionAnswering.from_pretrained(values.model, dtype=torch.float32)
    if values.start is not None:
        model.save_pretrained(values.start)
        tokenizer.save_pretrained(values.start)
        return
    training = Encoded(read_questions(values.train), tokenizer, values.max_length, values.stride)
    result = peer_loop.train(values, model, len(training.ids), training.collate)
    for name in ("validation", "test"):
        path = getattr(values, name)
        if path is not None:
            held_out = Encoded(read_questions(path), tokenizer, values.max_length, values.stride)
            result[name] = evaluate(model, held_out)
    peer_loop.write(values, result)


if __name__ == "__main__":
    main()
