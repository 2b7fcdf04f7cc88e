"""Small problems whose answers are tokens: words that are marked, and questions to a context."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from runs import FILLERS, TELLING, VOCAB

TASKS = ("token_classification", "question_answering")


def write_sentences(path: Path, count: int, seed: int = 0, longest: int = 24) -> Path:
    """Write a token and its BMES tag a line; telling words are marked by what they tell and, as they come, by a letter."""
    rng = random.Random(seed)
    blocks = []
    for _ in range(count):
        lines = []
        for _ in range(rng.randint(1, longest // 4)):
            lines += [f"{word} O" for word in rng.choices(FILLERS, k=rng.randint(1, 3))]
            label = rng.choice(list(TELLING))
            letters = rng.choice(["BE", "BME", "BMME"])
            lines += [f"{TELLING[label]['BME'.index(letter)]} {letter}-{label}" for letter in letters]
        blocks.append("\n".join(lines))
    path.write_text("\n\n".join(blocks) + "\n")
    return path


def write_questions(path: Path, count: int, seed: int = 0, longest: int = 24, unanswered: float = 0.0) -> Path:
    """Write questions in SQuAD's layout: the answer to a telling word is what follows it in the context."""
    rng = random.Random(seed)
    paragraphs = []
    for number in range(count):
        words = rng.choices(FILLERS, k=rng.randint(4, longest))
        asked = rng.choice([*TELLING["good"], *TELLING["bad"]])
        answers = []
        if rng.random() >= unanswered:
            at = rng.randrange(len(words) - 1)
            words[at] = asked
            start = len(" ".join(words[: at + 1])) + 1
            answers = [{"text": words[at + 1], "answer_start": start}]
        entry = {"id": f"q{number}", "question": f"what is {asked}", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [entry]})
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def write_problem(folder: Path, task: str, count: int = 100) -> dict[str, Any]:
    """Write training and validation files; return the settings of a run on them, in windows of 16 tokens."""
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    write = write_sentences if task == "token_classification" else write_questions
    extension = "bmes" if task == "token_classification" else "json"
    return {
        "task": task,
        "data.train": write(folder / f"train.{extension}", count),
        "data.validation": write(folder / f"dev.{extension}", 23, seed=1),
        "data.max_length": 16,
        "data.window_stride": 4,
    }
