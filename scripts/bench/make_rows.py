"""Write a csv of synthetic English rows, for measurements of memory and time: about ten words and one of four labels."""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

_TEXT = (
    "the a of and to in is it that was for on with as this but film movie story plot acting scene music end time life "
    "people work service price room food staff day place team report market company price growth deal bank club match "
    "player season goal coach city river road train light night summer winter good bad fine poor great awful slow quick "
    "early late never always often again still almost really very quite rather surprisingly disappointing entertaining "
    "unforgettable predictable reasonable comfortable expensive delicious friendly international performance"
)
WORDS = _TEXT.split()
LABELS = ("film", "food", "sport", "trade")


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """Write `count` rows of 4 to 16 words; the same seed gives the same rows."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for _ in range(count):
            writer.writerow((" ".join(rng.choices(WORDS, k=rng.randint(4, 16))), rng.choice(LABELS)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("rows", type=int)
    values = parser.parse_args()
    write_rows(values.output, values.rows)
