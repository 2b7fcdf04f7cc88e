"""A data set that is more than one plain file: each gives the same eight rows, and class names are kept."""

from __future__ import annotations

import pytest

from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source

ROWS = {(f"a {kind} {noun}", kind == "good") for kind in ("good", "poor") for noun in ("film", "book", "song", "play")}
SPECS = {
    "saved": ["poor", "good"],
    "saved/train": ["poor", "good"],
    "hf:saved": ["poor", "good"],
    "hf:{case}/saved": ["poor", "good"],
    "shards": None,
    "shards/*.parquet": None,
    "train.csv.gz": None,
    "records.json": None,
    "data.json": None,
}


@pytest.mark.parametrize("spec", SPECS)
def test_folders_and_compressed_files(case, spec, monkeypatch):
    monkeypatch.chdir(case)
    source = open_source(spec.format(case=case), DataConfig(), role="train", labelled=True)
    parts = list(source.parts())
    found = {(text, int(label) == 1) for part in parts for text, label in zip(part.texts, part.labels, strict=True)}
    assert found == ROWS
    assert sum(map(len, parts)) == 8
    assert {tuple(part.label_names or ()) for part in parts} == {tuple(SPECS[spec] or ())}
