"""The draws of few labelled rows that the measurements share: SST-2 and THUCNews, some rows of each class, from a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Rows = list[dict[str, str]]
FILES = {
    "sst2": ("glue_SST-2/train.tsv", "glue_SST-2/dev.tsv"),
    "thucnews": ("thucnews/train.txt", "thucnews/test.txt"),
}
"""The training rows and the rows to evaluate on of each data set, below the folder of the data."""
EVALUATED = 2000
"""The most rows to evaluate on: the first ones."""


def read_rows(folder: Path, name: str) -> tuple[Rows, Rows]:
    """Return the training rows of a data set, and those to evaluate on, each with `text` and `label`."""
    files = ((folder / file).read_text("utf-8").splitlines()[name == "sst2" :] for file in FILES[name])
    train, test = ([dict(zip(("text", "label"), line.rsplit("\t", 1), strict=True)) for line in file] for file in files)
    return train, test[:EVALUATED]


def draw(rows: Rows, per_class: int, number: int) -> tuple[Rows, Rows]:
    """Return `per_class` rows of each class, class after class in sorted order, and the rows that were not drawn."""
    random, labels = np.random.default_rng(number), np.array([row["label"] for row in rows])
    chosen = np.concatenate(
        [random.choice(np.flatnonzero(labels == label), per_class, replace=False) for label in np.unique(labels)]
    )
    taken = set(chosen.tolist())
    return [rows[place] for place in chosen], [row for place, row in enumerate(rows) if place not in taken]
