"""Draw a few labelled rows of each class, the same for every method, and keep results so that a stopped measurement goes on.

Used by few_labels.py, few_gains.py, harder_losses.py and peer_setfit.py; only the standard library, because they run in
different environments.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

THUCNEWS_NAMES = (
    *("finance", "realty", "stocks", "education", "science"),
    *("society", "politics", "sports", "game", "entertainment"),
)


Rows = list[dict[str, str]]


class Source(NamedTuple):
    """One data set: files in its folder, and how they are read."""

    train: str
    evaluation: str
    header: bool
    names: tuple[str, ...]
    """The names of the labels 0, 1, ..."""
    rows: int
    """How many rows of the evaluation file count, evenly spread over it."""
    max_length: int


SOURCES = {
    "sst2": Source("train.tsv", "dev.tsv", True, ("negative", "positive"), 872, 64),
    "thucnews": Source("train.txt", "test.txt", False, THUCNEWS_NAMES, 2000, 48),
}


def read_rows(source: Source, path: Path) -> Rows:
    """Return the texts of a file with the names of their labels."""
    lines = path.read_text("utf-8").split("\n")[int(source.header) :]
    pairs = (line.rstrip("\r").rpartition("\t") for line in lines if line)
    return [{"text": text.strip(), "label": source.names[int(label)]} for text, _, label in pairs]


def spread_rows(rows: Rows, count: int) -> Rows:
    """Return about `count` rows, evenly spread over a file, which may be sorted by label."""
    return rows[:: max(1, len(rows) // count)][:count]


def read_set(name: str, folder: Path) -> tuple[Rows, Rows]:
    """Return the training rows of a data set, and those to evaluate on."""
    source = SOURCES[name]
    return read_rows(source, folder / source.train), spread_rows(
        read_rows(source, folder / source.evaluation), source.rows
    )


def draw_rows(rows: Rows, names: tuple[str, ...], count: int, draw: int) -> Rows:
    """Return `count` rows of each label, no text twice; the same rows for the same draw."""
    order = random.Random(draw).sample(range(len(rows)), len(rows))
    taken: dict[str, Rows] = {name: [] for name in names}
    seen = set()
    for index in order:
        row = rows[index]
        if row["text"] not in seen and len(taken[row["label"]]) < count:
            taken[row["label"]].append(row)
            seen.add(row["text"])
        if all(len(found) == count for found in taken.values()):
            break
    return [row for found in taken.values() for row in found]


def write_draws(values: argparse.Namespace) -> tuple[Path, dict[tuple[int, int], Path]]:
    """Write the rows to evaluate and the draws that are not there yet; return their paths by (count, draw)."""
    source, folder = SOURCES[values.data], values.output / "draws"
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = folder / f"{values.data}-judged.jsonl"
    _write(evaluation, lambda: spread_rows(read_rows(source, values.folder / source.evaluation), source.rows))
    paths = {
        (count, draw): folder / f"{values.data}-{count}-{draw}.jsonl"
        for count in values.counts
        for draw in values.draws
    }
    if not all(path.exists() for path in paths.values()):
        rows = read_rows(source, values.folder / source.train)
        for (count, draw), path in paths.items():
            _write(path, lambda count=count, draw=draw: draw_rows(rows, source.names, count, draw))
    return evaluation, paths


def _write(path: Path, rows: Any) -> None:
    if not path.exists():
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()), "utf-8")


def read_draw(path: Path) -> Rows:
    """Return the rows of a file that `write_draws` wrote."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all methods share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SOURCES), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="the folder of the data set's files")
    parser.add_argument("--model", required=True, help="a folder in Hugging Face's format")
    parser.add_argument("--output", type=Path, required=True, help="a folder for the draws and results.jsonl")
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 64], help="labels of each class")
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(10)), help="numbers of the draws")
    return parser


Key = tuple[str, int, int, str]


def key_of(line: dict[str, Any]) -> Key:
    """Return what names a result: data, labels a class, draw, method."""
    return line["data"], line["count"], line["draw"], line["method"]


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the results that stand in the folder."""
    path = folder / "results.jsonl"
    if path.exists():
        yield from map(json.loads, path.read_text("utf-8").splitlines())


def keep(folder: Path, line: dict[str, Any]) -> None:
    """Append a result, and print it."""
    text = json.dumps(line, ensure_ascii=False)
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text, flush=True)
