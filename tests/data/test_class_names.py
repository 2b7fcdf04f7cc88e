"""A data set's own names for its integers are found wherever it keeps them, and decide."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import read

from jaxbert.config import DataConfig
from jaxbert.data.hub import class_names, parquet_features
from jaxbert.data.records import open_records
from jaxbert.errors import UserError

NAMES = ["neg", "pos"]
LABEL = {"names": NAMES, "_type": "ClassLabel"}
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": LABEL,
    "listed": {"feature": LABEL, "_type": "List"},
    "old": {"feature": LABEL, "length": -1, "id": None, "_type": "Sequence"},
    "twice": {"feature": {"feature": LABEL, "_type": "LargeList"}, "_type": "List"},
    "python": [LABEL],
    "inside": {"label": LABEL, "score": {"dtype": "float32", "_type": "Value"}},
    "spans": {"feature": {"start": {"dtype": "int32", "_type": "Value"}, "label": LABEL}, "_type": "List"},
    "counted": {"num_classes": 2, "names": None, "_type": "ClassLabel"},
    "a.b": LABEL,
}
PLACES = ["label", "listed", "old", "twice", "python", "inside.label", "spans.label", "a.b"]


def test_names_are_found_in_lists_and_in_other_features():
    assert {place: class_names(FEATURES, place) for place in PLACES} == dict.fromkeys(PLACES, NAMES)
    assert class_names(FEATURES, "counted") == ["0", "1"]
    for place in ("text", "nowhere", "inside.score", "inside.label.more", "listed.label"):
        assert class_names(FEATURES, place) is None


def test_names_are_found_in_features_of_datasets():
    datasets = pytest.importorskip("datasets")
    plain = {name: feature for name, feature in FEATURES.items() if name != "counted"}
    features = datasets.Features.from_dict(json.loads(json.dumps(plain)))
    assert {place: class_names(features, place) for place in PLACES} == dict.fromkeys(PLACES, NAMES)
    assert class_names(features, "text") is None


def write(path, columns: dict, metadata: bytes | None):
    table = pa.table(columns)
    pq.write_table(table if metadata is None else table.replace_schema_metadata({b"huggingface": metadata}), path)
    return str(path)


def test_parquet_files_of_the_datasets_library_name_their_integers(tmp_path):
    metadata = json.dumps({"info": {"features": FEATURES}}).encode()
    columns = {"text": ["a", "b"], "label": [1, 0], "listed": [[0, 1], [1]]}
    named = write(tmp_path / "named.parquet", columns, metadata)
    table = read(named, DataConfig(), role="train", labelled=True)
    assert (table.labels, table.label_names) == ([1, 0], NAMES)
    assert open_records(named, "train", DataConfig()).label_names("listed") == NAMES
    for broken in (None, b"{", b"[]", b'{"info": {"features": 3}}', b'{"info": null}'):
        path = write(tmp_path / "plain.parquet", columns, broken)
        assert read(path, DataConfig(), role="train", labelled=True).label_names is None
    assert parquet_features(None) == {}
    hidden = write(tmp_path / "hidden.parquet", {**columns, "label": [-1, -1]}, metadata)
    assert read(hidden, DataConfig(), role="test", labelled=None).labels is None
    with pytest.raises(UserError, match="no labels: every value of column 'label' is -1"):
        read(hidden, DataConfig(), role="test", labelled=True)
