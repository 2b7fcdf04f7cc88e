"""Excel's exports: every variant gives the same rows."""

from __future__ import annotations

import pytest
from tables import read

from jaxbert.config import DataConfig

ROWS = [
    ("Lieferung kam schnell, alles gut", "gut"),
    ("Leider kaputt; sehr schade", "schlecht"),
    ("Zeile eins\nZeile zwei", "gut"),
    ("Nie wieder", "schlecht"),
] * 3
SAID = {
    "semicolon": ["the fields are separated by a semicolon, not by a comma"],
    "empty-rows": ["2 empty rows at the end left out"],
    "empty-columns": ["2 empty columns at the right left out"],
    "utf16": ["the fields are separated by a tab, not by a comma"],
    "sep-line": ["the fields are separated by a comma, as the first line says"],
    "twice": [],
}


@pytest.mark.parametrize("name", SAID)
def test_excels_exports(case, name, caplog):
    path = str(case / f"{name}.csv")
    table = read(path, DataConfig(), role="train", labelled=True)
    one_line = [(text.replace("\n", " ") if name == "utf16" else text, label) for text, label in ROWS]
    found = [(text.replace("\r\n", "\n"), label) for text, label in zip(table.texts, table.labels, strict=True)]
    if name == "utf16":  # Excel writes the first of the two lines alone
        one_line = [(text.removesuffix(" Zeile zwei"), label) for text, label in one_line]
    assert found == one_line
    assert [message.removeprefix(f"{path}: ") for message in caplog.messages] == SAID[name]
