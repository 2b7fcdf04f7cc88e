"""Sources read to their end, for tests that look at what was read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.data.label_column import LabelColumn, Labels
from jaxbert.data.sources import open_source
from jaxbert.data.table import Table, Wanted


def read(spec: str, data: DataConfig, **options: Any) -> Table:
    """Read a whole source into one table, whose labels are what the codes stand for."""
    source = open_source(spec, data, **options)
    return whole(source.parts(), source.wanted, source.name)


def whole(parts: Iterable[Table], wanted: Wanted, name: str) -> Table:
    """Put parts together."""
    column, codes, tables = LabelColumn(wanted, name), [], []
    for part in parts:
        tables.append(part)
        codes.append(column.add(part))
    vocabulary = column.finish()
    chained = itertools.chain.from_iterable
    return Table(
        texts=list(chained(table.texts for table in tables)),
        pairs=None if tables[0].pairs is None else list(chained(table.pairs or [] for table in tables)),
        labels=None if vocabulary is None else [vocabulary.values[code] for code in chained(codes)],
        label_names=None if vocabulary is None else vocabulary.names,
        source=name,
        rows=list(chained(table.rows for table in tables)),
    )


def make_labels(
    values: Sequence[str | int], names: list[str] | None = None, source: str = "train.csv", first_row: int = 2
) -> Labels:
    """Return the labels of a source that has these, from `first_row` on."""
    wanted = Wanted("text", None, "label", labelled=True)
    rows = range(first_row, first_row + len(values))
    column = LabelColumn(wanted, source)
    codes = column.add(Table(["t"] * len(values), None, values, names, source, rows))
    vocabulary = column.finish()
    assert codes is not None
    assert vocabulary is not None
    return Labels(codes, vocabulary, source)
