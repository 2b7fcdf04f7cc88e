"""The names that a data set itself gives to the integers in a column, wherever it keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LISTS = ("List", "LargeList", "Sequence")


def class_names(features: Mapping[str, Any], column: str) -> list[str] | None:
    """Return the names for the integers of a column, also those inside of lists; None where there are none.

    Args:
      features: of a data set of `datasets` or of TFDS, or what `parquet_features` has found.
      column: its name; `a.b` for what is inside of the column `a`.
    """
    feature: Any = features
    for part in [column] if column in features else column.split("."):
        inner = _without_lists(feature)
        feature = inner.get(part) if isinstance(inner, Mapping) else None
    feature = _without_lists(feature)
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        names = feature.get("names") or range(feature.get("num_classes") or 0)
    else:
        names = feature.names if type(feature).__name__ == "ClassLabel" else ()
    return [str(name) for name in names] or None


def _without_lists(feature: Any) -> Any:
    """Return what a feature is made of."""
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") in _LISTS:
            feature = feature.get("feature")
        elif (inner := getattr(feature, "feature", None)) is not None:
            feature = inner
        else:
            return feature


def parquet_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return the features that the datasets library left in the metadata of a parquet file; nothing where there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
