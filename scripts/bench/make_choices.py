"""Make questions with choices of labelled texts: which one has this label? To compare multiple choice with its peer.

  python scripts/bench/make_choices.py --data SST-2/train.tsv --label 1 --question "a good review :" --output train.csv

Each row has a question and four texts of the file, of which one has the label.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from examples import read_tsv

CHOICES = 4


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="TSV with raw fields")
    parser.add_argument("--text", default="sentence")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--label", required=True, help="of the right choice")
    parser.add_argument("--question", required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Write the file."""
    values = parse_arguments()
    rows = read_tsv(values.data, values.text, values.label_column, None, None)
    right = [text for text, label in rows if label == values.label]
    wrong = [text for text, label in rows if label != values.label]
    draw = random.Random(values.seed)
    with values.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", *(f"ending{i}" for i in range(CHOICES)), "label"])
        for _ in range(values.rows):
            choices, place = draw.sample(wrong, CHOICES - 1), draw.randrange(CHOICES)
            choices.insert(place, draw.choice(right))
            writer.writerow([values.question, *choices, place])
    print(f"{values.rows} questions in {values.output}")


if __name__ == "__main__":
    main()
