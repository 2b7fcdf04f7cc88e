"""Divide the reviews in configs/reviews by language, into OUTPUT/train.en.csv, OUTPUT/train.zh.csv and so on."""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

REVIEWS = Path(__file__).resolve().parents[1] / "configs" / "reviews"


def language(text: str) -> str:
    """Return `zh` for a text with a Chinese character, else `en`."""
    return "zh" if re.search("[\u4e00-\u9fff]", text) else "en"


def divide(path: Path, output: Path) -> None:
    """Write the rows of one file to one file per language."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    for name in ("en", "zh"):
        with (output / f"{path.stem}.{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(row for row in rows if language(row[0]) == name)


def main() -> None:
    """Divide all three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        divide(REVIEWS / f"{split}.csv", output)


if __name__ == "__main__":
    main()
