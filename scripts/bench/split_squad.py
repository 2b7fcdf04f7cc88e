"""Split questions in SQuAD's JSON by paragraph: every fifth paragraph is for validation.

python scripts/bench/split_squad.py xquad.en.json FOLDER      writes FOLDER/train.json and FOLDER/dev.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

EVERY = 5


def split(articles: list[dict], held_out: bool) -> list[dict]:
    """Return the articles with only the paragraphs of one split."""
    count, parts = 0, []
    for article in articles:
        paragraphs = article["paragraphs"]
        chosen = [p for i, p in enumerate(paragraphs, count) if (i % EVERY == EVERY - 1) == held_out]
        count += len(paragraphs)
        parts.append({**article, "paragraphs": chosen})
    return [article for article in parts if article["paragraphs"]]


def main(source: str, folder: str) -> None:
    """Write both files."""
    content = json.loads(Path(source).read_text("utf-8"))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, held_out in (("train", False), ("dev", True)):
        articles = split(content["data"], held_out)
        questions = sum(len(p["qas"]) for article in articles for p in article["paragraphs"])
        (Path(folder) / f"{name}.json").write_text(
            json.dumps({**content, "data": articles}, ensure_ascii=False), "utf-8"
        )
        print(f"{name}: {questions} questions")


if __name__ == "__main__":
    main(*sys.argv[1:])
