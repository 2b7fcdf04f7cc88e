"""Damaged examples: csv, tsv, JSON lines, plain text and parquet, read in every way that the options allow."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_mutations import damage_bytes, damage_value, set_keys, write_json

from jaxbert.config import DataConfig
from jaxbert.data.label_column import LabelColumn, LabelRules, Labels
from jaxbert.data.labels import fit_labels
from jaxbert.data.sources import open_source

_ROWS = [
    {"text": text, "label": label, "pair": "a pair"}
    for text, label in (
        ("a good day", "good"),
        ('he said "no", twice', "bad"),
        ("caf\u00e9 \u4e2d\u6587 \U0001f600", "good"),
        ("two\nlines", "bad"),
    )
]
_WORDS = (
    b'"',
    b'""',
    b",",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    b"\xe2\x80\xa8",
    b" ",
    b"-1",
    b"nan",
)
_JSON_WORDS = (
    "text",
    "label",
    "pair",
    12345678901234567890,
    1.0,
    "1",
    "-1",
    0,
    1,
    True,
    float("nan"),
    [1],
    {"a": 1},
    "\ud83d",
)
_KINDS = (".csv", ".csv", ".tsv", ".jsonl", ".jsonl", ".txt", ".parquet")


def _delimited(separator: str) -> bytes:
    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in '",\n\t') else text

    lines = [separator.join(_ROWS[0]), *(separator.join(map(field, row.values())) for row in _ROWS)]
    return ("\n".join(lines) + "\n").encode()


class Tables:
    """One file, and the options with which it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        parquet = io.BytesIO()
        pq.write_table(pa.table({name: [row[name] for row in _ROWS] for name in _ROWS[0]}), parquet)
        self._seeds = {
            ".csv": _delimited(","),
            ".tsv": _delimited("\t"),
            ".jsonl": "".join(json.dumps(row) + "\n" for row in _ROWS).encode(),
            ".txt": "".join(row["text"].replace("\n", " ") + "\n" for row in _ROWS).encode(),
            ".parquet": parquet.getvalue(),
        }
        self.path = folder / "none"
        self._options: dict = {}

    def write(self, rng: Random) -> list[Path]:
        """Write a damaged file and choose how it is read."""
        kind = rng.choice(_KINDS)
        if kind == ".jsonl" and rng.random() < 0.6:
            rows = [rng.choice((row, damage_value(rng, row, _JSON_WORDS))) for row in _ROWS]
            if rng.random() < 0.3:
                rows = [set_keys(rng, row, ("label", "label", "text"), _JSON_WORDS) for row in _ROWS]
            content = b"\n".join(write_json(rng, row).replace(b"\n", b"") for row in rows)
        else:
            content = damage_bytes(rng, self._seeds[kind], _WORDS)
        self.path = self._folder / f"data{kind}"
        self.path.write_bytes(content)
        self._options = {
            "role": rng.choice(("train", "predict")),
            "labelled": rng.choice((True, None, False)),
            "limit": rng.choice((None, None, 1, 2)),
            "data": DataConfig(
                text_pair=rng.choice((None, None, "pair")),
                columns=rng.choice((None, None, None, ["text", "label", "pair"], ["text", "label"])),
                quoting=rng.choice(("csv", "csv", "none")),
            ),
        }
        return [self.path]

    def read(self) -> None:
        """Read it to its end, and decide on the labels."""
        source = open_source(str(self.path), **self._options)
        column, rows = LabelColumn(source.wanted, source.name), 0
        codes = []
        for part in source.parts():
            rows += len(part)
            codes.append(column.add(part))
        assert rows
        vocabulary = column.finish()
        if vocabulary is not None:
            fit_labels(
                Labels(np.concatenate(codes), vocabulary, source.name), LabelRules.of(self._options["data"]), None
            )
